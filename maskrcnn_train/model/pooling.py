"""Pooling: the features of boxes of any size and level as P x P maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from maskrcnn_train.model.modes import is_tracing
from maskrcnn_train.model.roi_align import bag_roi_align
from maskrcnn_train.settings.schema import PoolerConfig

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]  # P2..P5; P6 serves the RPN only


def assign_levels(boxes: Tensor, rule: str) -> Tensor:
    """Level of each box [K, 4]: int64 [K], 0 for P2 .. 3 for P5; a box of 224 x 224 belongs to P4 (FPN paper, eq. 1).

    `torchvision` and `detectron2` add their epsilon in different terms, which matters on a border only.
    """
    sizes = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
    if rule == "torchvision":
        levels = torch.floor(4 + torch.log2(sizes / 224) + 1e-6)
    else:
        levels = torch.floor(4 + torch.log2(sizes / 224 + 1e-8))
    return levels.clamp(min=2, max=5).long() - 2


class MultiLevelPooler(nn.Module):
    """RoIAlign or RoIPool from P2..P5, each box from the level of its size.

    type: align, pool. sampling_ratio: samples per bin and axis, 0 = one a feature pixel; aligned: shift by half a
    pixel; neither concerns `pool`. level_rule: torchvision, detectron2.
    """

    def __init__(self, *, type: str, resolution: int, sampling_ratio: int, aligned: bool, level_rule: str) -> None:
        super().__init__()
        self.kind = type
        self.resolution = resolution
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned
        self.level_rule = level_rule

    def forward(self, features: list[Tensor], boxes: list[Tensor]) -> Tensor:
        """Maps [K, C, P, P] in the features' dtype of boxes [k_i, 4] of each image, network pixels; K may be 0."""
        images = [torch.full_like(each[:, :1], image) for image, each in enumerate(boxes)]
        rois = torch.cat([torch.cat(images), torch.cat(boxes)], dim=1).float()
        levels = assign_levels(rois[:, 1:], self.level_rule)
        features = features[: len(SCALES)]
        if self._by_bag(rois):
            return bag_roi_align(
                features,
                rois,
                levels,
                scales=SCALES,
                resolution=self.resolution,
                sampling_ratio=self.sampling_ratio,
                aligned=self.aligned,
            )
        return self._pool_by_level(features, rois, levels)

    def _by_bag(self, rois: Tensor) -> bool:
        if is_tracing():  # other runtimes know the operator
            return False
        return self.kind == "align" and self.sampling_ratio > 0 and rois.device.type == "cpu" and len(rois) > 0

    def _pool_by_level(self, features: list[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
        pooled, rows = [], []
        for level, feature in enumerate(features):
            own = torch.where(levels == level)[0]
            rows.append(own)
            pooled.append(self._pool(feature.float(), rois[own], SCALES[level]))
        return torch.cat(pooled)[torch.cat(rows).argsort()].to(features[0].dtype)

    def _pool(self, feature: Tensor, rois: Tensor, scale: float) -> Tensor:
        with torch.autocast(feature.device.type, enabled=False):  # the operators want float32 on both sides
            if self.kind == "pool":
                result: Tensor = roi_pool(feature, rois, self.resolution, scale)
            else:
                result = roi_align(feature, rois, self.resolution, scale, self.sampling_ratio, self.aligned)
        return result


def build_pooler(section: PoolerConfig, *, level_rule: str) -> MultiLevelPooler:
    """The pooler that the section describes."""
    return MultiLevelPooler(
        type=section.type,
        resolution=section.resolution,
        sampling_ratio=section.sampling_ratio,
        aligned=section.aligned,
        level_rule=level_rule,
    )
