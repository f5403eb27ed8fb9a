"""Annotations that are left out, repaired or doubtful."""

from collections.abc import Iterator

import numpy as np

from maskrcnn_train.checking.findings import Finding, Severity, percent
from maskrcnn_train.data.splits.splitting import Split
from maskrcnn_train.structures.arrays import Flags, Ints

CORNERS_SHARE = 0.2  # of boxes that reach out of their image; above it they are likely written as x1, y1, x2, y2
OUTSIDE = ("box clipped to the image", "box lies outside the image")
HARMLESS = ("area missing: computed",)


def check_annotations(split: Split) -> Iterator[Finding]:
    """A finding for each reason why annotations are not used as they stand, and for duplicates."""
    for row in split.skipped:
        severity: Severity = "advice" if row.reason in HARMLESS else "warning"
        kind, end = ("annotation-left-out", ": left out") if row.dropped else ("annotation-repaired", "")
        fix = "correct them in the annotation tool" if row.dropped else "look at them"
        yield Finding(severity, kind, row.reason + end, split.name, "annotation", row.ids, fix=fix)
    outside = sum(row.count for row in split.skipped if row.reason in OUTSIDE)
    total = split.index.num_annotations + split.skipped.num_dropped
    if outside > CORNERS_SHARE * total:
        reach = f"{percent(outside, total)} of the boxes reach out of their images"
        what, fix = f"{reach}: corners written as x, y, width, height?", "export boxes as x, y, width, height"
        yield Finding("warning", "boxes-as-corners", what, split.name, fix=fix)
    yield from _duplicates(split)
    yield from _images(split)


def _duplicates(split: Split) -> Iterator[Finding]:
    """Objects with the same box, to half a pixel, as an earlier one in their image."""
    index, rows = split.index, np.flatnonzero(split.is_object)
    boxes = np.round(np.asarray(index.boxes)[rows] * 2).astype(np.int64)
    boxes = np.concatenate([index.image_rows[rows, None], boxes], axis=1)
    twice = _repeats(np.concatenate([boxes, split.labels[rows, None]], axis=1))
    for kind, what, which in (
        ("object-twice", "the same object annotated twice", twice),
        ("object-two-classes", "the same box with two classes", _repeats(boxes) & ~twice),
    ):
        if which.any():
            ids = index.items(rows[which])
            yield Finding("warning", kind, what, split.name, "annotation", ids, fix="delete one of each")


def _repeats(values: Ints) -> Flags:
    """Which rows occurred before: bool [N]."""
    order = np.lexsort(values.T[::-1])
    repeated = np.zeros(len(values), dtype=bool)
    repeated[order[1:]] = (np.diff(values[order], axis=0) == 0).all(axis=1)
    return repeated


def _images(split: Split) -> Iterator[Finding]:
    """Files that are listed twice, and too many images without objects."""
    names = [split.index.file_name(row) for row in split.rows.tolist()]
    first: dict[str, int] = {}
    if twice := [name for row, name in enumerate(names) if first.setdefault(name, row) != row]:
        fix = "merge the entries: each sees only its own objects"
        yield Finding("warning", "image-twice", "file listed as two images", split.name, "image", twice, fix=fix)
    used = {*split.index.image_rows[split.labels > 0].tolist()}
    empty = [name for row, name in zip(split.rows.tolist(), names, strict=True) if row not in used]
    if split.name == "train" and 2 * len(empty) > len(split):
        what = f"{percent(len(empty), len(split))} of the images have no objects"
        yield Finding("advice", "images-empty", what, "train", "image", empty, {"data.keep_empty": False})
