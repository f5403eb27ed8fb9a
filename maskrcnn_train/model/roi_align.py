"""RoIAlign over several levels as one weighted embedding bag, for processors.

Each output bin is a weighted sum of feature pixels, with weights that follow from the box alone. Feature maps
in channels_last are matrices of pixels x channels, and `embedding_bag` sums weighted rows of a matrix on all
cores, forwards and backwards, in bfloat16 too. torchvision's operator needs float32, and its backward is
serial and fills a full-size gradient for each call. Results are the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def bag_roi_align(
    features: list[Tensor],
    rois: Tensor,
    levels: Tensor,
    *,
    scales: list[float],
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Pooled features [K, C, P, P] (channels_last) of rois [K, 5] (image, x1, y1, x2, y2), each from its level.

    features: a map [N, C, H, W] for each level; levels: int64 [K]; scales: feature pixels per network pixel.
    """
    channels = features[0].shape[1]
    rows = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in features])
    indices, weights = bag_taps(
        [(level.shape[0], level.shape[2], level.shape[3]) for level in features],
        rois,
        levels,
        scales=scales,
        resolution=resolution,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
    )
    pooled = F.embedding_bag(indices, rows, mode="sum", per_sample_weights=weights.to(rows.dtype))
    return pooled.view(len(rois), resolution, resolution, channels).permute(0, 3, 1, 2)


@torch.no_grad()
def bag_taps(
    shapes: list[tuple[int, int, int]],
    rois: Tensor,
    levels: Tensor,
    *,
    scales: list[float],
    resolution: int,
    sampling_ratio: int,
    aligned: bool,
) -> tuple[Tensor, Tensor]:
    """Rows and weights of each bin: int64 and float32 [K * P * P, (2 * samples)^2].

    shapes: (images, height, width) of each level, whose pixels follow each other in the matrix of rows.
    """
    device = rois.device
    heights = torch.tensor([shape[1] for shape in shapes], device=device)[levels]
    widths = torch.tensor([shape[2] for shape in shapes], device=device)[levels]
    ends = torch.tensor([images * height * width for images, height, width in shapes], device=device).cumsum(0)
    starts = F.pad(ends[:-1], (1, 0))[levels] + rois[:, 0].long() * heights * widths
    boxes = rois[:, 1:] * torch.tensor(scales, dtype=rois.dtype, device=device)[levels, None]
    ys, y_weights = axis_taps(boxes[:, 1], boxes[:, 3], heights, resolution, sampling_ratio, aligned)
    xs, x_weights = axis_taps(boxes[:, 0], boxes[:, 2], widths, resolution, sampling_ratio, aligned)
    ys = starts[:, None, None] + ys * widths[:, None, None]
    indices = ys[:, :, None, :, None] + xs[:, None, :, None, :]
    weights = y_weights[:, :, None, :, None] * x_weights[:, None, :, None, :]
    taps = (2 * sampling_ratio) ** 2
    return indices.reshape(-1, taps), weights.reshape(-1, taps)


def axis_taps(
    low: Tensor, high: Tensor, length: Tensor, bins: int, samples: int, aligned: bool
) -> tuple[Tensor, Tensor]:
    """Pixels and weights of each bin along one axis: int64 and float32 [K, bins, 2 * samples].

    low, high: [K], ends of the boxes in feature pixels; length: int64 [K], pixels of the axis. Border rules are
    the operator's: a sample beyond [-1, length] counts nothing, others are clamped to the first and last pixel.
    """
    offset = 0.5 if aligned else 0.0
    low, extent = low - offset, high - low
    if not aligned:
        extent = extent.clamp(min=1.0)
    step = extent / bins
    bin_index = torch.arange(bins, dtype=low.dtype, device=low.device)[:, None]
    sample = (torch.arange(samples, dtype=low.dtype, device=low.device) + 0.5) / samples
    positions = low[:, None, None] + bin_index * step[:, None, None] + sample * step[:, None, None]
    return bilinear_taps(positions, length[:, None, None], 1.0 / samples)


def bilinear_taps(positions: Tensor, length: Tensor, weight: Tensor | float) -> tuple[Tensor, Tensor]:
    """The two pixels around each position and their weights: int64 and float32 [..., 2 * S] of [..., S]."""
    inside = (positions >= -1) & (positions <= length)
    last = length - 1
    clamped = torch.minimum(positions.clamp(min=0), last.to(positions.dtype))
    first = clamped.long()
    second = torch.minimum(first + 1, last)
    share = clamped - first
    factor = inside * weight
    pixels = torch.cat((first, second), dim=-1)
    return pixels, torch.cat(((1 - share) * factor, share * factor), dim=-1)
