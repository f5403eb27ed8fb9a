"""Pooling by torchvision's operators without asking which box belongs to which level."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn_train.model.roi_align import OUTSIDE, SCALES, PoolingRules


def pool_by_level(features: list[Tensor], rois: Tensor, levels: Tensor, rules: PoolingRules) -> Tensor:
    """Maps [K, C, P, P] of rois [K, 5], each from its level, int64 [K].

    Every level pools all boxes, those of other levels far outside, where the operators give zeros at once.
    """
    pooled: Tensor | None = None
    outside = torch.cat((rois[:, :1], torch.full_like(rois[:, 1:], OUTSIDE)), dim=1)
    with torch.autocast(rois.device.type, enabled=False):
        for level, (feature, scale) in enumerate(zip(features, SCALES, strict=True)):
            own = torch.where((levels == level)[:, None], rois, outside)
            # the operators know neither bfloat16 nor channels_last
            maps = rules.pool(feature.to(torch.float32, memory_format=torch.contiguous_format), own, scale)
            pooled = maps if pooled is None else pooled + maps
    assert pooled is not None
    return pooled.to(features[0].dtype)
