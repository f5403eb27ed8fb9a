"""Outputs: from scores and deltas to the detections of an image.

Each stage is a function of its own, so that an analysis can look between them:
`candidates_above` -> `suppress_in_classes` -> `keep_best`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from maskrcnn_train.model.boxes import BoxCoder, clip_boxes, not_small
from maskrcnn_train.structures.detections import Detections

PROPOSAL_CODER = BoxCoder(shift_weight=10.0, scale_weight=5.0)


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
    """Pairs of proposal and class of one image of `size` (height, width), network pixels.

    boxes: float32 [N, 4], decoded and clipped; labels: int64 [N], 1..K; scores: [N]; rows: int64 [N], the proposal of
    each; large: bool [N], at least the smallest size.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    rows: Tensor
    large: Tensor
    size: tuple[int, int]

    def __getitem__(self, index: Tensor | slice) -> Candidates:
        return Candidates(
            self.boxes[index], self.labels[index], self.scores[index], self.rows[index], self.large[index], self.size
        )

    def to_detections(self) -> Detections:
        return Detections(self.boxes, self.labels, self.scores, self.size)


def select_detections(
    scores: Tensor, deltas: Tensor, proposals: Tensor, size: tuple[int, int], rules: DetectionRules
) -> Detections:
    """Scores [P, classes] (background first), deltas [P, classes, 4], proposals [P, 4] -> detections of an image."""
    candidates = candidates_above(scores, deltas, proposals, size, rules)
    return keep_best(suppress_in_classes(candidates, rules.nms_threshold), rules.count).to_detections()


def select_detections_of_batch(
    scores: Tensor, deltas: Tensor, proposals: list[Tensor], sizes: list[tuple[int, int]], rules: DetectionRules
) -> list[Detections]:
    """The same of all images: scores [K, classes] and deltas [K, classes, 4] of the proposals [k_i, 4] of each."""
    counts = [len(boxes) for boxes in proposals]
    images = zip(scores.split(counts), deltas.split(counts), proposals, sizes, strict=True)
    return [select_detections(*image, rules) for image in images]


def candidates_above(
    scores: Tensor, deltas: Tensor, proposals: Tensor, size: tuple[int, int], rules: DetectionRules
) -> Candidates:
    """The pairs of proposal and class scored above the threshold; only these are decoded."""
    rows, labels = torch.where(scores[:, 1:] > rules.score_threshold)
    labels = labels + 1
    boxes = decode_proposals(deltas[rows, labels], proposals[rows], size)
    found = Candidates(boxes, labels, scores[rows, labels], rows, not_small(boxes, rules.min_size), size)
    # torchvision drops small boxes first, Detectron2 empty ones last: they count until then
    return found[torch.where(found.large)[0]] if rules.min_size > 0 else found


def decode_proposals(deltas: Tensor, proposals: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [N, 4] from deltas [N, 4] and proposals [N, 4], clipped to the image of `size` (height, width)."""
    return clip_boxes(PROPOSAL_CODER.decode(deltas, proposals), size)


def suppress_in_classes(candidates: Candidates, threshold: float) -> Candidates:
    """NMS within each class; the result is sorted by score, highest first."""
    return candidates[batched_nms(candidates.boxes, candidates.scores, candidates.labels, threshold)]


def keep_best(sorted_candidates: Candidates, count: int) -> Candidates:
    """The `count` highest of all classes, the empty ones among them left out."""
    best = sorted_candidates[:count]
    return best[torch.where(best.large)[0]]
