"""RoIAlign over several levels: as one weighted embedding bag, or by torchvision's operators.

Each output bin is a weighted sum of feature pixels, with weights that follow from the box alone. Feature maps in
channels_last are matrices of pixels x channels, and `embedding_bag` sums weighted rows of a matrix in parallel,
forwards and backwards, in bfloat16 too, and always in the same order. torchvision's operator needs float32 on a GPU,
and fills a full-size gradient at each call; its backward is serial on a processor, and adds in any order on a GPU.
Results are the same.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align, roi_pool

from maskrcnn_train.model.modes import is_tracing
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.structures.waits import send

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]  # P2..P5; P6 serves the RPN only
MOST_SAMPLES = 64  # of an RoI and axis in a bag, which takes 200 kB an RoI then; the operators take more
OUTSIDE = -1e6  # pixels: a box out there pools zeros from every map


@dataclass(frozen=True)
class PoolingRules:
    """type: align, pool. sampling_ratio: samples per bin and axis, 0 = one a feature pixel; aligned: shift by half a
    pixel; neither concerns `pool`."""

    type: str
    resolution: int
    sampling_ratio: int
    aligned: bool

    def pool(self, feature: Tensor, rois: Tensor, scale: float) -> Tensor:
        """Maps float32 [K, C, P, P] of rois [K, 5] from one map float32 [N, C, H, W], by the operators."""
        pooled: Tensor
        if self.type == "pool":
            pooled = roi_pool(feature, rois, self.resolution, scale)
        else:
            pooled = roi_align(feature, rois, self.resolution, scale, self.sampling_ratio, self.aligned)
        return pooled

    @property
    def by_bag(self) -> bool:
        """Whether the points of all boxes fit into a bag. A trace keeps the operator, which other runtimes know."""
        few = 0 < self.resolution * self.sampling_ratio <= MOST_SAMPLES
        return self.type == "align" and few and not is_tracing()


def pool_by_level(features: list[Tensor], rois: Tensor, levels: Tensor, rules: PoolingRules) -> Tensor:
    """Maps [K, C, P, P] of rois [K, 5], each from its level, int64 [K], by the operators, level by level."""
    rows = [torch.where(levels == level)[0] for level in range(len(features))]
    with torch.autocast(rois.device.type, enabled=False):  # the operators want float32 on both sides
        pooled = [
            rules.pool(feature.float(), rois[own], scale)
            for feature, own, scale in zip(features, rows, SCALES, strict=True)
        ]
    return torch.cat(pooled)[torch.cat(rows).argsort()].to(features[0].dtype)


def bag_roi_align(features: Pyramid, rois: Tensor, levels: Tensor, rules: PoolingRules) -> Tensor:
    """The same in channels_last, by one bag for all levels. rois: (image, x1, y1, x2, y2), network pixels."""
    device, bins, samples = rois.device, rules.resolution, rules.sampling_ratio
    places = zip(SCALES, features.sizes, features.starts, strict=False)  # P6 is left out
    with torch.no_grad():
        table = [(start, height * width, width, height) for _, (height, width), start in places]
        own = send(table, device)[levels]
        (starts, areas), sizes = own[:, :2].unbind(1), own[:, 2:]
        boxes = rois[:, 1:] * send(SCALES, device, rois.dtype)[levels, None]
        pixel, weight = axis_taps(boxes[:, :2], boxes[:, 2:], sizes, bins, samples, rules.aligned)
        (xs, ys), (x_weights, y_weights) = pixel.unbind(1), weight.unbind(1)
        starts = torch.addcmul(starts, rois[:, 0].long(), areas)[:, None, None]
        ys = torch.addcmul(starts, ys, sizes[:, :1, None])
        taps = (2 * samples) ** 2  # of a bin
        indices = (ys[:, :, None, :, None] + xs[:, None, :, None, :]).reshape(-1, taps)
        weights = (y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]).reshape(-1, taps)
    rows = features.rows
    pooled = F.embedding_bag(indices, rows, mode="sum", per_sample_weights=weights.to(rows.dtype))
    return pooled.view(len(rois), bins, bins, -1).permute(0, 3, 1, 2)


def axis_taps(
    low: Tensor, high: Tensor, length: Tensor, bins: int, samples: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    """Pixels and weights of each bin along axes: int64 and float32 [..., bins, 2 * samples].

    low, high: [...], ends of the boxes in feature pixels; length: int64 [...], pixels of the axis. Border rules are
    the operator's: a sample beyond [-1, length] counts nothing, others are clamped to the first and last pixel.
    """
    low, extent = (low - 0.5, high - low) if aligned else (low, (high - low).clamp(min=1.0))
    count = bins * samples
    step = extent / count
    middles = torch.arange(0.5, count, dtype=low.dtype, device=low.device)  # of the samples, in steps
    positions = torch.addcmul(low[..., None], step[..., None], middles).unflatten(-1, (bins, samples))
    return bilinear_taps(positions, length[..., None, None], 1.0 / samples)


def bilinear_taps(positions: Tensor, length: Tensor, weight: Tensor | float) -> tuple[Tensor, Tensor]:
    """The two pixels around each position and their weights: int64 and float32 [..., 2 * S] of [..., S]."""
    inside = (positions >= -1) & (positions <= length)
    last = length - 1
    clamped = torch.minimum(positions.clamp(min=0), last)
    first = clamped.long()
    second = torch.minimum(first + 1, last)
    factor = inside * weight
    of_second = (clamped - first) * factor
    return torch.cat((first, second), dim=-1), torch.cat((factor - of_second, of_second), dim=-1)
