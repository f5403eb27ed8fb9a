"""Precision over recall, and precision, recall and F1 over the score at which detections are cut off."""

from dataclasses import dataclass, field

import numpy as np

from maskrcnn_train.evaluation.coco.metrics import CocoResult, single_ious
from maskrcnn_train.evaluation.diagnostics.matches import Matches
from maskrcnn_train.structures.arrays import Floats, Ints

NUM_CUTS = 101  # scores at which the curves are drawn


@dataclass
class PrecisionRecall:
    """One class at one IoU: precision at recall 0, .01, ... 1; COCO's, made to fall with recall."""

    class_name: str
    iou: float
    recall: list[float]
    precision: list[float]


@dataclass
class ConfidenceCurve:
    """One class at one IoU: what is left above each of the scores `cuts`. Precision is 1 where nothing is left.

    cuts: 0, .01, ... 1, of all classes the same; where some score lies outside 0 to 1, as many over the wider range
    (older files do not say).
    best_threshold: the score of the detection down to which F1 is highest, with the three numbers there.
    """

    class_name: str
    iou: float
    cuts: list[float] = field(kw_only=True, default_factory=np.linspace(0, 1, NUM_CUTS).tolist)
    precision: list[float]
    recall: list[float]
    f1: list[float]
    best_threshold: float
    best_f1: float
    best_precision: float
    best_recall: float


def precision_recall_curves(result: CocoResult, *, kind: str) -> list[PrecisionRecall]:
    """A curve for each class with objects and each of IoU 0.5 and 0.75 that was evaluated, at the most detections."""
    recall = np.linspace(0, 1, 101).tolist()
    precision = result.precision[kind][..., 0, -1]
    return [
        PrecisionRecall(name, iou, recall, precision[row, :, index].tolist())
        for index, name in enumerate(result.class_names.values())
        for row, iou in single_ious(result.iou_thresholds)
        if precision[row, 0, index] >= 0
    ]


def confidence_curves(matches: Matches, class_names: list[str], *, iou: float) -> list[ConfidenceCurve]:
    """A curve for each class with objects. matches: at `iou` alone; class_names: by id, as the matches number them."""
    cuts = np.linspace(matches.scores.min(initial=0.0), matches.scores.max(initial=1.0), NUM_CUTS)
    numbers = np.unique(matches.object_classes).tolist()
    return [_confidence_curve(matches, number, class_names[number], iou, cuts) for number in numbers]


def _confidence_curve(matches: Matches, number: int, name: str, iou: float, cuts: Floats) -> ConfidenceCurve:
    own = (matches.classes == number) & ~matches.ignored[0]
    scores, hits = matches.scores[own], matches.hits[0, own]
    num_objects = int((matches.object_classes == number).sum())
    right = np.concatenate([[0], hits.cumsum()])  # among the first n detections
    kept = np.searchsorted(-scores, -cuts, side="right")  # detections with at least this score
    precision, recall, f1 = _rates(right[kept], kept, num_objects)
    best = [0.0] * 4
    if len(scores):  # the best cut lies below a whole run of equal scores
        ends = np.flatnonzero(np.diff(scores, append=-np.inf)) + 1
        all_precision, all_recall, all_f1 = _rates(right[ends], ends, num_objects)
        row = all_f1.argmax()
        best = [float(each[row]) for each in (scores[ends - 1], all_f1, all_precision, all_recall)]
    return ConfidenceCurve(name, iou, precision.tolist(), recall.tolist(), f1.tolist(), *best, cuts=cuts.tolist())


def _rates(right: Ints, kept: Ints, num_objects: int) -> tuple[Floats, Floats, Floats]:
    precision = np.where(kept > 0, right / np.maximum(kept, 1), 1.0)
    return precision, right / num_objects, 2 * right / (kept + num_objects)


def best_cut(curves: list[ConfidenceCurve]) -> tuple[float, float]:
    """One threshold for all classes: the cut where their mean F1 is highest, and that F1; zeros without curves."""
    if not curves:
        return 0.0, 0.0
    mean = np.mean([curve.f1 for curve in curves], axis=0)
    best = int(mean.argmax())
    return curves[0].cuts[best], float(mean[best])
