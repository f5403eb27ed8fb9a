"""What became of every object and every confident detection of an image, and a grade for the image.

Made for looking at pictures: each object and detection gets one of a few words. The counts behind AP are in `errors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskrcnn_train.evaluation.coco.ground_truth import complete_ground_truth
from maskrcnn_train.evaluation.diagnostics.curves import best_cut, confidence_curves
from maskrcnn_train.evaluation.diagnostics.errors import BACKGROUND_IOU
from maskrcnn_train.evaluation.diagnostics.matches import match_detections
from maskrcnn_train.evaluation.diagnostics.overlaps import ImageOverlaps, image_overlaps, pairs_by_iou

FINE, WRONG_CLASS, LOCALISATION, FALSE_ALARM, MISSED = "fine", "wrong class", "localisation", "false alarm", "missed"
KINDS = {
    MISSED: "an object with no detection of its class near it and none of another class on it",
    WRONG_CLASS: "a detection on an object of another class",
    LOCALISATION: "the right class, overlapping too little",
    FALSE_ALARM: "a detection where nothing is left to find",
    FINE: "the right class, overlapping enough",
}


@dataclass
class Judged:
    """place: row in the ground truth's annotations or in the results. kind: one of KINDS. iou: with its partner, 0
    without one."""

    place: int
    kind: str
    iou: float


@dataclass
class ImageVerdict:
    """quality: panoptic quality of the image (Kirillov et al. 2019), the mean IoU of the fine pairs times their F1,
    0 to 1; 1 where there is nothing and nothing was detected. Crowd regions and what lies in them are left out."""

    image_id: int
    objects: list[Judged]
    detections: list[Judged]
    quality: float

    @property
    def num_errors(self) -> int:
        """Objects that are not found and detections that are not right."""
        return sum(each.kind != FINE for each in (*self.objects, *self.detections))


def judge_images(
    ground_truth: dict[str, Any], results: Sequence[dict[str, Any]], *, kind: str, max_detections: int, iou: float = 0.5
) -> tuple[float, list[ImageVerdict]]:
    """The score of the highest mean F1, and the verdict on each image, by its id, on the detections from there.

    kind: bbox, segm. results: checked. An IoU of at least `iou` makes a pair.
    """
    overlaps = image_overlaps(
        complete_ground_truth(ground_truth, [kind]), results, kind=kind, max_detections=max_detections
    )
    names = [category["name"] for category in sorted(ground_truth["categories"], key=lambda each: each["id"])]
    matches = match_detections(overlaps, iou_thresholds=[iou])
    threshold, _ = best_cut(confidence_curves(matches, names, iou=iou))
    return threshold, [_judge(image.first(int((image.scores >= threshold).sum())), iou) for image in overlaps]


def _judge(image: ImageOverlaps, iou: float) -> ImageVerdict:
    """Pairs are made by falling IoU: first those of one class, then those of two, then those too far apart."""
    real = np.flatnonzero(~image.crowd)
    beside = (image.ious[:, image.crowd] >= iou).any(axis=1)
    ious = image.ious[:, real]
    same = image.found_classes[:, None] == image.object_classes[real]
    free_found, free_real = np.ones(len(ious), bool), np.ones(len(real), bool)
    found: dict[int, Judged] = {}
    objects: dict[int, Judged] = {}
    for name, allowed in (
        (FINE, same & (ious >= iou)),
        (WRONG_CLASS, ~same & (ious >= iou)),
        (LOCALISATION, same & (ious >= BACKGROUND_IOU)),
    ):
        for row, column in pairs_by_iou(np.where(allowed, ious, 0.0), free_found, free_real):
            found[row] = Judged(int(image.found[row]), name, float(ious[row, column]))
            objects[column] = Judged(int(image.objects[real[column]]), name, float(ious[row, column]))
    for row in np.flatnonzero(free_found & ~beside).tolist():
        found[row] = Judged(int(image.found[row]), FALSE_ALARM, 0.0)
    for column in np.flatnonzero(free_real).tolist():
        objects[column] = Judged(int(image.objects[real[column]]), MISSED, 0.0)
    right = [each.iou for each in found.values() if each.kind == FINE]
    count = len(found) + len(objects)
    quality = 2 * sum(right) / count if count else 1.0
    in_order = [[judged[key] for key in sorted(judged)] for judged in (objects, found)]
    return ImageVerdict(image.image_id, in_order[0], in_order[1], quality)
