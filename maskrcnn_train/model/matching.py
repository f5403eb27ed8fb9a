"""Matching: which object an anchor or a proposal stands for."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn_train.model.boxes import pairwise_iou

BACKGROUND = -1
IGNORED = -2


def match_boxes(objects: Tensor, boxes: Tensor, *, upper: float, lower: float, keep_best: bool) -> Tensor:
    """For each box the object with the highest IoU: int64 [B], or BACKGROUND (IoU < lower) or IGNORED (between).

    objects: [G, 4]; boxes: [B, 4]. `keep_best` also matches the best boxes of each object, ties included,
    whatever their IoU, to the object that such a box overlaps most (Faster R-CNN; torchvision's low-quality
    matches). An object that overlaps no box at all gets none; torchvision would then match every box.
    Boxes are taken in pieces: a crowded image at full size has 10^8 pairs.
    """
    if len(objects) == 0 or len(boxes) == 0:
        return torch.full((len(boxes),), BACKGROUND, dtype=torch.int64, device=boxes.device)
    ious, matches, best_ious, rivals = [], [], [], []
    for piece in boxes.split(_piece_size(len(objects), boxes.device)):
        iou = pairwise_iou(objects, piece)
        highest, match = iou.max(dim=0)
        ious.append(highest)
        matches.append(match)
        if keep_best:
            best, places = _best_boxes(iou)
            best_ious.append(best)
            rivals.append(places)
    all_ious, nearest = torch.cat(ious), torch.cat(matches)
    result = nearest.masked_fill(all_ious < upper, IGNORED).masked_fill(all_ious < lower, BACKGROUND)
    if keep_best:
        best_of_each = _ties_over_pieces(best_ious, rivals, [len(highest) for highest in ious])
        result[best_of_each] = nearest[best_of_each]
    return result


def _piece_size(num_objects: int, device: torch.device) -> int:
    # a piece of the matrix and its temporaries stay in a processor's cache; a GPU wants few large ones
    pairs = 2**18 if device.type == "cpu" else 2**24
    return max(1, pairs // num_objects)


def _best_boxes(iou: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Highest IoU of each object in this piece [G], and the (object, box) pairs that reach it."""
    best = iou.amax(dim=1)
    objects, places = torch.where(iou == best.masked_fill(best <= 0, torch.inf)[:, None])
    return best, (objects, places)


def _ties_over_pieces(best_ious: list[Tensor], rivals: list[tuple[Tensor, Tensor]], lengths: list[int]) -> Tensor:
    """Indices of the boxes that reach their object's highest IoU over all pieces."""
    highest = torch.stack(best_ious).amax(dim=0)
    kept, start = [], 0
    for best, (objects, places), length in zip(best_ious, rivals, lengths, strict=True):
        kept.append(places[(best == highest)[objects]] + start)
        start += length
    return torch.cat(kept)
