"""Annotations that are left out, repaired or doubtful."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from maskrcnn_train.checking.findings import Finding, percent
from maskrcnn_train.data.splits.splitting import Split

CORNERS_SHARE = 0.2  # of boxes that reach out of their image; above it they are likely written as x1, y1, x2, y2
OUTSIDE = ("box clipped to the image", "box lies outside the image")
HARMLESS = ("area missing: computed",)


def check_annotations(split: Split) -> list[Finding]:
    """A finding for each reason why annotations are not used as they stand, and for duplicates."""
    findings = [
        Finding(
            "advice" if row.reason in HARMLESS else "warning",
            "annotation-left-out" if row.dropped else "annotation-repaired",
            f"{row.reason}{': left out' if row.dropped else ''}",
            split.name,
            "annotation",
            row.ids,
            fix="correct them in the annotation tool" if row.dropped else "look at them",
        )
        for row in split.skipped
    ]
    return [*findings, *_corners(split), *_duplicates(split), *_listed_twice(split), *_empty_images(split)]


def _corners(split: Split) -> list[Finding]:
    outside = sum(row.count for row in split.skipped if row.reason in OUTSIDE)
    total = split.index.num_annotations + split.skipped.num_dropped
    if outside <= CORNERS_SHARE * total:
        return []
    what = f"{percent(outside, total)} of the boxes reach out of their images: corners written as x, y, width, height?"
    return [Finding("warning", "boxes-as-corners", what, split.name, fix="export boxes as x, y, width, height")]


def _duplicates(split: Split) -> list[Finding]:
    """Objects with the same box, to half a pixel, as an earlier one in their image."""
    index = split.index
    rows = np.flatnonzero(split.is_object)
    boxes = np.round(np.asarray(index.boxes)[rows] * 2).astype(np.int64)
    boxes = np.concatenate([index.image_rows[rows, None], boxes], axis=1)
    with_label = np.concatenate([boxes, split.labels[rows, None]], axis=1)
    twice = _repeats(with_label)
    findings = []
    for kind, what, which in (
        ("object-twice", "the same object annotated twice", twice),
        ("object-two-classes", "the same box with two classes", _repeats(boxes) & ~twice),
    ):
        ids = index.annotation_ids[rows[which]].tolist()
        if ids:
            findings.append(Finding("warning", kind, what, split.name, "annotation", ids, fix="delete one of each"))
    return findings


def _repeats(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows occurred before: bool [N]."""
    order = np.lexsort(values.T[::-1])
    repeated = np.zeros(len(values), dtype=bool)
    repeated[order[1:]] = (np.diff(values[order], axis=0) == 0).all(axis=1)
    return repeated


def _listed_twice(split: Split) -> list[Finding]:
    names = [split.index.file_name(row) for row in split.rows.tolist()]
    if len(set(names)) == len(names):
        return []
    seen: set[str] = set()
    twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    fix = "merge the entries: each sees only its own objects"
    return [Finding("warning", "image-twice", "file listed as two images", split.name, "image", twice, fix=fix)]


def _empty_images(split: Split) -> list[Finding]:
    empty = split.rows[split.index.first[split.rows + 1] == split.index.first[split.rows]]
    if split.name != "train" or 2 * len(empty) <= len(split):
        return []
    what = f"{percent(len(empty), len(split))} of the images have no objects"
    names = [split.index.file_name(row) for row in empty.tolist()]
    return [Finding("advice", "images-empty", what, "train", "image", names, {"data.keep_empty": False})]
