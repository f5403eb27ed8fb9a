"""COCO mean average precision, the same numbers from three evaluators.

The evaluators fill the arrays of precision and recall; the metrics are taken from those arrays
here, by one rule. pycocotools' own summary fixes AP at 100 detections, so it can't be used
when `max_detections` says otherwise.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn_train.evaluation.ground_truth import check_results, complete_ground_truth, results_as_ground_truth

Array = npt.NDArray[np.float64]
ABSENT = -1.0  # COCO's mark for "no such object, so no score"; not NaN, which JSON lacks
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREA_NAMES = ("all", "small", "medium", "large")
AREA_LIMITS = {"small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}
AREA_WORDS = {"small": "area below 32^2", "medium": "area from 32^2 to 96^2", "large": "area above 96^2"}
EVALUATORS = {
    "pycocotools": ("pycocotools.coco.COCO", "pycocotools.cocoeval.COCOeval"),
    "faster_coco_eval": ("faster_coco_eval.COCO", "faster_coco_eval.COCOeval_faster"),
    "hotcoco": ("hotcoco.COCO", "hotcoco.COCOeval"),
}


@dataclass
class CocoResult:
    """What an evaluation gives.

    metrics: `bbox/AP`, `segm/AR100`, `bbox/AP/<class>`, ...: fractions, or -1 where there is nothing to score.
    precision, scores: by kind, float64 [T, R, K, A, M]: 10 IoU thresholds .5 to .95, 101 recalls 0 to 1,
    classes in the order of `class_ids`, areas as in AREA_NAMES, `max_detections`. -1: no such object.
    recall: by kind, float64 [T, K, A, M].
    support: objects of each class, crowd regions apart. area_counts: objects small, medium, large.
    """

    metrics: dict[str, float]
    precision: dict[str, Array]
    recall: dict[str, Array]
    scores: dict[str, Array]
    class_ids: list[int]
    class_names: dict[int, str]
    support: dict[int, int]
    area_counts: dict[str, int]
    max_detections: list[int] = field(default_factory=list)


def evaluate_coco(
    ground_truth: dict[str, Any],
    results: list[dict[str, Any]],
    *,
    backend: str,
    max_detections: list[int],
    kinds: Sequence[str] = ("bbox", "segm"),
    class_names: dict[int, str],
) -> CocoResult:
    """Score COCO results against a COCO dict (polygons or RLE); neither is changed.

    `kinds`: "bbox", "segm". `max_detections`: ascending; per image and class, as COCO counts them.
    Raises ValueError for results of other images or categories, and for malformed boxes and masks.
    """
    truth = complete_ground_truth(ground_truth, kinds)
    check_results(truth, results, kinds)
    class_ids = sorted(category["id"] for category in truth["categories"])
    names = distinct_names({class_id: class_names[class_id] for class_id in class_ids})
    arrays = {kind: _run(backend, truth, results, kind, max_detections) for kind in kinds}
    metrics: dict[str, float] = {}
    for kind, (precision, recall, _) in arrays.items():
        metrics |= {f"{kind}/{key}": value for key, value in summarize(precision, recall, max_detections).items()}
    for kind, (precision, _, _) in arrays.items():
        for index, class_id in enumerate(class_ids):
            metrics[f"{kind}/AP/{names[class_id]}"] = mean_present(precision[:, :, index, 0, -1])
    objects = [annotation for annotation in truth["annotations"] if not annotation["iscrowd"]]
    support = Counter(annotation["category_id"] for annotation in objects)
    return CocoResult(
        metrics=metrics,
        precision={kind: arrays[kind][0] for kind in kinds},
        recall={kind: arrays[kind][1] for kind in kinds},
        scores={kind: arrays[kind][2] for kind in kinds},
        class_ids=class_ids,
        class_names=names,
        support={class_id: support[class_id] for class_id in class_ids},
        area_counts=_area_counts(objects),
        max_detections=list(max_detections),
    )


def _run(
    backend: str, truth: dict[str, Any], results: list[dict[str, Any]], kind: str, max_detections: list[int]
) -> tuple[Array, Array, Array]:
    """Precision [T, R, K, A, M], recall [T, K, A, M] and scores [T, R, K, A, M] from one evaluator."""
    if not truth["images"] or not truth["categories"]:
        return _empty_arrays(len(truth["categories"]), len(max_detections))
    coco_class, evaluator_class = (_load(path) for path in EVALUATORS[backend])
    # The evaluators write into the annotations, and their progress to the terminal.
    copy = {**truth, "annotations": [dict(annotation) for annotation in truth["annotations"]]}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"hotcoco|faster_coco_eval|pycocotools")
        evaluator = evaluator_class(
            _index(coco_class, copy), _index(coco_class, results_as_ground_truth(truth, results, kind)), kind
        )
        evaluator.params.maxDets = list(max_detections)
        evaluator.evaluate()
        evaluator.accumulate()
    found = evaluator.eval
    return tuple(np.asarray(found[key], np.float64) for key in ("precision", "recall", "scores"))  # type: ignore[return-value]


def _load(path: str) -> Any:
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def _index(coco_class: Any, dataset: dict[str, Any]) -> Any:
    """The evaluator's own data set object from a dict in memory."""
    coco = coco_class()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _empty_arrays(num_classes: int, num_limits: int) -> tuple[Array, Array, Array]:
    shape = (10, 101, num_classes, 4, num_limits)
    return np.full(shape, ABSENT), np.full((10, *shape[2:]), ABSENT), np.full(shape, ABSENT)


def summarize(precision: Array, recall: Array, max_detections: Sequence[int]) -> dict[str, float]:
    """COCO's twelve numbers from the arrays, AP at the last of `max_detections` (COCO's cocoeval.py, `summarize`)."""
    metrics = {
        "AP": mean_present(precision[..., 0, -1]),
        "AP50": mean_present(precision[0, ..., 0, -1]),
        "AP75": mean_present(precision[5, ..., 0, -1]),
    }
    for area, name in enumerate(AREA_NAMES[1:], start=1):
        metrics[f"AP{name[0]}"] = mean_present(precision[..., area, -1])
    for index, limit in enumerate(max_detections):
        metrics[f"AR{limit}"] = mean_present(recall[..., 0, index])
    for area, name in enumerate(AREA_NAMES[1:], start=1):
        metrics[f"AR{name[0]}"] = mean_present(recall[..., area, -1])
    return metrics


def mean_present(values: Array) -> float:
    """Mean of the values above -1, or -1 where there are none."""
    present = values[values > ABSENT]
    return float(present.mean()) if present.size else ABSENT


def distinct_names(names: dict[int, str]) -> dict[int, str]:
    """Class names that can be told apart: two classes of one name carry their ids."""
    uses = Counter(names.values())
    return {class_id: f"{name} ({class_id})" if uses[name] > 1 else name for class_id, name in names.items()}


def _area_counts(objects: list[dict[str, Any]]) -> dict[str, int]:
    """Objects in each of COCO's size classes; both limits belong to both, as in the evaluators."""
    return {
        name: sum(low <= annotation["area"] <= high for annotation in objects)
        for name, (low, high) in AREA_LIMITS.items()
    }


def explain_absent(result: CocoResult) -> list[str]:
    """A sentence for each score that is -1, saying what the split lacks."""
    if not sum(result.support.values()):
        return ["every AP and AR is absent: this split has no objects (crowd regions are not scored)"]
    sentences = []
    for kind in result.precision:
        for name in AREA_NAMES[1:]:
            keys = [f"{kind}/{measure}{name[0]}" for measure in ("AP", "AR")]
            if result.metrics[keys[0]] == ABSENT:
                sentences.append(
                    f"{' and '.join(keys)} are absent: no {name} objects ({AREA_WORDS[name]} pixels) in this split"
                )
    without = [result.class_names[class_id] for class_id in result.class_ids if not result.support[class_id]]
    if without:
        shown = ", ".join(without[:10]) + (f" and {len(without) - 10} more" if len(without) > 10 else "")
        sentences.append(f"no AP for {shown}: no objects of it in this split; the mean is over the other classes")
    return sentences
