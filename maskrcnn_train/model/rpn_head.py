"""The RPN's head: at all positions for proposals, only at sampled anchors for the losses.

A few hundred of many thousand positions enter the losses. Computed there alone, with the 3x3 neighbourhood that the
last conv sees, losses and gradients are the same. The backward pass through the network's largest conv is gone: a tenth
of a training step.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.rpn import RPNHead

from maskrcnn_train.model.kept import KeptByShape
from maskrcnn_train.model.modes import compute_dtype, is_tracing
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.structures.waits import send

NEIGHBOURS = [[-1, -1, -1, 0, 0, 0, 1, 1, 1], [-1, 0, 1] * 3]  # rows and columns from a pixel, in a conv's order
KEPT_SHAPES = 64  # of batches, about 500 bytes each


class SampledRPNHead(RPNHead):  # type: ignore[misc]
    """torchvision's head and its parameter names. `hidden` -> `predict_all` and `predict_sampled`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept = KeptByShape[_Levels](KEPT_SHAPES)

    def hidden(self, features: Pyramid) -> Pyramid:
        """What the last conv of the head sees: the features themselves if it is the only one."""
        before = self.conv[:-1]
        return Pyramid(before(feature) for feature in features) if len(before) else features

    def predict_all(self, hidden: Pyramid) -> tuple[Tensor, Tensor]:
        """Logits [N, A] and deltas [N, A, 4] of all anchors, level by level, without gradient."""
        images = hidden[0].shape[0]
        with torch.no_grad():
            outputs = map(self, hidden) if is_tracing() else self._of_rows(hidden)
            logits, deltas = ([level.reshape(images, -1) for level in levels] for levels in zip(*outputs, strict=True))
            return torch.cat(logits, dim=1), torch.cat(deltas, dim=1).unflatten(1, (-1, 4))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, H, W, R] and deltas [N, H, W, 4 R] of one level, by the layers themselves."""
        last = self.conv[-1](hidden)
        return self.cls_logits(last).permute(0, 2, 3, 1), self.bbox_pred(last).permute(0, 2, 3, 1)

    def _of_rows(self, hidden: Pyramid) -> Iterable[tuple[Tensor, Tensor]]:
        """The same of each level. The 1 x 1 convs are products with the pixels of all."""
        # detached: autocast would keep the weights that it converts here, and use them where a gradient is due
        dtype = compute_dtype(hidden[0])
        layers = cast(nn.Conv2d, self.conv[-1][0]), self.cls_logits, self.bbox_pred
        conv, scores, moves = ([each.detach().to(dtype) for each in layer.parameters()] for layer in layers)
        last = Pyramid(F.conv2d(each, conv[0], conv[1], padding=1) for each in hidden)
        pixels = F.relu_(last.rows[:-1])
        outputs = (F.linear(pixels, weight.flatten(1), bias).split(last.counts) for weight, bias in (scores, moves))
        return zip(*outputs, strict=True)

    def predict_sampled(self, hidden: Pyramid, sampled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [S] and deltas [S, 4] of the anchors `sampled`: int64 [S], indices into images x all anchors."""
        ratios = self.cls_logits.out_channels
        positions = sum(height * width for height, width in hidden.sizes)  # of an image
        image, position = sampled // (positions * ratios), sampled // ratios % positions
        shapes = hidden[0].shape[0], *hidden.sizes, sampled.device
        levels = self._kept.get(shapes, lambda: _Levels.of(hidden, sampled.device))
        last = self._last_conv(_neighbourhoods(hidden, levels, image, position))
        ratio = (sampled % ratios)[:, None]
        logits = F.linear(last, self.cls_logits.weight.flatten(1), self.cls_logits.bias)
        deltas = F.linear(last, self.bbox_pred.weight.flatten(1), self.bbox_pred.bias).unflatten(1, (ratios, 4))
        return logits.gather(1, ratio)[:, 0], deltas.gather(1, ratio[..., None].expand(-1, 1, 4))[:, 0]

    def _last_conv(self, patches: Tensor) -> Tensor:
        """The last conv and its ReLU [S, C] on neighbourhoods [S, 9, C]."""
        conv = cast(nn.Conv2d, self.conv[-1][0])
        weight = conv.weight.permute(0, 2, 3, 1).flatten(1)
        return F.relu(F.linear(patches.flatten(1), weight, conv.bias))


@dataclass(frozen=True)
class _Levels:
    """Where the pixels of each level are. Positions of an image are counted level by level, row by row.

    table: int64 [L, 6], positions before a level, its first row in `Pyramid.rows`, its pixels in an image, its width,
    its last row and column; firsts: int64 [L - 1], positions before each level but the first; around: int64 [2, 9].
    """

    table: Tensor
    firsts: Tensor
    around: Tensor

    @classmethod
    def of(cls, maps: Pyramid, device: torch.device) -> _Levels:
        firsts = [start // maps[0].shape[0] for start in maps.starts]
        places = zip(firsts, maps.starts, maps.sizes, strict=False)
        table = [(first, start, h * w, w, h - 1, w - 1) for first, start, (h, w) in places]
        return cls(*(send(values, device) for values in (table, firsts[1:-1], NEIGHBOURS)))


def _neighbourhoods(maps: Pyramid, levels: _Levels, image: Tensor, position: Tensor) -> Tensor:
    """The 3 x 3 pixels [S, 9, C] around positions of images, both int64 [S]; zeros outside of a map."""
    own = levels.table[torch.bucketize(position, levels.firsts, right=True)]
    first, start, pixels, width = own[:, :4].unbind(1)
    local = position - first
    wanted = torch.stack((local // width, local % width))[..., None] + levels.around[:, None]  # [2, S, 9]
    there = torch.minimum(wanted.clamp(min=0), own[:, 4:].T[..., None])
    of_image = torch.addcmul(start, image, pixels)[:, None]
    rows = torch.addcmul(of_image, there[0], width[:, None]) + there[1]
    rows = torch.where((there == wanted).all(dim=0), rows, maps.starts[-1])  # the row of zeros
    return cast(Tensor, maps.rows.index_select(0, rows.flatten()).unflatten(0, (-1, 9)))
