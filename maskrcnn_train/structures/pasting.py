"""Pasting: from the small mask of each box to pixels of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass
class PastedMask:
    """One mask inside its box only: bitmap uint8 [h, w], its left upper pixel at column x0, row y0 of the image."""

    x0: int
    y0: int
    bitmap: Tensor


@dataclass(frozen=True)
class MaskPasting:
    """How a mask goes from its box into the image: `mask_head.threshold` and `numerics.mask_paste`.

    rule `integer`: the box is rounded to pixels, the mask resized to it, a pixel set where > threshold
    (torchvision's paste_masks_in_image). `continuous`: the mask is sampled at pixel centres, set where >= threshold
    (Detectron2; about 0.5 mask AP better than rounding).
    """

    threshold: float
    rule: str


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], pasting: MaskPasting) -> list[PastedMask]:
    """Masks of an image of `size` (height, width) from probabilities [N, 1, M, M] inside boxes [N, 4] (its pixels).

    >>> box = torch.tensor([[2.0, 3, 6, 9]])
    >>> paste_masks(torch.ones(1, 1, 28, 28), box, (20, 20), MaskPasting(0.5, "continuous"))[0].bitmap.sum()
    tensor(24)
    """
    probabilities, boxes = probabilities.float(), boxes.float()
    threshold = pasting.threshold
    if pasting.rule == "continuous":
        return [_paste_continuous(mask, box, size, threshold) for mask, box in zip(probabilities, boxes, strict=True)]
    padded = F.pad(probabilities, (1, 1, 1, 1))
    grown = _grow_boxes(boxes, padded.shape[-1] / probabilities.shape[-1]).to(torch.int64).tolist()
    return [_paste_integer(mask, box, size, threshold) for mask, box in zip(padded, grown, strict=True)]


def paste_full(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], pasting: MaskPasting) -> Tensor:
    """The same as full-size masks: uint8 [N, height, width]. Costs N times the image."""
    full = torch.zeros((len(boxes), *size), dtype=torch.uint8, device=boxes.device)
    for image, mask in zip(full, paste_masks(probabilities, boxes, size, pasting), strict=True):
        height, width = mask.bitmap.shape
        image[mask.y0 : mask.y0 + height, mask.x0 : mask.x0 + width] = mask.bitmap
    return full


def _grow_boxes(boxes: Tensor, scale: float) -> Tensor:
    halves = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * scale
    centers = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    return torch.cat((centers - halves, centers + halves), dim=1)


def _paste_integer(mask: Tensor, box: list[int], size: tuple[int, int], threshold: float) -> PastedMask:
    x0, y0, x1, y1 = box
    width, height = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)  # both corners belong to the box
    left, right = max(x0, 0), min(x1 + 1, size[1])
    top, bottom = max(y0, 0), min(y1 + 1, size[0])
    if right <= left or bottom <= top:
        return PastedMask(0, 0, torch.zeros((0, 0), dtype=torch.uint8, device=mask.device))
    resized = F.interpolate(mask[None], size=(height, width), mode="bilinear", align_corners=False)[0, 0]
    visible = resized[top - y0 : bottom - y0, left - x0 : right - x0]
    return PastedMask(left, top, (visible > threshold).to(torch.uint8))


def _paste_continuous(mask: Tensor, box: Tensor, size: tuple[int, int], threshold: float) -> PastedMask:
    x0, y0, x1, y1 = box.tolist()
    # a pixel more on each side: the outermost mask cells fade beyond the box
    left, right = max(int(x0 // 1) - 1, 0), min(int(-(-x1 // 1)) + 1, size[1])
    top, bottom = max(int(y0 // 1) - 1, 0), min(int(-(-y1 // 1)) + 1, size[0])
    if right <= left or bottom <= top:
        return PastedMask(0, 0, torch.zeros((0, 0), dtype=torch.uint8, device=mask.device))
    xs = torch.arange(left, right, dtype=torch.float32, device=mask.device) + 0.5
    ys = torch.arange(top, bottom, dtype=torch.float32, device=mask.device) + 0.5
    xs = (xs - box[0]) / (box[2] - box[0]) * 2 - 1
    ys = (ys - box[1]) / (box[3] - box[1]) * 2 - 1
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    sampled = F.grid_sample(mask[None], torch.stack((grid_x, grid_y), dim=-1)[None], align_corners=False)[0, 0]
    return PastedMask(left, top, (sampled >= threshold).to(torch.uint8))
