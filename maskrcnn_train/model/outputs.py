"""Outputs: from scores and deltas to the detections of an image, and from small masks to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from maskrcnn_train.model.boxes import BoxCoder, not_small


@dataclass
class ImageDetections:
    """Detections of one image, highest score first. boxes: float32 [N, 4]; labels: int64 [N], 1..K; scores: [N];
    masks: float32 [N, 1, M, M], probabilities inside each box, or None."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    masks: Tensor | None = None


@dataclass(frozen=True)
class DetectionRules:
    """score_threshold: detections must exceed it; nms_threshold: IoU, per class; count: per image, over all classes;
    min_size: network pixels."""

    score_threshold: float
    nms_threshold: float
    count: int
    min_size: float


@dataclass
class Candidates:
    """Pairs of proposal and class of one image. boxes: float32 [N, 4], decoded and clipped, network pixels; labels:
    int64 [N], 1..K; scores: [N]; rows: int64 [N], the proposal of each; large: bool [N], at least the smallest size."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    rows: Tensor
    large: Tensor

    def __getitem__(self, index: Tensor | slice) -> Candidates:
        columns = (self.boxes, self.labels, self.scores, self.rows, self.large)
        return Candidates(*(column[index] for column in columns))


def select_detections(
    scores: Tensor, deltas: Tensor, proposals: Tensor, size: tuple[int, int], *, coder: BoxCoder, rules: DetectionRules
) -> ImageDetections:
    """Scores [P, classes] (background first), deltas [P, classes, 4], proposals [P, 4] -> detections of an image."""
    candidates = candidates_above(rules.score_threshold, scores, deltas, proposals, size, coder=coder, rules=rules)
    return keep_best(suppress_in_classes(candidates, rules.nms_threshold), rules.count)


def candidates_above(
    threshold: float,
    scores: Tensor,
    deltas: Tensor,
    proposals: Tensor,
    size: tuple[int, int],
    *,
    coder: BoxCoder,
    rules: DetectionRules,
) -> Candidates:
    """The pairs of proposal and class scored above `threshold`; only these are decoded."""
    rows, labels = torch.where(scores[:, 1:] > threshold)
    labels = labels + 1
    boxes = clip_boxes_to_image(coder.decode(deltas[rows, labels], proposals[rows]), size)
    found = Candidates(boxes, labels, scores[rows, labels], rows, not_small(boxes, rules.min_size))
    # torchvision drops small boxes first, Detectron2 empty ones last: they count until then
    return found[torch.where(found.large)[0]] if rules.min_size > 0 else found


def suppress_in_classes(candidates: Candidates, threshold: float) -> Candidates:
    """NMS within each class; the result is sorted by score, highest first."""
    return candidates[batched_nms(candidates.boxes, candidates.scores, candidates.labels, threshold)]


def keep_best(sorted_candidates: Candidates, count: int) -> ImageDetections:
    """The `count` highest of all classes, the empty ones among them left out."""
    best = sorted_candidates[:count]
    best = best[torch.where(best.large)[0]]
    return ImageDetections(best.boxes, best.labels, best.scores)


@dataclass
class PastedMask:
    """One mask inside its box only: bitmap uint8 [h, w], its left upper pixel at column x0, row y0 of the image."""

    x0: int
    y0: int
    bitmap: Tensor


def paste_masks(
    probabilities: Tensor, boxes: Tensor, size: tuple[int, int], *, threshold: float, rule: str
) -> list[PastedMask]:
    """Masks of an image of `size` (height, width) from probabilities [N, 1, M, M] inside boxes [N, 4] (its pixels).

    rule `integer`: the box is rounded to pixels, the mask resized to it, a pixel set where > threshold
    (torchvision's paste_masks_in_image). `continuous`: the mask is sampled at pixel centres, set where >= threshold
    (Detectron2; about 0.5 mask AP better than rounding).

    >>> box = torch.tensor([[2.0, 3, 6, 9]])
    >>> paste_masks(torch.ones(1, 1, 28, 28), box, (20, 20), threshold=0.5, rule="continuous")[0].bitmap.sum()
    tensor(24)
    """
    probabilities, boxes = probabilities.float(), boxes.float()
    if rule == "continuous":
        return [_paste_continuous(mask, box, size, threshold) for mask, box in zip(probabilities, boxes, strict=True)]
    padded = F.pad(probabilities, (1, 1, 1, 1))
    grown = _grow_boxes(boxes, padded.shape[-1] / probabilities.shape[-1]).to(torch.int64).tolist()
    return [_paste_integer(mask, box, size, threshold) for mask, box in zip(padded, grown, strict=True)]


def paste_full(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], *, threshold: float, rule: str) -> Tensor:
    """The same as full-size masks: uint8 [N, height, width]. Costs N times the image."""
    full = torch.zeros((len(boxes), *size), dtype=torch.uint8, device=boxes.device)
    pasted = paste_masks(probabilities, boxes, size, threshold=threshold, rule=rule)
    for image, mask in zip(full, pasted, strict=True):
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
