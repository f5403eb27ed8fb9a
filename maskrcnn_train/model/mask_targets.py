"""Mask targets: what an object's mask looks like inside a proposal, M x M, without full-size masks.

RoIAlign of one mask is separable: target = rows [M, h] @ crop [h, w] @ columns [w, M], where rows and columns
hold the operator's bilinear weights. Outside its crop a mask is zero.
"""

import torch
from torch import Tensor

from maskrcnn_train.model.roi_align import bilinear_taps
from maskrcnn_train.model.sampling import Samples
from maskrcnn_train.structures.batch import MaskCrops, Target


def crops_from_dense(masks: Tensor) -> MaskCrops:
    """Compact masks of dense ones [N, H, W] (any dtype, not zero = object)."""
    filled = masks != 0
    boxes, pixels = [], []
    for mask in filled:
        ys, xs = torch.where(mask.any(dim=1))[0], torch.where(mask.any(dim=0))[0]
        box = [0, 0, 0, 0] if len(ys) == 0 else [int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1]
        boxes.append(box)
        pixels.append(mask[box[1] : box[3], box[0] : box[2]].reshape(-1).to(torch.uint8))
    return MaskCrops(
        pixels=torch.cat(pixels) if pixels else masks.new_zeros(0, dtype=torch.uint8),
        boxes=torch.tensor(boxes, dtype=torch.int64).reshape(-1, 4),
        offsets=torch.tensor([0, *map(len, pixels)]).cumsum(0),
        size=(int(masks.shape[1]), int(masks.shape[2])),
    )


def mask_targets(targets: list[Target], foreground: Samples, resolution: int, rule: str) -> Tensor:
    """Targets float32 [K, M, M] of sampled proposals with an object, in the order of their images."""
    drawn = []
    for image, target in enumerate(targets):
        own = torch.where(foreground.images == image)[0]
        if len(own):
            boxes, matches = foreground.boxes[own], foreground.matches[own]
            drawn.append(targets_in_boxes(target["masks"], boxes, matches, resolution, rule))
    return torch.cat(drawn)


@torch.no_grad()
def targets_in_boxes(masks: MaskCrops | Tensor, boxes: Tensor, matches: Tensor, resolution: int, rule: str) -> Tensor:
    """Targets float32 [K, M, M] of boxes [K, 4], network pixels, each for mask matches[k].

    rule: `soft`, the share that RoIAlign gives (torchvision); `binary`, shifted by half a pixel and cut at one
    half (Detectron2). Both sample once a pixel, as the operators do.
    """
    if isinstance(masks, Tensor):
        masks = crops_from_dense(masks)
    boxes = boxes.float()
    aligned = rule == "binary"
    height, width = masks.size
    row_taps = adaptive_taps(boxes[:, 1], boxes[:, 3], height, resolution, aligned)
    column_taps = adaptive_taps(boxes[:, 0], boxes[:, 2], width, resolution, aligned)
    targets = boxes.new_zeros(len(boxes), resolution, resolution)
    matches_cpu = matches.cpu()
    crop_boxes, offsets = masks.boxes.tolist(), masks.offsets.tolist()
    with torch.autocast(boxes.device.type, enabled=False):
        for index in matches_cpu.unique().tolist():
            x0, y0, x1, y1 = crop_boxes[index]
            own = torch.where(matches_cpu == index)[0].to(boxes.device)
            rows, columns = _dense_weights(row_taps, own, y0, y1), _dense_weights(column_taps, own, x0, x1)
            crop = masks.pixels[offsets[index] : offsets[index + 1]].view(y1 - y0, x1 - x0).float()
            targets[own] = rows @ crop @ columns.transpose(1, 2)
    return (targets >= 0.5).float() if aligned else targets


def adaptive_taps(low: Tensor, high: Tensor, length: int, bins: int, aligned: bool) -> tuple[Tensor, Tensor]:
    """Pixels and weights of each bin with one sample a pixel: int64 and float32 [K, bins, 2 * S].

    S is the largest number of samples; boxes with fewer carry zero weights at the end.
    """
    low, extent = (low - 0.5, (high - 0.5) - (low - 0.5)) if aligned else (low, (high - low).clamp(min=1.0))
    step = extent / bins
    samples = step.ceil()
    most = int(samples.max()) if len(samples) else 0
    step, samples = step[:, None, None], samples[:, None, None]
    bin_index = torch.arange(bins, dtype=low.dtype, device=low.device)[:, None]
    sample = torch.arange(most, dtype=low.dtype, device=low.device)
    positions = low[:, None, None] + bin_index * step + (sample + 0.5) * step / samples.clamp(min=1)
    weight = (sample < samples) / samples.clamp(min=1)
    return bilinear_taps(positions, torch.tensor(length, device=low.device), weight)


def _dense_weights(taps: tuple[Tensor, Tensor], rows: Tensor, start: int, end: int) -> Tensor:
    """Weights [k, M, end - start] of the pixels start..end-1 for the boxes of these rows, int64 [k]."""
    pixels, weights = taps[0][rows] - start, taps[1][rows]
    inside = (pixels >= 0) & (pixels < end - start)
    dense = weights.new_zeros(*pixels.shape[:2], end - start)
    if end > start:
        dense.scatter_add_(2, pixels.clamp(0, end - start - 1), weights * inside)
    return dense
