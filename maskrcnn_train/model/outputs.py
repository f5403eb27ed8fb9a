"""Outputs: from scores and deltas to the detections of an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
