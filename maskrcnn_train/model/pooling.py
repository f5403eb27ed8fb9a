"""Pooling: the features of boxes of any size and level as P x P maps."""

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from maskrcnn_train.model.modes import is_tracing
from maskrcnn_train.model.roi_align import bag_roi_align

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]  # P2..P5; P6 serves the RPN only
OUTSIDE = -1e6  # pixels: a box out there pools zeros from every map


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
        """Maps [K, C, P, P] in the features' dtype of boxes [k_i, 4] of each image, network pixels; K may be 0.

        A box that is not finite gives zeros, as in torchvision's pooler.
        """
        images = torch.cat([torch.full_like(each[:, :1], image) for image, each in enumerate(boxes)])
        corners = torch.cat(boxes)
        if not is_tracing():
            corners = torch.where(corners.isfinite().all(dim=1, keepdim=True), corners, OUTSIDE)
        rois = torch.cat([images, corners], dim=1).float()
        levels = assign_levels(rois[:, 1:], self.level_rule)
        features = features[: len(SCALES)]
        fixed_samples = self.kind == "align" and self.sampling_ratio > 0
        # a trace keeps torchvision's operator, which other runtimes know
        if not is_tracing() and fixed_samples and rois.device.type == "cpu" and len(rois) > 0:
            sampling = self.resolution, self.sampling_ratio, self.aligned
            return bag_roi_align(features, rois, levels, SCALES, *sampling)
        return self._pool_by_level(features, rois, levels)

    def _pool_by_level(self, features: list[Tensor], rois: Tensor, levels: Tensor) -> Tensor:
        pooled, rows = [], []
        with torch.autocast(rois.device.type, enabled=False):  # the operators want float32 on both sides
            for level, (feature, scale) in enumerate(zip(features, SCALES, strict=True)):
                own = torch.where(levels == level)[0]
                rows.append(own)
                if self.kind == "pool":
                    pooled.append(roi_pool(feature.float(), rois[own], self.resolution, scale))
                else:
                    sampling = self.resolution, scale, self.sampling_ratio, self.aligned
                    pooled.append(roi_align(feature.float(), rois[own], *sampling))
        return torch.cat(pooled)[torch.cat(rows).argsort()].to(features[0].dtype)
