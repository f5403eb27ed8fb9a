"""Precision-recall curves, and the score threshold at which each class does best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskrcnn_train.evaluation.coco import CocoResult


@dataclass
class PrecisionRecall:
    """One class at one IoU: precision at recall 0, .01, ... 1, and the point of the best F1.

    best_threshold: the score to cut at for that F1. Precisions are COCO's, made to fall with recall.
    """

    class_name: str
    kind: str
    iou: float
    recall: list[float]
    precision: list[float]
    best_f1: float
    best_threshold: float


def precision_recall_curves(
    result: CocoResult, *, kind: str = "bbox", ious: tuple[float, ...] = (0.5, 0.75)
) -> list[PrecisionRecall]:
    """A curve for each class with objects and each IoU, all areas, at the largest number of detections."""
    recall = np.linspace(0, 1, 101)
    curves = []
    for index, class_id in enumerate(result.class_ids):
        for iou in ious:
            row = int(np.abs(np.array(result.iou_thresholds) - iou).argmin())
            precision = result.precision[kind][row, :, index, 0, -1]
            if precision[0] < 0:
                continue
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            best = int(f1.argmax())
            curves.append(
                PrecisionRecall(
                    class_name=result.class_names[class_id],
                    kind=kind,
                    iou=iou,
                    recall=recall.tolist(),
                    precision=precision.tolist(),
                    best_f1=float(f1[best]),
                    best_threshold=float(result.scores[kind][row, best, index, 0, -1]),
                )
            )
    return curves
