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
from torchvision.models.detection.rpn import RPNHead

from maskrcnn_train.model.modes import compute_dtype
from maskrcnn_train.structures.waits import send


class SampledRPNHead(RPNHead):  # type: ignore[misc]
    """torchvision's head and its parameter names. `hidden` -> `predict_all` and `predict_sampled`."""

    def hidden(self, features: list[Tensor]) -> list[Tensor]:
        """What the last conv of the head sees: the features themselves if it is the only one."""
        return [cast(Tensor, self.conv[:-1](feature)) for feature in features]

    def predict_all(self, hidden: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits [N, R, H, W] and deltas [N, 4 R, H, W] of each level, without gradient."""
        if not torch.is_grad_enabled():
            outputs = [self(each) for each in hidden]
            return [logits for logits, _ in outputs], [deltas for _, deltas in outputs]
        with torch.no_grad():
            # detached: autocast would keep the weights that it converts here, and use them where a gradient is due
            dtype = compute_dtype(hidden[0])
            layers = cast(nn.Conv2d, self.conv[-1][0]), self.cls_logits, self.bbox_pred
            conv, scores, moves = ([each.detach().to(dtype) for each in layer.parameters()] for layer in layers)
            last = [F.relu_(F.conv2d(each, conv[0], conv[1], padding=1)) for each in hidden]
            logits = [F.conv2d(each, scores[0], scores[1]) for each in last]
            return logits, [F.conv2d(each, moves[0], moves[1]) for each in last]

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, R, H, W] and deltas [N, 4 R, H, W] of one level."""
        last = self.conv[-1](hidden)
        return self.cls_logits(last), self.bbox_pred(last)

    def predict_sampled(self, hidden: list[Tensor], sampled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [S] and deltas [S, 4] of the anchors `sampled`: int64 [S], indices into images x all anchors."""
        ratios = self.cls_logits.out_channels
        last = self._last_conv(_neighbourhoods(hidden, sampled // ratios))
        ratio = (sampled % ratios)[:, None]
        logits = F.linear(last, self.cls_logits.weight.flatten(1), self.cls_logits.bias)
        deltas = F.linear(last, self.bbox_pred.weight.flatten(1), self.bbox_pred.bias).unflatten(1, (ratios, 4))
        return logits.gather(1, ratio)[:, 0], deltas.gather(1, ratio[..., None].expand(-1, 1, 4))[:, 0]

    def _last_conv(self, patches: Tensor) -> Tensor:
        """The last conv and its ReLU [S, C] on neighbourhoods [S, 9, C]."""
        conv = cast(nn.Conv2d, self.conv[-1][0])
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
        return F.relu(F.linear(patches.flatten(1), weight, conv.bias))


def _neighbourhoods(levels: list[Tensor], positions: Tensor) -> Tensor:
    """The 3 x 3 pixels [S, 9, C] around positions of maps [N, C, H, W], zeros outside. Positions are counted image by
    image, then level by level, row by row."""
    pixels = torch.cat([each.permute(0, 2, 3, 1).flatten(0, 2) for each in levels])  # no copy in channels_last
    shapes = [(each.shape[2], each.shape[3]) for each in levels]
    starts = list(accumulate((height * width for height, width in shapes), initial=0))  # of each level in an image
    table = send([(starts[i], len(levels[0]) * starts[i], *shapes[i]) for i in range(len(shapes))], positions.device)
    image, position = positions // starts[-1], positions % starts[-1]
    level = (position[:, None] >= table[1:, 0]).sum(dim=1)
    start, first_pixel, height, width = table[level, :, None, None].unbind(1)
    position = position[:, None, None] - start
    offsets = torch.arange(-1, 2, device=positions.device)
    ys, xs = position // width + offsets[:, None], position % width + offsets
    inside = (ys >= 0) & (ys < height) & (xs >= 0) & (xs < width)
    rows = first_pixel + (image[:, None, None] * height + ys) * width + xs
    patches = pixels.index_select(0, (rows * inside).flatten()).unflatten(0, (-1, 9))
    return cast(Tensor, patches.masked_fill(~inside.flatten(1)[..., None], 0))
