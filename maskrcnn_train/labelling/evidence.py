"""What detections say about each label: who supports it, who contradicts it, and which detections have no label.

A detection belongs to the label that it overlaps most, a label of its own class before others. Crowd regions are no
labels here: they hide the detections inside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from maskrcnn_train.evaluation.coco.ground_truth import Coco
from maskrcnn_train.evaluation.diagnostics.matches import match_detections
from maskrcnn_train.evaluation.diagnostics.overlaps import ImageOverlaps, image_overlaps, overlap_ious
from maskrcnn_train.structures.arrays import Flags, Floats, Ints

NEAR, ON = 0.1, 0.5  # box IoU from which a detection has to do with a label, and from which it is on it
SAME_CLASS = 0.2  # IoU that a label of the detection's own class is ahead of others
FEW = 20  # labels of a class below which all classes together say what is usual
LEAST_CHANCE = 0.05  # of a class that a model has hardly learnt
IN_CROWD = 0.5  # share of a detection inside a crowd region


@dataclass
class Evidence:
    """Columns over the N labels that are no crowd regions, and over the U detections that belong to none.

    labels, classes: int64 [N], rows of the ground truth's annotations, and their classes 0..K-1.
    own, other: float [N], the support 0 to 1 by detections of the label's class and of other classes: how sure they
    are, less where they overlap the label little. That of the own class is relative to what labels of the class
    usually have, all other certainties to what labels of any class have (see `relative_chances`).
    own_found, other_found: int64 [N], rows of the results, -1 for none. other_classes: int64 [N], of `other_found`.
    sure: float [N], how sure `own_found` is, wherever it lies. box_ious, mask_ious: float [N], of `own_found` and the
    label, NaN for none.
    twins: int64 [N], rows of the annotations of the same class that overlap a label most, -1 for none. twin_ious [N].
    unlabelled: int64 [U], rows of the results. chances: float [U], how sure they are, less where they overlap a label.
    """

    labels: Ints
    classes: Ints
    own: Floats
    other: Floats
    sure: Floats
    own_found: Ints
    other_found: Ints
    other_classes: Ints
    box_ious: Floats
    mask_ious: Floats
    twins: Ints
    twin_ious: Floats
    unlabelled: Ints
    chances: Floats


def gather_evidence(truth: Coco, results: Sequence[Coco], *, with_masks: bool, max_detections: int) -> Evidence:
    """truth: as `complete_ground_truth` makes it; results: checked. max_detections: per image and class."""
    boxes = image_overlaps(truth, results, kind="bbox", max_detections=max_detections)
    masks = image_overlaps(truth, results, kind="segm", max_detections=max_detections) if with_masks else boxes
    owners = [_owners(*each) for each in zip(boxes, masks, strict=True)]
    certain = calibrated_scores(boxes)
    columns = _columns(boxes, masks, certain, certain, owners)
    own, classes = columns["own"], columns["classes"]
    supporting = relative_chances(boxes, certain, own=own, classes=classes)
    contradicting = relative_chances(boxes, certain, own=own[own > 0], classes=None)
    columns = _columns(boxes, masks, supporting, contradicting, owners)
    if not with_masks:
        columns["mask_ious"][:] = np.nan
    rest = [_unlabelled(results, *each) for each in zip(boxes, masks, contradicting, owners, strict=True)]
    unlabelled, chances = (np.concatenate(column) for column in zip(*rest, strict=True))
    twins, twin_ious = _twins(truth, "segm" if with_masks else "bbox")
    labels = columns["labels"]
    return Evidence(**columns, twins=twins[labels], twin_ious=twin_ious[labels], unlabelled=unlabelled, chances=chances)


def _columns(
    boxes: Sequence[ImageOverlaps],
    masks: Sequence[ImageOverlaps],
    supporting: Sequence[Floats],
    contradicting: Sequence[Floats],
    owners: Sequence[Ints],
) -> dict[str, Any]:
    """The columns of `Evidence` that follow from single images."""
    images = zip(boxes, masks, supporting, contradicting, owners, strict=True)
    of_images = [_of_labels(*each) for each in images]
    return {name: np.concatenate([each[name] for each in of_images]) for name in of_images[0]}


def relative_chances(
    boxes: Sequence[ImageOverlaps], chances: Sequence[Floats], *, own: Floats, classes: Ints | None
) -> list[Floats]:
    """Chances in those that labels usually have, at most 1: no model is surer than it can be.

    own, classes: [N], of the labels. With `classes` labels of the same class say what is usual: as a label of a class
    that is hardly learnt is no doubtful one. Without, all do: a detection of such a class says little against a label.
    """
    usual = np.full(max([int(image.found_classes.max(initial=0)) for image in boxes] + [0]) + 1, 1.0)
    for number in range(len(usual)):
        mine = own[classes == number] if classes is not None else own
        mine = mine if len(mine) >= FEW else own
        usual[number] = max(float(np.median(mine)) if len(mine) else 1.0, LEAST_CHANCE)
    return [np.minimum(likely / usual[image.found_classes], 1.0) for image, likely in zip(boxes, chances, strict=True)]


def calibrated_scores(overlaps: Sequence[ImageOverlaps]) -> list[Floats]:
    """For each detection the share of those of its class scored alike that are on a label of it: [D] of each image.

    Each class is counted with FEW detections of all classes at the same score, which say what a rare one can't.
    """
    matches = match_detections(overlaps, iou_thresholds=[ON])
    counted = ~matches.ignored[0]
    scores, classes = matches.scores[counted], matches.classes[counted]
    hits = matches.hits[0, counted].astype(np.float64)
    if not len(scores):
        return [image.scores.copy() for image in overlaps]
    common, _ = _falling_shares(scores, hits)
    found = [np.interp(image.scores, scores[::-1], common[::-1]) for image in overlaps]
    for number in np.unique(classes):
        mine = classes == number
        shares, counts = _falling_shares(scores[mine], hits[mine])
        shares = np.minimum.accumulate((shares * counts + FEW * common[mine]) / (counts + FEW))
        for image, likely in zip(overlaps, found, strict=True):
            of_class = image.found_classes == number
            likely[of_class] = np.interp(image.scores[of_class], scores[mine][::-1], shares[::-1])
    return found


def _falling_shares(scores: Floats, hits: Floats) -> tuple[Floats, Ints]:
    """The share of hits around each detection, and of how many: [N], by falling score, one share for equal scores.

    Isotonic regression: pool adjacent violators (Ayer et al. 1955), so that no share is above one of a higher score.
    Equal shares are one pool, else a class that is always right or never would count as single detections.
    """
    _, groups, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    sums: list[float] = []
    counts: list[int] = []
    for hit, size in zip(np.bincount(groups, hits).tolist(), sizes.tolist(), strict=True):
        sums.append(hit)
        counts.append(size)
        while len(sums) > 1 and sums[-2] * counts[-1] <= sums[-1] * counts[-2]:
            last, number = sums.pop(), counts.pop()
            sums[-1] += last
            counts[-1] += number
    pools = np.array(counts)
    return np.repeat(np.array(sums) / pools, pools), np.repeat(pools, pools)


def _owners(image: ImageOverlaps, masks: ImageOverlaps) -> Ints:
    """The label that each detection belongs to: int64 [D], -1 for none."""
    if not len(image.crowd):
        return np.full(len(image.scores), -1)
    same = image.found_classes[:, None] == image.object_classes
    near = np.where((image.ious >= NEAR) & ~image.crowd, (image.ious + masks.ious) / 2 + SAME_CLASS * same, -1.0)
    return np.where(near.max(axis=1) >= 0, near.argmax(axis=1), -1)


def _of_labels(
    image: ImageOverlaps, masks: ImageOverlaps, supporting: Floats, contradicting: Floats, owners: Ints
) -> dict[str, Any]:
    real = np.flatnonzero(~image.crowd)
    nearness = np.clip((image.ious - NEAR) / (ON - NEAR), 0, 1)
    own, other, sure = np.zeros((3, len(real)))
    own_found, other_found, other_classes = np.full((3, len(real)), -1)
    ious = np.full((2, len(real)), np.nan)
    for number, column in enumerate(real.tolist()):
        same = image.found_classes == image.object_classes[column]
        for is_own, chances, values, found in (
            (True, supporting, own, own_found),
            (False, contradicting, other, other_found),
        ):
            rows = np.flatnonzero((owners == column) & (same == is_own))
            if not len(rows):
                continue
            values[number] = (chances[rows] * nearness[rows, column]).max()
            best = _best(rows, column, image, chances)
            found[number] = image.found[best]
            if is_own:
                sure[number] = contradicting[best]
                ious[:, number] = image.ious[best, column], masks.ious[best, column]
            else:
                other_classes[number] = image.found_classes[best]
    columns = {"labels": image.objects[real], "classes": image.object_classes[real], "other_classes": other_classes}
    support = {"own": own, "other": other, "sure": sure, "own_found": own_found, "other_found": other_found}
    return {**columns, **support, "box_ious": ious[0], "mask_ious": ious[1]}


def _best(rows: Ints, column: int, image: ImageOverlaps, chances: Floats) -> int:
    """Of some detections the one that says most about a label: sure, and near it."""
    return int(rows[np.argmax(chances[rows] * image.ious[rows, column])])


def _unlabelled(
    results: Sequence[Coco], image: ImageOverlaps, masks: ImageOverlaps, chances: Floats, owners: Ints
) -> tuple[Ints, Floats]:
    """Detections that lie on no label, each object once, and how sure they are."""
    taken = _is_evidence(image, chances, owners)
    overlap = np.where(image.crowd, 0.0, masks.ious).max(axis=1, initial=0)
    hidden = np.where(image.crowd, image.ious, 0.0).max(axis=1, initial=0) >= IN_CROWD
    rows = np.flatnonzero(~taken & (overlap < ON) & ~hidden)
    boxes = np.array([results[row]["bbox"] for row in image.found[rows]], np.float64).reshape(-1, 4)
    ious = overlap_ious(boxes, boxes, [0] * len(rows))
    kept: list[int] = []
    for row in range(len(rows)):
        if not (ious[row, kept] >= ON).any():
            kept.append(row)
    return image.found[rows[kept]], chances[rows[kept]] * (1 - overlap[rows[kept]] / ON)


def _is_evidence(image: ImageOverlaps, chances: Floats, owners: Ints) -> Flags:
    """Which detections are the best one of the label that they belong to: bool [D]."""
    taken = np.zeros(len(owners), bool)
    for column in np.unique(owners[owners >= 0]).tolist():
        taken[_best(np.flatnonzero(owners == column), column, image, chances)] = True
    return taken


def _twins(truth: Coco, kind: str) -> tuple[Ints, Floats]:
    """Of each annotation the one of its class that it overlaps most, -1 for none, and their IoU."""
    count = len(truth["annotations"])
    twins, ious = np.full(count, -1), np.zeros(count)
    themselves = [each | {"score": 1.0} for each in truth["annotations"]]
    for image in image_overlaps(truth, themselves, kind=kind, max_detections=max(count, 1)):
        if len(image.found) < 2:
            continue
        same = image.found_classes[:, None] == image.object_classes
        apart = image.found[:, None] != image.objects
        near = np.where(same & apart & ~image.crowd, image.ious, 0.0)
        twins[image.found] = np.where(near.max(axis=1) > 0, image.objects[near.argmax(axis=1)], -1)
        ious[image.found] = near.max(axis=1)
    return twins, ious
