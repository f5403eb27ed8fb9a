"""How well each image was done, with the kind of each of its objects and detections: for looking at pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskrcnn_train.evaluation.coco.ground_truth import complete_ground_truth
from maskrcnn_train.evaluation.diagnostics.curves import best_cut, confidence_curves
from maskrcnn_train.evaluation.diagnostics.diagnostics import IOU
from maskrcnn_train.evaluation.diagnostics.errors import ERROR_KINDS, IGNORED, NAMES, RIGHT, Classified, classify
from maskrcnn_train.evaluation.diagnostics.overlaps import ImageOverlaps, image_overlaps


@dataclass
class Graded:
    """row: in the ground truth's annotations or in the results. kind: one of NAMES. iou: 0 without an object."""

    row: int
    kind: str
    iou: float


@dataclass
class ImageGrade:
    """quality: panoptic quality of the image (Kirillov et al. 2019), 0 to 1: the mean IoU of the right detections
    times F1. It is 1 where there is nothing and nothing was detected. Crowd regions are left out."""

    image_id: int
    objects: list[Graded]
    detections: list[Graded]

    @property
    def quality(self) -> float:
        right = [each.iou for each in self.detections if each.kind == RIGHT]
        count = len(self.detections) + len(self.objects)
        return 2 * sum(right) / count if count else 1.0

    @property
    def num_errors(self) -> int:
        """Objects that are not found and detections that are not right."""
        return sum(each.kind != RIGHT for each in (*self.objects, *self.detections))


def grade_images(
    ground_truth: dict[str, Any], results: Sequence[dict[str, Any]], *, kind: str, max_detections: int
) -> tuple[float, list[ImageGrade]]:
    """The score with the highest mean F1, and a grade for each image, by its id, of the detections from there.

    kind: bbox, segm. results: checked.
    """
    kinds = ["bbox"] if kind == "bbox" else ["bbox", "segm"]
    truth = complete_ground_truth(ground_truth, kinds)
    overlaps = {each: image_overlaps(truth, results, kind=each, max_detections=max_detections) for each in kinds}
    found = classify(overlaps[kind], iou=IOU, boxes=overlaps["bbox"] if kind == "segm" else None)
    names = [category["name"] for category in sorted(ground_truth["categories"], key=lambda each: each["id"])]
    threshold, _ = best_cut(confidence_curves(found.matches, names, iou=IOU))
    return threshold, _grades(found, overlaps[kind], threshold)


def _grades(found: Classified, overlaps: Sequence[ImageOverlaps], threshold: float) -> list[ImageGrade]:
    matches = found.matches
    shown = (matches.scores >= threshold) & (found.kinds != IGNORED)
    graded = [(NAMES[kind], float(iou)) for kind, iou in zip(found.kinds, found.ious, strict=True)] + [("missed", 0.0)]
    grades = [ImageGrade(image.image_id, [], []) for image in overlaps]
    for row in np.flatnonzero(shown):
        image = matches.images[row]
        grades[image].detections.append(Graded(int(overlaps[image].found[matches.rows[row]]), *graded[row]))
    for number, row in enumerate(found.best_of_objects(shown, list(ERROR_KINDS))):  # -1, the last: missed
        image = matches.object_images[number]
        grades[image].objects.append(Graded(int(overlaps[image].objects[matches.object_rows[number]]), *graded[row]))
    return grades
