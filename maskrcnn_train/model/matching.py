"""Matching and sampling: which ground-truth box an anchor or a proposal stands for, and which enter a loss."""

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn_train.model.boxes import pairwise_coverage, pairwise_iou

BACKGROUND = -1
IGNORED = -2


@dataclass
class Nearest:
    """objects: int64 [B], the object that each box overlaps most; ious: [B], by how much; best: int64 [R], the boxes
    that some object overlaps most, ties included; object_ious: [G], how much each object's best box overlaps it."""

    objects: Tensor
    ious: Tensor
    best: Tensor
    object_ious: Tensor


def nearest_objects(gt_boxes: Tensor, boxes: Tensor) -> Nearest:
    """For boxes [B, 4] the nearest of gt_boxes [G, 4], and for those their best boxes; G and B above zero.

    Boxes are taken in pieces: a crowded image at full size has 10^8 pairs. An object that overlaps no box has no best.
    """
    ious, nearest, best_ious, rivals, start = [], [], [], [], 0
    for piece in boxes.split(_piece_size(len(gt_boxes), boxes.device)):
        iou = pairwise_iou(gt_boxes, piece)
        highest, match = iou.max(dim=0)
        ious.append(highest)
        nearest.append(match)
        best_ious.append(iou.amax(dim=1))
        objects, columns = torch.where(iou == best_ious[-1].masked_fill(best_ious[-1] <= 0, torch.inf)[:, None])
        rivals.append((objects, columns + start))
        start += len(piece)
    best = torch.stack(best_ious).amax(dim=0)
    ties = [rows[(own == best)[objects]] for own, (objects, rows) in zip(best_ious, rivals, strict=True)]
    return Nearest(torch.cat(nearest), torch.cat(ious), torch.cat(ties), best)


def match_boxes(gt_boxes: Tensor, boxes: Tensor, *, upper: float, lower: float, keep_best: bool) -> Tensor:
    """For each box the object with the highest IoU: int64 [B], or BACKGROUND (IoU < lower) or IGNORED (between).

    gt_boxes: [G, 4]; boxes: [B, 4]. `keep_best` also matches the best boxes of each object, ties included,
    whatever their IoU, to the object that such a box overlaps most (Faster R-CNN; torchvision's low-quality
    matches). An object that overlaps no box at all gets none; torchvision would then match every box.
    """
    if len(gt_boxes) == 0 or len(boxes) == 0:
        return torch.full((len(boxes),), BACKGROUND, dtype=torch.int64, device=boxes.device)
    nearest = nearest_objects(gt_boxes, boxes)
    result = nearest.objects.masked_fill(nearest.ious < upper, IGNORED).masked_fill(nearest.ious < lower, BACKGROUND)
    if keep_best:
        result[nearest.best] = nearest.objects[nearest.best]
    return result


def ignore_covered(matches: Tensor, boxes: Tensor, regions: Tensor, limit: float) -> Tensor:
    """Matches int64 [B] of boxes [B, 4] where IGNORED takes the place of BACKGROUND if a region covers the box.

    regions: [I, 4], I above zero. A region covers a box if it holds at least `limit` of the box's area: COCO's rule for
    crowd regions, which a detection meets by its own area, and after the objects.
    """
    pieces = boxes.split(_piece_size(len(regions), boxes.device))
    covered = torch.cat([pairwise_coverage(regions, piece).amax(dim=0) >= limit for piece in pieces])
    return matches.masked_fill((matches == BACKGROUND) & covered, IGNORED)


def _piece_size(num_objects: int, device: torch.device) -> int:
    # a piece of the matrix and its temporaries stay in a processor's cache; a GPU wants few large ones
    pairs = 2**18 if device.type == "cpu" else 2**24
    return max(1, pairs // num_objects)


def sample_balanced(labels: Tensor, batch_size: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Random indices of positives and of negatives, each ascending: int64 [P], [Q] with P + Q <= batch_size.

    labels: [B]; >= 1 positive, 0 negative, < 0 ignored. The fraction is a cap: few positives leave room for
    negatives, few negatives are not replaced. Draws as torchvision's sampler does, so that the same seed
    gives the same samples.
    """
    positives, negatives = torch.where(labels >= 1)[0], torch.where(labels == 0)[0]
    num_positives = min(len(positives), int(batch_size * positive_fraction))
    num_negatives = min(len(negatives), batch_size - num_positives)
    return _draw(positives, num_positives), _draw(negatives, num_negatives)


def _draw(indices: Tensor, count: int) -> Tensor:
    order = torch.randperm(len(indices), device=indices.device)[:count]
    return indices[order].sort().values
