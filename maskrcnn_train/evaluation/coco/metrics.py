"""COCO mean average precision: the metrics out of the arrays that an evaluator fills, by one rule.

pycocotools' own summary fixes AP at 100 detections, so it can't be used when `max_detections` says otherwise.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from maskrcnn_train.evaluation.coco.evaluators import ABSENT, Limits, cycle_collection_paused, run_evaluator
from maskrcnn_train.evaluation.coco.ground_truth import Coco, check_results, complete_ground_truth
from maskrcnn_train.settings.schema import EvaluationConfig
from maskrcnn_train.structures.arrays import Floats

MEASURES = ("max_detections", "iou_thresholds", "size_limits")  # keys of `evaluation` that decide what scores mean
IOU_THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)  # COCO's
SIZE_LIMITS = (32, 96)  # COCO's: square roots of the areas where medium and large objects begin, image pixels
KIND_WORDS = {"bbox": "boxes", "segm": "masks"}
KINDS = tuple(KIND_WORDS)
AREA_NAMES = ("all", "small", "medium", "large")
Names = dict[int, str]  # of classes, by category id
NO_LIMIT = 1e10  # COCO's area that no object exceeds


@dataclass
class CocoResult:
    """What an evaluation gives.

    metrics: `bbox/AP`, `segm/AR100`, `bbox/AP/<class>`, ...: fractions, or -1 where there is nothing to score.
    precision: by kind, float64 [T, R, K, A, M]: `iou_thresholds`, 101 recalls 0 to 1, classes by id,
    areas as in AREA_NAMES with `size_limits`, `max_detections`. -1: no such object.
    recall: by kind, float64 [T, K, A, M]. class_names: by ascending id. support: objects of each class, crowd regions
    apart.
    """

    metrics: dict[str, float]
    precision: dict[str, Floats]
    recall: dict[str, Floats]
    class_names: Names
    support: dict[int, int]
    max_detections: list[int]
    iou_thresholds: list[float]
    size_limits: tuple[float, float]


def evaluate_coco(
    ground_truth: Coco,
    results: list[Coco],
    *,
    backend: str,
    max_detections: list[int],
    kinds: Sequence[str] = ("bbox", "segm"),
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    size_limits: Sequence[float] = SIZE_LIMITS,
) -> CocoResult:
    """Score COCO results against a COCO dict (polygons or RLE); neither is changed.

    `kinds`: "bbox", "segm". `max_detections`: ascending; per image and class, as COCO counts them. `size_limits`: the
    sides, square roots of areas in image pixels, at which medium and large objects begin.
    Raises UserError for results of other images or categories, and for malformed boxes and masks.
    """
    limits = Limits(max_detections, iou_thresholds, area_ranges(size_limits))
    with cycle_collection_paused():
        truth = complete_ground_truth(ground_truth, kinds)
        mask_areas = check_results(truth, results, kinds)
        arrays = {kind: run_evaluator(backend, truth, results, kind, limits, mask_areas) for kind in kinds}
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    names = distinct_names({category["id"]: category["name"] for category in categories})
    metrics = {
        f"{kind}/{key}": value
        for kind, (precision, recall) in arrays.items()
        for key, value in summarize(precision, recall, max_detections, iou_thresholds).items()
    }
    for kind, (precision, _) in arrays.items():
        for index, name in enumerate(names.values()):
            metrics[f"{kind}/AP/{name}"] = mean_present(precision[:, :, index, 0, -1])
    support = Counter(each["category_id"] for each in truth["annotations"] if not each["iscrowd"])
    return CocoResult(
        metrics=metrics,
        precision={kind: each[0] for kind, each in arrays.items()},
        recall={kind: each[1] for kind, each in arrays.items()},
        class_names=names,
        support={class_id: support[class_id] for class_id in names},
        max_detections=list(max_detections),
        iou_thresholds=list(iou_thresholds),
        size_limits=(size_limits[0], size_limits[1]),
    )


def area_ranges(size_limits: Sequence[float]) -> list[tuple[float, float]]:
    """Square pixels of each of AREA_NAMES; a limit belongs to both sides, as in the evaluators."""
    medium, large = (limit**2 for limit in size_limits)
    return [(0, NO_LIMIT), (0, medium), (medium, large), (large, NO_LIMIT)]


def score_coco(
    ground_truth: Coco, results: list[Coco], section: EvaluationConfig, *, kinds: Sequence[str]
) -> CocoResult:
    """`evaluate_coco` as the `evaluation` section says."""
    limits = {name: getattr(section, name) for name in ("backend", *MEASURES)}
    return evaluate_coco(ground_truth, results, **limits, kinds=kinds)


def single_ious(iou_thresholds: Sequence[float]) -> list[tuple[int, float]]:
    """Row and value of the IoUs that are also looked at alone, 0.5 and 0.75, where they are among the thresholds."""
    return [(row, iou) for row, iou in enumerate(iou_thresholds) if round(iou, 6) in (0.5, 0.75)]


def summarize(
    precision: Floats, recall: Floats, max_detections: Sequence[int], iou_thresholds: Sequence[float] = IOU_THRESHOLDS
) -> dict[str, float]:
    """COCO's twelve numbers from the arrays, AP at the last of `max_detections` (COCO's cocoeval.py, `summarize`).

    AP50 and AP75 are there if their IoU is one of `iou_thresholds`.
    """
    metrics = {"AP": mean_present(precision[..., 0, -1])}
    for row, iou in single_ious(iou_thresholds):
        metrics[f"AP{100 * iou:.0f}"] = mean_present(precision[row, ..., 0, -1])
    for area, name in enumerate(AREA_NAMES[1:], start=1):
        metrics[f"AP{name[0]}"] = mean_present(precision[..., area, -1])
    for index, limit in enumerate(max_detections):
        metrics[f"AR{limit}"] = mean_present(recall[..., 0, index])
    for area, name in enumerate(AREA_NAMES[1:], start=1):
        metrics[f"AR{name[0]}"] = mean_present(recall[..., area, -1])
    return metrics


def mean_present(values: Floats) -> float:
    """Mean of the values above -1, or -1 where there are none."""
    present = values[values > ABSENT]
    return float(present.mean()) if present.size else ABSENT


def distinct_names(names: Names) -> Names:
    """Class names that can be told apart: two classes of one name carry their ids."""
    uses = Counter(names.values())
    return {class_id: f"{name} ({class_id})" if uses[name] > 1 else name for class_id, name in names.items()}


def explain_absent(result: CocoResult) -> list[str]:
    """A sentence for each score that is -1, saying what the split lacks."""
    if not sum(result.support.values()):
        return ["every AP and AR is absent: this split has no objects (crowd regions are not scored)"]
    small, large = result.size_limits
    words = {"small": f"below {small:g}^2", "medium": f"from {small:g}^2 to {large:g}^2", "large": f"above {large:g}^2"}
    sentences = [
        f"{kind}/AP{name[0]} and {kind}/AR{name[0]} are absent: no {name} objects (area {area} pixels) in this split"
        for kind in result.precision
        for name, area in words.items()
        if result.metrics[f"{kind}/AP{name[0]}"] == ABSENT
    ]
    without = [name for class_id, name in result.class_names.items() if not result.support[class_id]]
    if without:
        shown = ", ".join(without[:10]) + (f" and {len(without) - 10} more" if len(without) > 10 else "")
        sentences.append(f"no AP for {shown}: no objects of it in this split; the mean is over the other classes")
    return sentences
