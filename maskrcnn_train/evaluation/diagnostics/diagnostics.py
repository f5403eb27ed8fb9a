"""More than mAP: everything an evaluation can say of one set of results, for boxes or for masks."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from maskrcnn_train.evaluation.coco.ground_truth import complete_ground_truth
from maskrcnn_train.evaluation.coco.metrics import CocoResult
from maskrcnn_train.evaluation.diagnostics.bootstrap import Interval, draw_images, headline_draws, interval
from maskrcnn_train.evaluation.diagnostics.calibration import Calibration, calibrate
from maskrcnn_train.evaluation.diagnostics.curves import (
    ConfidenceCurve,
    PrecisionRecall,
    best_cut,
    confidence_curves,
    precision_recall_curves,
)
from maskrcnn_train.evaluation.diagnostics.errors import Errors, classify, confusion_matrix, count_errors
from maskrcnn_train.evaluation.diagnostics.matches import match_detections
from maskrcnn_train.evaluation.diagnostics.overlaps import ImageOverlaps, image_overlaps
from maskrcnn_train.evaluation.diagnostics.sizes import SizeBucket, size_buckets
from maskrcnn_train.structures.arrays import Floats, Ints

IOU = 0.5  # of everything that is taken at one IoU


@dataclass
class Diagnostics:
    """What was found out about one kind (bbox, segm).

    threshold: the score with the highest mean F1; `confusion`, the counts of `errors` and the confident shares of
    `sizes` are of the detections from there on. confusion: int64 [K + 1, K + 1], rows the truth, columns the
    detections, last: background. calibration: None where scores lie outside 0 to 1. intervals: by measure, empty
    without draws. draws: the scores behind them, by measure.
    """

    kind: str
    class_names: list[str]
    threshold: float
    precision_recall: list[PrecisionRecall]
    confidence: list[ConfidenceCurve]
    confusion: Ints
    errors: Errors
    calibration: Calibration | None
    sizes: list[SizeBucket]
    intervals: dict[str, Interval]
    draws: dict[str, Floats] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """For JSON, without the draws."""
        plain = {name: value for name, value in asdict(self).items() if name != "draws"}
        return plain | {"confusion": self.confusion.tolist()}


def diagnose(
    ground_truth: dict[str, Any], results: Sequence[dict[str, Any]], result: CocoResult, *, num_draws: int, seed: int
) -> dict[str, Diagnostics]:
    """Diagnose each kind that `result` has the metrics of.

    num_draws: of the images, behind each interval; 0 for no intervals. The draws follow from the seed and the number of
    images: they are the same for every model that is scored on them.
    """
    kinds, most = list(result.precision), result.max_detections[-1]
    num_images = len(ground_truth["images"])
    draws = draw_images(num_images, num_draws, seed) if num_draws and num_images else None
    truth = complete_ground_truth(ground_truth, kinds)
    overlaps = {kind: image_overlaps(truth, results, kind=kind, max_detections=most) for kind in kinds}
    return {kind: _diagnose(kind, overlaps, result, draws) for kind in kinds}


def _diagnose(
    kind: str, overlaps: dict[str, list[ImageOverlaps]], result: CocoResult, draws: Ints | None
) -> Diagnostics:
    own = overlaps[kind]
    names = list(result.class_names.values())
    found = classify(own, iou=IOU, boxes=overlaps["bbox"] if kind == "segm" and "bbox" in overlaps else None)
    at_half = found.matches
    confidence = confidence_curves(at_half, names, iou=IOU)
    threshold, _ = best_cut(confidence)
    sure = [image.first(int((image.scores >= threshold).sum())) for image in own]
    scores = {} if draws is None else headline_draws(own, result, draws)
    intervals = {name: interval(each) for name, each in scores.items()}
    return Diagnostics(
        kind=kind,
        class_names=names,
        threshold=threshold,
        precision_recall=precision_recall_curves(result, kind=kind),
        confidence=confidence,
        confusion=confusion_matrix(found, num_classes=len(names), threshold=threshold),
        errors=count_errors(found, iou=IOU, threshold=threshold),
        calibration=calibrate(at_half, iou=IOU),
        sizes=size_buckets(own, at_half, match_detections(sure, iou_thresholds=[IOU])),
        intervals={name: each for name, each in intervals.items() if each is not None},
        draws=scores,
    )
