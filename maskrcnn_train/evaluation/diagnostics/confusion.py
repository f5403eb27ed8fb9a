"""Which class is taken for which: every detection above a score against every object, whatever their classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from maskrcnn_train.evaluation.diagnostics.overlaps import ImageOverlaps, pairs_by_iou
from maskrcnn_train.structures.arrays import Ints


def confusion_matrix(
    overlaps: Sequence[ImageOverlaps], *, num_classes: int, score_threshold: float, iou: float
) -> Ints:
    """Counts int64 [K + 1, K + 1]: rows what it is, columns what it was taken for; the last of each: background.

    Pairs are made by falling IoU, at least `iou`, each detection and each object once; crowd regions are left out,
    and so are the detections that lie in them and nowhere else.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for image in overlaps:
        shown, real = np.flatnonzero(image.scores >= score_threshold), np.flatnonzero(~image.crowd)
        ious = image.ious[np.ix_(shown, real)]
        in_crowd = (image.ious[shown][:, image.crowd] >= iou).any(axis=1)
        free_found, free_real = np.ones(len(shown), bool), np.ones(len(real), bool)
        for row, column in pairs_by_iou(np.where(ious >= iou, ious, 0.0), free_found, free_real):
            matrix[image.object_classes[real[column]], image.found_classes[shown[row]]] += 1
        missed, false_alarms = real[free_real], shown[free_found & ~in_crowd]
        matrix[:-1, -1] += np.bincount(image.object_classes[missed], minlength=num_classes)
        matrix[-1, :-1] += np.bincount(image.found_classes[false_alarms], minlength=num_classes)
    return matrix
