"""What is wrong with each detection and object, which class is taken for which, and what each kind of error costs.

The kinds are those of TIDE (Bolya et al. 2020), with `mask` set apart: a right box around a wrong mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskrcnn_train.evaluation.diagnostics.matches import Matches, match_detections, plain_average_precision
from maskrcnn_train.evaluation.diagnostics.overlaps import ImageOverlaps
from maskrcnn_train.structures.arrays import Flags, Floats, Ints

BACKGROUND_IOU = 0.1  # below it a detection has nothing to do with an object
ERROR_KINDS = {
    "classification": "on an object of another class",
    "localisation": "the right class, but it overlaps the object too little",
    "mask": "the right class and box, but the mask overlaps the object too little",
    "both": "another class, and it overlaps the object too little",
    "duplicate": "on an object that a detection with a higher score has found",
    "background": "no object there",
    "missed": "an object without a detection or a near miss",
}
RIGHT = "right"
NAMES = (*ERROR_KINDS, RIGHT)
IGNORED = -1  # in a crowd region: neither right nor wrong


@dataclass
class ErrorKind:
    """count: detections from the score threshold on; for `missed`, objects that none of these is on or near.
    ap_gain: how much AP at this IoU would rise without this kind, of detections with any score."""

    name: str
    meaning: str
    count: int
    ap_gain: float


@dataclass
class Errors:
    """All errors at one IoU. ap: as it is. kinds: in the order of ERROR_KINDS; `mask` only for masks."""

    iou: float
    ap: float
    kinds: list[ErrorKind]


@dataclass
class Classified:
    """What each of the N detections of `matches` is.

    kinds: int64 [N], index into NAMES, or IGNORED. targets: int64 [N], the object that it hits, or would hit with the
    right class, box or mask; -1 for none. ious: float [N], with the object that decides the kind.
    has_boxes: whether boxes tell `mask` from `localisation`.
    """

    matches: Matches
    kinds: Ints
    targets: Ints
    ious: Floats
    has_boxes: bool

    def best_of_objects(self, shown: Flags, names: Sequence[str]) -> Ints:
        """For each object the shown detection on it: int64 [M], -1 for none.

        That is the right one, or else the one with the highest score among those of the kinds `names`.
        """
        best = np.full(len(self.matches.object_classes), -1)
        for allowed in (names, [RIGHT]):
            rows = np.flatnonzero(shown & np.isin(self.kinds, [NAMES.index(name) for name in allowed]))[::-1]
            rows = rows[self.targets[rows] >= 0]
            best[self.targets[rows]] = rows  # of several the last, which has the highest score
        return best


def classify(
    overlaps: Sequence[ImageOverlaps], *, iou: float, boxes: Sequence[ImageOverlaps] | None = None
) -> Classified:
    """Classify every detection. boxes: the overlaps of the boxes, if `overlaps` are those of masks."""
    matches = match_detections(overlaps, iou_thresholds=[iou])
    count = len(matches.scores)
    kinds, targets, ious = np.full(count, IGNORED), matches.targets[0].copy(), np.zeros(count)
    first_object = np.searchsorted(matches.object_images, np.arange(len(overlaps)))
    for row in np.flatnonzero(~matches.ignored[0]):
        number = matches.images[row]
        image, first = overlaps[number], first_object[number]
        if matches.hits[0, row]:
            name, ious[row] = RIGHT, image.ious[matches.rows[row], matches.object_rows[targets[row]]]
        else:
            box_ious = None if boxes is None else boxes[number].ious[matches.rows[row]]
            name, nearest, ious[row] = _error(image, matches.rows[row], box_ious, iou)
            targets[row] = first + nearest if nearest >= 0 else -1
        kinds[row] = NAMES.index(name)
    return Classified(matches, kinds, targets, ious, has_boxes=boxes is not None)


def _error(image: ImageOverlaps, row: int, box_ious: Floats | None, iou: float) -> tuple[str, int, float]:
    """The kind of one wrong detection, the object (among those that are no crowd) that it misses or -1, their IoU."""
    real = np.flatnonzero(~image.crowd)
    ious = image.ious[row, real]
    same = image.object_classes[real] == image.found_classes[row]
    own, other = np.where(same, ious, -1.0), np.where(same, -1.0, ious)
    best_own, best_other = own.max(initial=-1.0), other.max(initial=-1.0)
    if best_own >= iou:
        return "duplicate", -1, best_own
    if best_other >= iou:
        return "classification", int(other.argmax()), best_other
    if best_own >= BACKGROUND_IOU:
        nearest = int(own.argmax())
        right_box = box_ious is not None and box_ious[real[nearest]] >= iou
        return "mask" if right_box else "localisation", nearest, best_own
    if best_other >= BACKGROUND_IOU:
        return "both", -1, best_other
    return "background", -1, 0.0


def count_errors(found: Classified, *, iou: float, threshold: float = -np.inf) -> Errors:
    """Count the errors of the detections scored at least `threshold`, and what each kind costs at any score."""
    matches, shown = found.matches, found.matches.scores >= threshold
    missed, missed_shown = (found.best_of_objects(each, list(ERROR_KINDS)) < 0 for each in (shown >= 0, shown))
    hit, ignored = matches.hits[0], matches.ignored[0]
    ap = _mean_ap(matches, hit, ignored, matches.classes)
    kinds = []
    for number, (name, meaning) in enumerate(ERROR_KINDS.items()):
        if name == "mask" and not found.has_boxes:
            continue
        if name == "missed":
            better = _mean_ap(matches, hit, ignored, matches.classes, without=missed)
            count = int(missed_shown.sum())
        else:
            better = _ap_without(found, found.kinds == number)
            count = int((shown & (found.kinds == number)).sum())
        kinds.append(ErrorKind(name, meaning, count, float(better - ap)))
    return Errors(iou, ap, kinds)


def _ap_without(found: Classified, fixed: Flags) -> float:
    """AP if these errors were fixed: moved onto their free object, the first of several; else taken away."""
    matches = found.matches
    hit, ignored, classes = matches.hits[0].copy(), matches.ignored[0].copy(), matches.classes.copy()
    free = ~matches.found[0]
    for row in np.flatnonzero(fixed):  # by falling score
        target = found.targets[row]
        if target >= 0 and free[target]:
            free[target] = False
            hit[row], classes[row] = True, matches.object_classes[target]
        else:
            ignored[row] = True
    return _mean_ap(matches, hit, ignored, classes)


def _mean_ap(matches: Matches, hit: Flags, ignored: Flags, classes: Ints, without: Flags | None = None) -> float:
    """Mean over the classes with objects. without: objects that no longer count, bool [M]."""
    counted = np.ones(len(matches.object_classes), bool) if without is None else ~without
    scores = []
    for number in np.unique(matches.object_classes):
        own = classes == number
        num_objects = int((counted & (matches.object_classes == number)).sum())
        # nothing left to find is as good as can be, unless something is detected all the same
        score = plain_average_precision(hit[own], ignored[own], num_objects) if num_objects else ignored[own].all()
        scores.append(float(score))
    return float(np.mean(scores)) if scores else 0.0


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
