"""Pooling: the features of boxes of any size and level as P x P maps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_train.model.modes import is_tracing
from maskrcnn_train.model.paths import PathRule, path_for
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.model.roi_align import OUTSIDE, SCALES, PoolingRules, bag_roi_align

# of boxes on P3, P4 and P5: where floor(4 + log2(side / 224)) goes up, the level by the FPN paper's eq. 1. torchvision
# adds 1e-6 to the logarithm, Detectron2 1e-8 to the ratio
SMALLEST_AREAS = {
    "torchvision": [12543.98046875, 50175.9296875, 200703.65625],
    "detectron2": [12543.99609375, 50175.9921875, 200703.90625],
}


class MultiLevelPooler(nn.Module):
    """RoIAlign or RoIPool from P2..P5, each box from the level of its size (level_rule: torchvision, detectron2)."""

    smallest_areas: Tensor

    def __init__(self, *, level_rule: str, path_for: PathRule = path_for, **rules: Any) -> None:
        super().__init__()
        self.rules = PoolingRules(**rules)
        self.register_buffer("smallest_areas", torch.tensor(SMALLEST_AREAS[level_rule]), persistent=False)
        self.level_rule, self.path_for = level_rule, path_for

    def _apply(self, fn: Any, recurse: bool = True) -> MultiLevelPooler:
        """As any module moves or is cast, but for the areas: as float16 the largest would be infinite."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.smallest_areas = torch.tensor(SMALLEST_AREAS[self.level_rule], device=self.smallest_areas.device)
        return self

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
        if is_tracing():  # ONNX has no bucketize
            levels = (areas[:, None] >= self.smallest_areas).sum(dim=1)
        else:
            levels = torch.bucketize(areas, self.smallest_areas, right=True)
        if self.rules.by_bag and len(rois) > 0:
            return bag_roi_align(features, rois, levels, self.rules)
        return self.path_for(rois.device).pool(features[: len(SCALES)], rois, levels, self.rules)
