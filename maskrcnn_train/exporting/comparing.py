"""Differences between the detections of an exported file and those of the model."""

from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.detections import Detections

LARGEST_SHIFT = 0.1  # of an object's longer side: farther apart, two boxes are two objects


@dataclass
class Differences:
    """The largest differences over all images.

    pixels: of a box's corner; boxes: the same, relative to the box's longer side; scores: absolute; mask_iou: the
    lowest of an image, all its masks together, None without masks. missing: detections that only one side has, except
    those at the score threshold or at the end of a full budget.
    """

    images: int = 0
    detections: int = 0
    pixels: float = 0.0
    boxes: float = 0.0
    scores: float = 0.0
    mask_iou: float | None = None
    missing: int = 0

    def add(self, ours: Detections, theirs: Detections, config: TrainConfig, score_tolerance: float) -> None:
        """Compare the detections of one more image."""
        pairs = _pair(ours, theirs)
        mine, other = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        self.images += 1
        self.detections += len(ours)
        for scores, paired in ((ours.scores, mine), (theirs.scores, other)):
            self.missing += _missing(scores, paired, config, score_tolerance)
        if pairs:
            shifts = (ours.boxes[mine] - theirs.boxes[other]).abs()
            sides = (ours.boxes[mine, 2:] - ours.boxes[mine, :2]).amax(dim=1, keepdim=True)
            self.pixels = max(self.pixels, float(shifts.max()))
            self.boxes = max(self.boxes, float((shifts / sides).max()))
            self.scores = max(self.scores, float((ours.scores[mine] - theirs.scores[other]).abs().max()))
        if ours.has_masks:
            self.mask_iou = min(1.0 if self.mask_iou is None else self.mask_iou, _mask_iou(ours, theirs, pairs))


def _pair(ours: Detections, theirs: Detections) -> list[tuple[int, int]]:
    """Each of our detections with the nearest of the same label that is left, best score first."""
    pairs: list[tuple[int, int]] = []
    free = torch.ones(len(theirs), dtype=torch.bool)
    for index, (box, label) in enumerate(zip(ours.boxes, ours.labels, strict=True)):
        candidates = torch.where(free & (theirs.labels == label))[0]
        if not len(candidates):
            continue
        distances = (theirs.boxes[candidates] - box).abs().amax(dim=1)
        best = int(distances.argmin())
        if float(distances[best]) <= LARGEST_SHIFT * float((box[2:] - box[:2]).max()):
            pairs.append((index, int(candidates[best])))
            free[candidates[best]] = False
    return pairs


def _missing(scores: Tensor, paired: list[int], config: TrainConfig, tolerance: float) -> int:
    edge = config.roi_head.score_threshold
    if len(scores) >= config.roi_head.detections_per_image:
        edge = max(edge, float(scores.min()))
    alone = torch.ones(len(scores), dtype=torch.bool)
    alone[paired] = False
    return int((alone & (scores > edge + tolerance)).sum())


def _mask_iou(ours: Detections, theirs: Detections, pairs: list[tuple[int, int]]) -> float:
    intersection = union = 0
    for rows in pairs:  # one at a time: full-size masks are large
        a, b = (found[torch.tensor([row])].bitmaps()[0] for found, row in zip((ours, theirs), rows, strict=True))
        intersection += int((a & b).sum())
        union += int((a | b).sum())
    return intersection / union if union else 1.0
