"""Which class is taken for which."""

from __future__ import annotations

import numpy as np

from maskrcnn_train.evaluation.diagnostics.errors import IGNORED, Classified
from maskrcnn_train.structures.arrays import Ints


def confusion_matrix(found: Classified, *, num_classes: int, threshold: float) -> Ints:
    """Counts int64 [K + 1, K + 1]: rows the object, columns what it was taken for; the last of each: background.

    Of the detections scored at least `threshold`. Each object counts once: with its right detection, else with the
    highest-scored one of another class on it, else as missed. Every other detection is a false alarm.
    """
    matches = found.matches
    shown = (matches.scores >= threshold) & (found.kinds != IGNORED)
    best = found.best_of_objects(shown, ["classification"])
    taken_for = np.where(best >= 0, np.append(matches.classes, num_classes)[best], num_classes)
    matrix = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    np.add.at(matrix, (matches.object_classes, taken_for), 1)
    shown[best[best >= 0]] = False
    matrix[-1, :-1] = np.bincount(matches.classes[shown], minlength=num_classes)
    return matrix
