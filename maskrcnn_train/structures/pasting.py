"""Pasting: from the small mask of each box to pixels of the image."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Crop = tuple[int, int, NDArray[np.uint8]]  # x0, y0, bitmap [h, w], inside the image


@dataclass(frozen=True)
class MaskPasting:
    """How a mask goes from its box into the image: `mask_head.threshold` and `numerics.mask_paste`.

    rule `integer`: the box is rounded to pixels, the mask resized to it, a pixel set where > threshold
    (torchvision's paste_masks_in_image). `continuous`: the mask is sampled at pixel centres, set where >= threshold
    (Detectron2; about 0.5 mask AP better than rounding).
    """

    threshold: float
    rule: str


def paste_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], pasting: MaskPasting) -> list[Crop]:
    """Masks of an image of `size` (height, width) from probabilities [N, 1, M, M] inside boxes [N, 4] (its pixels).

    >>> box = torch.tensor([[2.0, 3, 6, 9]])
    >>> paste_masks(torch.ones(1, 1, 28, 28), box, (20, 20), MaskPasting(0.5, "continuous"))[0][2].sum()
    np.uint64(24)
    """
    probabilities, boxes = probabilities.float(), boxes.float()
    paste, margin = _paste_continuous, 1  # a pixel more on each side: the outermost mask cells fade beyond the box
    if pasting.rule == "integer":
        boxes = rounded_boxes(boxes, probabilities.shape[-1])
        probabilities, paste, margin = F.pad(probabilities, (1, 1, 1, 1)), _paste_integer, 0
    crops: list[Crop] = []
    for mask, box in zip(probabilities, boxes, strict=True):
        x0, y0, x1, y1 = box.tolist()
        left, right = max(math.floor(x0) - margin, 0), min(math.ceil(x1) + 1, size[1])
        top, bottom = max(math.floor(y0) - margin, 0), min(math.ceil(y1) + 1, size[0])
        if left < right and top < bottom:
            bitmap = paste(mask[None], box, (left, top, right, bottom), pasting.threshold)
            crops.append((left, top, bitmap.to(torch.uint8).cpu().numpy()))
        else:
            crops.append((0, 0, np.zeros((0, 0), np.uint8)))
    return crops


def rounded_boxes(boxes: Tensor, cells: int) -> Tensor:
    """Boxes int64 [N, 4] of masks of cells x cells with a margin of one cell around, both corners inside."""
    halves = (boxes[:, 2:] - boxes[:, :2]) * 0.5 * ((cells + 2) / cells)
    centers = (boxes[:, 2:] + boxes[:, :2]) * 0.5
    return torch.cat((centers - halves, centers + halves), dim=1).to(torch.int64)


def _paste_integer(mask: Tensor, box: Tensor, window: tuple[int, int, int, int], threshold: float) -> Tensor:
    """bool [h, w] of the window x0 y0 x1 y1 in the image; mask: [1, 1, M, M]."""
    x0, y0, x1, y1 = box.tolist()
    left, top, right, bottom = window
    sides = max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1)  # both corners belong to the box
    resized = F.interpolate(mask, size=sides, mode="bilinear", align_corners=False)[0, 0]
    return resized[top - y0 : bottom - y0, left - x0 : right - x0] > threshold


def _paste_continuous(mask: Tensor, box: Tensor, window: tuple[int, int, int, int], threshold: float) -> Tensor:
    """As `_paste_integer`."""
    left, top, right, bottom = window
    xs = torch.arange(left, right, dtype=torch.float32, device=mask.device) + 0.5
    ys = torch.arange(top, bottom, dtype=torch.float32, device=mask.device) + 0.5
    xs = (xs - box[0]) / (box[2] - box[0]) * 2 - 1
    ys = (ys - box[1]) / (box[3] - box[1]) * 2 - 1
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    return F.grid_sample(mask, torch.stack((grid_x, grid_y), dim=-1)[None], align_corners=False)[0, 0] >= threshold
