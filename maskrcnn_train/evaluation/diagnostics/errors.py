"""What the lost AP was lost to: each kind of error counted, and the AP that mending it alone would give.

The kinds are those of TIDE (Bolya et al. 2020), with `mask` set apart: a box that is right around a mask that is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from maskrcnn_train.evaluation.diagnostics.matches import Matches, match_detections, plain_average_precision
from maskrcnn_train.evaluation.diagnostics.overlaps import ImageOverlaps
from maskrcnn_train.structures.arrays import Flags, Ints

BACKGROUND_IOU = 0.1  # below it a detection has nothing to do with an object
KINDS = {
    "classification": "overlaps an object of another class",
    "localisation": "the right class, overlapping too little",
    "mask": "the right class and box, but the mask overlaps too little",
    "both": "another class, overlapping too little",
    "duplicate": "the object has a detection with a higher score",
    "background": "no object there",
    "missed": "an object without a detection or any near miss",
}


@dataclass
class ErrorKind:
    """count: detections, or objects for `missed`. ap_gain: how much AP at this IoU would rise without this kind."""

    name: str
    meaning: str
    count: int
    ap_gain: float


@dataclass
class Errors:
    """The breakdown at one IoU. ap: as it is. kinds: in the order of KINDS; `mask` only for masks."""

    iou: float
    ap: float
    kinds: list[ErrorKind]


@dataclass
class _Verdicts:
    """kind: index into KINDS or -1 for each detection [N]; target: the object (index into the matches' objects) that
    mending the class or the place would hit, or -1 [N]; missed: bool [M]."""

    kind: Ints
    target: Ints
    missed: Flags


def break_down_errors(
    overlaps: Sequence[ImageOverlaps], *, iou: float, boxes: Sequence[ImageOverlaps] | None = None
) -> Errors:
    """The errors of all detections. boxes: the overlaps of the boxes, where `overlaps` are those of masks."""
    matches = match_detections(overlaps, iou_thresholds=[iou])
    verdicts = _judge(matches, overlaps, boxes, iou)
    hit, ignored = matches.hits[0], matches.ignored[0]
    ap = _mean_ap(matches, hit, ignored, matches.classes)
    kinds = []
    for number, (name, meaning) in enumerate(KINDS.items()):
        if name == "mask" and boxes is None:
            continue
        mended = verdicts.kind == number
        if name == "missed":
            better = _mean_ap(matches, hit, ignored, matches.classes, without=verdicts.missed)
            count = int(verdicts.missed.sum())
        else:
            better = _ap_without(matches, verdicts, mended)
            count = int(mended.sum())
        kinds.append(ErrorKind(name, meaning, count, float(better - ap)))
    return Errors(iou, ap, kinds)


def _judge(
    matches: Matches, overlaps: Sequence[ImageOverlaps], boxes: Sequence[ImageOverlaps] | None, iou: float
) -> _Verdicts:
    names = list(KINDS)
    first_object = np.searchsorted(matches.object_images, np.arange(len(overlaps)))
    kind, target = np.full(len(matches.scores), -1), np.full(len(matches.scores), -1)
    near_missed = np.zeros(len(matches.object_classes), bool)
    for row in np.flatnonzero(~matches.hits[0] & ~matches.ignored[0]):
        image = overlaps[matches.images[row]]
        place = matches.places[row]
        real = np.flatnonzero(~image.crowd)
        ious = image.ious[place, real]
        same = image.object_classes[real] == matches.classes[row]
        own, other = np.where(same, ious, -1.0), np.where(same, -1.0, ious)
        best_own, best_other = own.max(initial=-1.0), other.max(initial=-1.0)
        if best_own >= iou:
            name, nearest = "duplicate", -1
        elif best_other >= iou:
            name, nearest = "classification", int(other.argmax())
        elif best_own >= BACKGROUND_IOU:
            nearest = int(own.argmax())
            right_box = boxes is not None and boxes[matches.images[row]].ious[place, real[nearest]] >= iou
            name = "mask" if right_box else "localisation"
        else:
            name, nearest = ("both" if best_other >= BACKGROUND_IOU else "background"), -1
        kind[row] = names.index(name)
        if nearest >= 0:
            target[row] = first_object[matches.images[row]] + nearest
            near_missed[target[row]] = True
    return _Verdicts(kind, target, ~matches.found[0] & ~near_missed)


def _ap_without(matches: Matches, verdicts: _Verdicts, mended: Flags) -> float:
    """AP if these errors were mended: moved onto their free object, the first of several; else taken away."""
    hit, ignored, classes = matches.hits[0].copy(), matches.ignored[0].copy(), matches.classes.copy()
    free = ~matches.found[0]
    for row in np.flatnonzero(mended):  # by falling score
        target = verdicts.target[row]
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
        if num_objects:
            scores.append(plain_average_precision(hit[own], ignored[own], num_objects))
        else:  # nothing is left to find: as good as can be, unless something is detected all the same
            scores.append(float(ignored[own].all()))
    return float(np.mean(scores)) if scores else 0.0
