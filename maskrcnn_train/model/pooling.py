"""Pooling: the features of boxes of any size and level as P x P maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_train.model.kept import KeptByShape
from maskrcnn_train.model.modes import is_tracing
from maskrcnn_train.model.paths import PathRule, path_for
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.model.roi_align import OUTSIDE, PoolingRules, pool
from maskrcnn_train.structures.waits import send

SMALLEST_AREAS = {  # of boxes on P3, P4 and P5: where `assign_levels` goes up
    "torchvision": [12543.98046875, 50175.9296875, 200703.65625],
    "detectron2": [12543.99609375, 50175.9921875, 200703.90625],
}


def assign_levels(areas: Tensor, rule: str) -> Tensor:
    """Level of boxes by their areas [K]: int64 [K], 0 for P2 .. 3 for P5; a box of 224 x 224 belongs to P4 (FPN paper,
    eq. 1).

    `torchvision` and `detectron2` add their epsilon in different terms, which matters on a border only.
    """
    sizes = areas.sqrt()
    if rule == "torchvision":
        levels = torch.floor(4 + torch.log2(sizes / 224) + 1e-6)
    else:
        levels = torch.floor(4 + torch.log2(sizes / 224 + 1e-8))
    return levels.clamp(min=2, max=5).long() - 2


class MultiLevelPooler(nn.Module):
    """RoIAlign or RoIPool from P2..P5, each box from the level of its size (level_rule: torchvision, detectron2)."""

    def __init__(self, *, level_rule: str, path_for: PathRule = path_for, **rules: Any) -> None:
        super().__init__()
        self.rules = PoolingRules(**rules)
        self.level_rule = level_rule
        self._kept = KeptByShape[Tensor](most=2)
        self.path_for = path_for

    def forward(self, features: Pyramid, boxes: list[Tensor]) -> Tensor:
        """Maps [K, C, P, P] in the features' dtype of boxes [k_i, 4] of each image, network pixels; K may be 0."""
        images = torch.cat([torch.full_like(each[:, :1], image) for image, each in enumerate(boxes)])
        return self.pool_rois(features, torch.cat([images, torch.cat(boxes)], dim=1))

    def pool_rois(self, features: Pyramid, rois: Tensor) -> Tensor:
        """The same of rois [K, 5] (image, x1, y1, x2, y2). A box that is not finite gives zeros, as torchvision's."""
        rois = rois.float()
        if not is_tracing():
            finite = rois[:, 1:].abs().amax(dim=1, keepdim=True) < torch.inf  # false for nan
            rois = torch.cat((rois[:, :1], torch.where(finite, rois[:, 1:], OUTSIDE)), dim=1)
        areas = (rois[:, 3:] - rois[:, 1:3]).prod(dim=1)
        if is_tracing():
            levels = assign_levels(areas, self.level_rule)
        else:  # the same in one launch
            smallest = self._kept.get(rois.device, lambda: send(SMALLEST_AREAS[self.level_rule], rois.device))
            levels = torch.bucketize(areas, smallest, right=True)
        by_operators = self.path_for(rois.device).pool
        return pool(features, rois, levels, self.rules, by_operators=by_operators)
