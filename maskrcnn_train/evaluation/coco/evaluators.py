"""The three COCO evaluators behind one call: arrays of precision and recall, equal to the last bits."""

import contextlib
import gc
import importlib.util
import io
import pkgutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskrcnn_train.evaluation.coco.ground_truth import Coco, results_as_ground_truth
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Floats
from maskrcnn_train.structures.rle import compressed

EXACT = 2**53  # from here on a float64 no longer holds every whole number
ABSENT = -1.0  # COCO's mark for "no such object, so no score"; not NaN, which JSON lacks
EVALUATORS = {  # by package
    "pycocotools": ("pycocotools.coco:COCO", "pycocotools.cocoeval:COCOeval"),
    "faster_coco_eval": ("faster_coco_eval:COCO", "faster_coco_eval:COCOeval_faster"),
    "hotcoco": ("hotcoco:COCO", "hotcoco:COCOeval"),
}


@dataclass(frozen=True)
class Limits:
    """max_detections: ascending, per image and class. area_ranges: (low, high) in square pixels, the first is all."""

    max_detections: Sequence[int]
    iou_thresholds: Sequence[float]
    area_ranges: Sequence[tuple[float, float]]


def run_evaluator(
    backend: str, truth: Coco, results: Sequence[Coco], kind: str, limits: Limits, mask_areas: Sequence[float]
) -> tuple[Floats, Floats]:
    """Precision [T, R, K, A, M] and recall [T, K, A, M] of a checked COCO dict and results.

    T: IoU thresholds, R: 101 recalls, K: classes by id, A: area ranges, M: numbers of detections. mask_areas: of the
    results, square pixels, as `check_results` gives them.
    """
    if not truth["images"] or not truth["categories"]:
        shape = (len(limits.iou_thresholds), 101, len(truth["categories"]), len(limits.area_ranges))
        full = np.full((*shape, len(limits.max_detections)), ABSENT)
        return full, full[:, 0]
    ids = [item["id"] for item in (*truth["images"], *truth["categories"])]
    if min(ids) < 0:
        backend = "pycocotools"  # the only one that takes them
    check_backend(backend)
    coco_class, evaluator_class = map(pkgutil.resolve_name, EVALUATORS[backend])
    # the evaluators write into the annotations, and their progress to the terminal
    idle = "segmentation" if kind == "bbox" else ""
    annotations = [{key: value for key, value in each.items() if key != idle} for each in truth["annotations"]]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"hotcoco|faster_coco_eval|pycocotools")
        reference = _index(coco_class, {**truth, "annotations": annotations})
        if backend == "hotcoco" and max(ids) < EXACT:
            found = _columns(reference, results, kind, mask_areas)
        else:
            found = _index(coco_class, results_as_ground_truth(truth, results, kind, mask_areas))
        evaluator = evaluator_class(reference, found, kind)
        evaluator.params.maxDets = list(limits.max_detections)
        evaluator.params.iouThrs = np.array(limits.iou_thresholds)
        evaluator.params.areaRng = [list(area) for area in limits.area_ranges]
        evaluator.evaluate()
        evaluator.accumulate()
        arrays = evaluator.eval  # hotcoco computes all of it again at each access
    return np.asarray(arrays["precision"], np.float64), np.asarray(arrays["recall"], np.float64)


def check_backend(backend: str) -> None:
    """Raises UserError where the package of an evaluator is not installed."""
    if importlib.util.find_spec(backend) is None:
        raise UserError(
            f"evaluation.backend={backend} needs the package {backend.replace('_', '-')}, which is not installed; "
            'run pip install "maskrcnn-train[evaluators]" or take evaluation.backend=hotcoco'
        )


def _columns(reference: Any, results: Sequence[Coco], kind: str, mask_areas: Sequence[float]) -> Any:
    """The same results as hotcoco takes them fastest: in columns, without a dict for each."""
    boxes = kind == "bbox"
    rows = [
        (each["image_id"], *(each["bbox"] if boxes else (0, 0, 0, 0)), each["score"], each["category_id"])
        for each in results
    ]
    table = np.array(rows, np.float64).reshape(-1, 7)
    if boxes:
        return reference.loadRes(table)
    codes = [result["segmentation"] for result in results]
    found = reference.loadRes(table, segmentation=[compressed(code, code["size"]) for code in codes])
    found.update_anns(ids=np.arange(1, len(results) + 1), area=np.array(mask_areas))
    return found


def _index(coco_class: Any, dataset: dict[str, Any]) -> Any:
    """The evaluator's own data set object from a dict in memory."""
    coco = coco_class()
    coco.dataset = dataset
    coco.createIndex()
    return coco


@contextlib.contextmanager
def cycle_collection_paused() -> Iterator[None]:
    """Results are many small dicts without cycles; Python's collector would walk all of them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
