"""Overlaps of boxes, as in `boxes.py` to the bit, in fewer launches: both axes at once, which would not stay in a
processor's cache."""

from __future__ import annotations

import torch
from torch import Tensor


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU [..., N, M] of boxes [..., N, 4] and [..., M, 4]."""
    intersections = _intersections(first, second)
    both = _areas(first)[..., None] + _areas(second)[..., None, :]
    return intersections.div_(both.sub_(intersections))


def pairwise_coverage(first: Tensor, second: Tensor) -> Tensor:
    """The share [..., N, M] of each box of `second` [..., M, 4] that each of `first` [..., N, 4] covers."""
    return _intersections(first, second).div_(_areas(second)[..., None, :])


def _intersections(first: Tensor, second: Tensor) -> Tensor:
    """Areas [..., N, M] common to boxes [..., N, 4] and [..., M, 4]."""
    low, high = first.movedim(-1, 0)[..., None].split(2)
    other_low, other_high = second.movedim(-1, 0)[..., None, :].split(2)
    if first.dim() > second.dim():  # the same for all images
        other_low, other_high = other_low.unsqueeze(1), other_high.unsqueeze(1)
    sides = torch.minimum(high, other_high).sub_(torch.maximum(low, other_low)).clamp_(min=0)
    return sides[0] * sides[1]


def _areas(boxes: Tensor) -> Tensor:
    widths, heights = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return widths * heights
