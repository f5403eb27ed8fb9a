"""COCO's matching of detections to objects, kept for every single one: the evaluators give means only.

The rule is that of cocoapi's `evaluateImg`: highest score first, each detection takes the object of its class that it
overlaps most and that is still free; one that only meets crowd or objects outside the area range is not counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from maskrcnn_train.evaluation.coco.metrics import NO_LIMIT
from maskrcnn_train.evaluation.diagnostics.overlaps import ImageOverlaps
from maskrcnn_train.structures.arrays import Flags, Floats, Ints

RECALLS = np.linspace(0, 1, 101)


@dataclass
class Matches:
    """Detections (N) by falling score and objects that count (M) of all images; T IoU thresholds.

    images [N], object_images [M]: index into the overlaps; rows [N], object_rows [M]: row within the image.
    hits: bool [T, N], matched an object that counts; targets: int64 [T, N], that object (0..M-1) or -1;
    ignored: bool [T, N], neither right nor wrong; found: bool [T, M], the objects that were matched.
    """

    images: Ints
    rows: Ints
    classes: Ints
    scores: Floats
    hits: Flags
    targets: Ints
    ignored: Flags
    object_images: Ints
    object_rows: Ints
    object_classes: Ints
    found: Flags


def match_detections(
    overlaps: Sequence[ImageOverlaps], *, iou_thresholds: Sequence[float], area_range: Sequence[float] = (0, NO_LIMIT)
) -> Matches:
    """Match every image at every threshold. area_range: square pixels; what lies outside is not counted."""
    thresholds = np.minimum(np.array(iou_thresholds), 1 - 1e-10)
    hits, targets, ignored, found, counted = [], [], [], [], []
    num_objects = 0
    for image in overlaps:
        uncounted = image.crowd | (image.object_areas < area_range[0]) | (image.object_areas > area_range[1])
        partner = _partners(image, thresholds, uncounted)
        matched = partner >= 0
        beside = uncounted[partner] if len(uncounted) else np.zeros_like(matched)
        small_or_large = (image.found_areas < area_range[0]) | (image.found_areas > area_range[1])
        hits.append(matched & ~beside)
        ignored.append((matched & beside) | (~matched & small_or_large))
        counted.append(np.flatnonzero(~uncounted))
        targets.append(np.where(hits[-1], num_objects + np.searchsorted(counted[-1], partner), -1))
        taken = np.zeros((len(partner), len(uncounted) + 1), bool)  # the last column: detections without an object
        np.put_along_axis(taken, partner, True, axis=1)
        found.append(taken[:, counted[-1]])
        num_objects += len(counted[-1])
    lengths, object_counts = [len(image.scores) for image in overlaps], list(map(len, counted))
    scores = _joined([image.scores for image in overlaps], np.float64)
    order = np.argsort(-scores, kind="stable")
    images = np.arange(len(overlaps))
    return Matches(
        images=np.repeat(images, lengths)[order],
        rows=_joined([np.arange(length) for length in lengths], np.int64)[order],
        classes=_joined([image.found_classes for image in overlaps], np.int64)[order],
        scores=scores[order],
        hits=_joined(hits, bool, len(thresholds))[:, order],
        targets=_joined(targets, np.int64, len(thresholds))[:, order],
        ignored=_joined(ignored, bool, len(thresholds))[:, order],
        object_images=np.repeat(images, object_counts),
        object_rows=_joined(counted, np.int64),
        object_classes=_joined([i.object_classes[c] for i, c in zip(overlaps, counted, strict=True)], np.int64),
        found=_joined(found, bool, len(thresholds)),
    )


def _partners(image: ImageOverlaps, thresholds: Floats, beside: Flags) -> Ints:
    """The object that each detection takes at each threshold: int64 [T, D], -1 for none. beside: not counted [G]."""
    partner = np.full((len(thresholds), len(image.scores)), -1, np.int64)
    taken = np.zeros((len(thresholds), len(beside)), bool)
    rows = np.arange(len(thresholds))
    same = image.found_classes[:, None] == image.object_classes
    near = np.where(same, image.ious, -1.0)
    for detection in np.flatnonzero((near >= thresholds[0]).any(axis=1)):
        free = (near[detection] >= thresholds[:, None]) & (~taken | image.crowd)
        for candidates in (free & ~beside, free & beside):
            ious = np.where(candidates, near[detection], -1.0)
            best = ious.shape[1] - 1 - ious[:, ::-1].argmax(axis=1)  # of equal ones the last, as COCO takes it
            chosen = (partner[:, detection] < 0) & (ious[rows, best] >= 0)
            partner[chosen, detection] = best[chosen]
            taken[rows[chosen], best[chosen]] = True
    return partner


def _joined(parts: Sequence[npt.NDArray[Any]], dtype: Any, *rows: int) -> npt.NDArray[Any]:
    """All images, or none, in one array [*rows, N]."""
    return np.concatenate([np.zeros((*rows, 0), dtype), *parts], axis=-1)


# ---------------------------------------------------------------- from matches to AP


def average_precision(hits: Flags, ignored: Flags, weights: Ints, totals: Ints) -> Floats:
    """COCO's AP of one class, the mean over 101 recalls: float [B, T], NaN where there is no object.

    hits, ignored: bool [T, N], highest score first; weights: int [B, N], how often each detection counts in each of B
    draws of the images; totals: int [B], the objects. Precision is highest at the hits, so only they are looked at.
    """
    counted = ~ignored.all(axis=0)
    hits, ignored, weights = hits[:, counted], ignored[:, counted], weights[:, counted]
    shown = weights.cumsum(axis=1)
    scores = np.zeros((len(weights), len(hits)))
    for row, hit in enumerate(hits):
        hit_rows, beside = np.flatnonzero(hit), np.flatnonzero(ignored[row])
        if not len(hit_rows):
            continue
        found = weights[:, hit_rows].cumsum(axis=1)
        hidden = np.pad(weights[:, beside].cumsum(axis=1), ((0, 0), (1, 0)))[:, np.searchsorted(beside, hit_rows)]
        precision = found / np.maximum(shown[:, hit_rows] - hidden, 1)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        passed = np.searchsorted(RECALLS, found / np.maximum(totals, 1)[:, None], side="right")
        passed[found == 0] = 0  # recall 0 belongs to the first hit that is drawn
        scores[:, row] = (precision * np.diff(passed, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    return np.where(totals[:, None] > 0, scores, np.nan)


def plain_average_precision(hits: Flags, ignored: Flags, num_objects: int) -> float:
    """The same of all images, each once, at one IoU: hits, ignored [N]."""
    once = np.ones((1, len(hits)), np.int64)
    return float(average_precision(hits[None], ignored[None], once, np.array([num_objects]))[0, 0])
