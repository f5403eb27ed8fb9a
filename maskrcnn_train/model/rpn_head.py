"""The RPN's head: at all positions for proposals, only at sampled anchors for the losses.

A few hundred of many thousand positions enter the losses. Computed there alone, with the 3x3 neighbourhood that the
last conv sees, losses and gradients are the same. The backward pass through the network's largest conv is gone: a tenth
of a training step.
"""

from itertools import accumulate
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models.detection.rpn import RPNHead

from maskrcnn_train.model.modes import is_tracing


class SampledRPNHead(RPNHead):  # type: ignore[misc]
    """torchvision's head and its parameter names. `hidden` -> `predict_all` and `predict_sampled`."""

    def hidden(self, features: list[Tensor]) -> list[Tensor]:
        """What the last conv of the head sees: the features themselves if it is the only one."""
        return [cast(Tensor, self.conv[:-1](feature)) for feature in features]

    def predict_all(self, hidden: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits [N, R, H, W] and deltas [N, 4 R, H, W] of each level, without gradient."""
        if is_tracing():  # which functional_call does not allow
            outputs = [self(each) for each in hidden]
        else:
            with torch.no_grad():
                # detached: autocast would keep the weights that it converts here, and use them where a gradient is due
                weights = {name: parameter.detach() for name, parameter in self.named_parameters()}
                outputs = [functional_call(self, weights, (each,)) for each in hidden]
        return [logits for logits, _ in outputs], [deltas for _, deltas in outputs]

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, R, H, W] and deltas [N, 4 R, H, W] of one level."""
        last = self.conv[-1](hidden)
        return self.cls_logits(last), self.bbox_pred(last)

    def predict_sampled(self, hidden: list[Tensor], sampled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [S] and deltas [S, 4] of the anchors `sampled`: int64 [S], indices into images x all anchors."""
        ratios = self.cls_logits.out_channels
        sizes = [each.shape[2] * each.shape[3] * ratios for each in hidden]
        image, anchor = sampled // sum(sizes), sampled % sum(sizes)
        logits, deltas, order = [], [], []
        for level, start, size in zip(hidden, accumulate([0, *sizes[:-1]]), sizes, strict=True):
            own = torch.where((anchor >= start) & (anchor < start + size))[0]
            position, ratio = (anchor[own] - start) // ratios, (anchor[own] - start) % ratios
            last = self._last_conv_at(level, image[own], position)
            rows = torch.arange(len(own), device=own.device)
            logits.append(_one_by_one(self.cls_logits, last)[rows, ratio])
            deltas.append(_one_by_one(self.bbox_pred, last).unflatten(1, (ratios, 4))[rows, ratio])
            order.append(own)
        back = torch.cat(order).argsort()
        return torch.cat(logits)[back], torch.cat(deltas)[back]

    def _last_conv_at(self, level: Tensor, image: Tensor, position: Tensor) -> Tensor:
        """The last conv and its ReLU [S, C] at positions (counted row by row) of a level [N, C, H, W]."""
        conv = cast(nn.Conv2d, self.conv[-1][0])
        channels, height, width = level.shape[1:]
        rows = level.permute(0, 2, 3, 1).reshape(-1, channels)  # no copy in channels_last
        offsets = torch.arange(-1, 2, device=position.device)
        ys = (position // width)[:, None, None] + offsets[:, None]
        xs = (position % width)[:, None, None] + offsets
        inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
        indices = (image[:, None, None] * height + ys.clamp(0, height - 1)) * width + xs.clamp(0, width - 1)
        patches = rows.index_select(0, indices.flatten()).view(len(position), 9, channels)
        patches = patches * inside.flatten(1)[..., None].to(patches.dtype)
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
        return F.relu(F.linear(patches.flatten(1), weight, conv.bias))


def _one_by_one(conv: nn.Conv2d, hidden: Tensor) -> Tensor:
    """A 1x1 conv on rows [S, C]."""
    return F.linear(hidden, conv.weight.flatten(1), conv.bias)
