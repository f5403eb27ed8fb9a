"""The RPN's head: at all positions for proposals, only at sampled anchors for the losses.

A few hundred of many thousand positions enter the losses. Computed there alone, with the 3x3 neighbourhood that the
last conv sees, losses and gradients are the same. The backward pass through the network's largest conv is gone: a tenth
of a training step.
"""

from collections.abc import Iterable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead

from maskrcnn_train.model.kept import KeptByShape
from maskrcnn_train.model.modes import compute_dtype, is_tracing
from maskrcnn_train.model.pyramid import Pyramid

KEPT_SHAPES = 8  # of batches whose neighbourhoods are kept: about 6 MB each at 800 x 1344


class SampledRPNHead(RPNHead):  # type: ignore[misc]
    """torchvision's head and its parameter names. `hidden` -> `predict_all` and `predict_sampled`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept = KeptByShape[Tensor](KEPT_SHAPES)

    def hidden(self, features: Pyramid) -> Pyramid:
        """What the last conv of the head sees: the features themselves if it is the only one."""
        before = self.conv[:-1]
        return Pyramid(before(feature) for feature in features) if len(before) else features

    def predict_all(self, hidden: Pyramid) -> tuple[Tensor, Tensor]:
        """Logits [N, A] and deltas [N, A, 4] of all anchors, level by level, without gradient."""
        images = hidden[0].shape[0]
        with torch.no_grad():
            outputs = map(self._traced, hidden) if is_tracing() else self._of_rows(hidden)
            logits, deltas = ([level.reshape(images, -1) for level in levels] for levels in zip(*outputs, strict=True))
            return torch.cat(logits, dim=1), torch.cat(deltas, dim=1).unflatten(1, (-1, 4))

    def _traced(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and deltas of one level, positions first, by the layers themselves."""
        logits, deltas = self(hidden)
        return logits.permute(0, 2, 3, 1), deltas.permute(0, 2, 3, 1)

    def _of_rows(self, hidden: Pyramid) -> Iterable[tuple[Tensor, Tensor]]:
        """Logits and deltas of each level, positions first. The 1 x 1 convs are products with the pixels of all."""
        # detached: autocast would keep the weights that it converts here, and use them where a gradient is due
        dtype = compute_dtype(hidden[0])
        layers = cast(nn.Conv2d, self.conv[-1][0]), self.cls_logits, self.bbox_pred
        conv, scores, moves = ([each.detach().to(dtype) for each in layer.parameters()] for layer in layers)
        last = Pyramid(F.conv2d(each, conv[0], conv[1], padding=1) for each in hidden)
        pixels, counts = F.relu_(last.rows[:-1]), [level[:, 0].numel() for level in last]
        outputs = (F.linear(pixels, weight.flatten(1), bias).split(counts) for weight, bias in (scores, moves))
        return zip(*outputs, strict=True)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, R, H, W] and deltas [N, 4 R, H, W] of one level."""
        last = self.conv[-1](hidden)
        return self.cls_logits(last), self.bbox_pred(last)

    def predict_sampled(self, hidden: Pyramid, sampled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [S] and deltas [S, 4] of the anchors `sampled`: int64 [S], indices into images x all anchors."""
        ratios, sizes, images = self.cls_logits.out_channels, hidden.sizes, hidden[0].shape[0]
        shapes = (images, *sizes, sampled.device)
        table = self._kept.get(shapes, lambda: _neighbours(sizes, images, sampled.device))
        anchors = table.shape[1] * ratios  # of an image
        image, position, ratio = sampled // anchors, sampled % anchors // ratios, (sampled % ratios)[:, None]
        first, step = table[:, position]
        rows = first + image[:, None] * step
        last = self._last_conv(hidden.rows.index_select(0, rows.flatten()).unflatten(0, (-1, 9)))
        logits = F.linear(last, self.cls_logits.weight.flatten(1), self.cls_logits.bias)
        deltas = F.linear(last, self.bbox_pred.weight.flatten(1), self.bbox_pred.bias).unflatten(1, (ratios, 4))
        return logits.gather(1, ratio)[:, 0], deltas.gather(1, ratio[..., None].expand(-1, 1, 4))[:, 0]

    def _last_conv(self, patches: Tensor) -> Tensor:
        """The last conv and its ReLU [S, C] on neighbourhoods [S, 9, C]."""
        conv = cast(nn.Conv2d, self.conv[-1][0])
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
        return F.relu(F.linear(patches.flatten(1), weight, conv.bias))


def _neighbours(sizes: list[tuple[int, int]], images: int, device: torch.device) -> Tensor:
    """Where the 3 x 3 pixels around each position of an image are in `Pyramid.rows`: int32 [2, P, 9], the rows for the
    first image, and how many rows further those of the next image are. Outside of a map it is the row of zeros."""
    zeros = images * sum(height * width for height, width in sizes)
    first, step, start = [], [], 0
    for height, width in sizes:
        pixels = torch.arange(height * width, dtype=torch.int32, device=device).view(height, width)
        around = F.pad(pixels, (1, 1, 1, 1), value=-1).unfold(0, 3, 1).unfold(1, 3, 1).reshape(-1, 9)
        inside = around >= 0
        first.append(torch.where(inside, around + start, zeros))
        step.append(inside.int() * (height * width))
        start += images * height * width
    return torch.stack((torch.cat(first), torch.cat(step)))
