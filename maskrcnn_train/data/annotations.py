"""Checks the annotations of a COCO JSON and turns them into columns.

Faults of single annotations are never fatal and never silent: each is a row of the table of what was skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn_train.data import masks
from maskrcnn_train.data.index import NO_MASK, POLYGON, RLE, SkippedTable

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Items = list[dict[str, Any]]
Report = Callable[[str, Any, bool], None]  # (reason, which: bool [A], dropped)

CLIP_TOLERANCE = 0.5  # pixels; tools round coordinates, that alone is not worth a row
MIN_AGREEMENT = 0.5  # IoU of a box and the extent of its segmentation; below it one of them is likely wrong


@dataclass
class Segmentations:
    """Masks of A annotations; columns as in `AnnotationIndex`, areas in square pixels (NaN: no mask)."""

    kinds: NDArray[np.uint8]
    extents: Floats
    areas: Floats
    part_offsets: Ints
    point_offsets: Ints
    coordinates: Floats
    run_offsets: Ints
    runs: NDArray[np.uint32]

    def select(self, keep: Bools) -> Segmentations:
        """Only the annotations marked in `keep`."""
        keep_parts = np.repeat(keep, np.diff(self.part_offsets))
        part_offsets = _offsets(np.diff(self.part_offsets)[keep])
        coordinates, point_offsets = _select_ragged(self.coordinates, self.point_offsets, keep_parts)
        runs, run_offsets = _select_ragged(self.runs, self.run_offsets, keep)
        columns = self.kinds[keep], self.extents[keep], self.areas[keep]
        return Segmentations(*columns, part_offsets, point_offsets, coordinates, run_offsets, runs)


@dataclass
class AnnotationColumns:
    """The checked annotations, sorted by image; columns as in `AnnotationIndex`."""

    ids: Ints
    image_rows: Ints
    category_ids: Ints
    crowd: Bools
    boxes: Floats
    areas: Floats
    segmentations: Segmentations


def read_annotations(
    items: Items, ids: Ints, image_rows: Ints, category_ids: Ints, sizes: Ints, skipped: SkippedTable
) -> AnnotationColumns:
    """Check and convert annotations; `skipped` receives what is left out or repaired.

    ids, image_rows, category_ids: int64 [A], sorted by image row like `items`. sizes: int64 [M, 2] height, width.
    """
    keep = np.ones(len(items), dtype=bool)

    def report(reason: str, which: Bools, dropped: bool) -> None:
        which = which & keep
        for row in np.flatnonzero(which).tolist():
            skipped.add(reason, int(ids[row]), f"annotation {ids[row]}", dropped=dropped)
        if dropped:
            keep[which] = False

    own_sizes = sizes[image_rows]
    crowd = _read_crowd(items, report)
    boxes, has_box = _read_boxes(items, own_sizes, report)
    found = _read_segmentations([item.get("segmentation") for item in items], own_sizes, report)
    _clip_extents(found, own_sizes, report)
    has_mask = found.kinds != NO_MASK
    report("neither box nor segmentation", ~has_box & ~has_mask, True)
    report("box computed from the segmentation", ~has_box & has_mask, False)
    boxes = np.where(has_box[:, None], boxes, found.extents)
    _compare(boxes, found.extents, has_box & has_mask, report)
    found.extents[~has_mask] = boxes[~has_mask]
    boxes[:, 2:] -= boxes[:, :2]
    areas = _read_areas(items, np.where(has_mask, found.areas, boxes[:, 2] * boxes[:, 3]), report)
    columns = ids[keep], image_rows[keep], category_ids[keep], crowd[keep], boxes[keep], areas[keep]
    return AnnotationColumns(*columns, found.select(keep))


def _read_crowd(items: Items, report: Report) -> Bools:
    values = [item.get("iscrowd") or 0 for item in items]
    known = np.array([value in (0, 1) for value in values], dtype=bool)
    report("iscrowd is neither 0 nor 1", ~known, True)
    return np.array([value == 1 for value in values], dtype=bool)


def _read_boxes(items: Items, sizes: Ints, report: Report) -> tuple[Floats, Bools]:
    """Boxes clipped to their images, float64 [A, 4] x1 y1 x2 y2, and which annotations have one."""
    values = [item.get("bbox") for item in items]
    given = np.array([value is not None and value != [] for value in values], dtype=bool)
    numbers = np.array([_is_box(value) for value in values], dtype=bool)
    report("box is not four numbers", given & ~numbers, True)
    empty = [np.nan] * 4
    boxes = np.array([value if ok else empty for value, ok in zip(values, numbers, strict=True)], dtype=np.float64)
    boxes = boxes.reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):
        size_wh, limit = sizes[:, ::-1].astype(np.float64), masks.FAR * sizes.max(axis=1, initial=0)
        report("box has a coordinate that is not a number", numbers & ~np.isfinite(boxes).all(axis=1), True)
        report("box reaches far outside the image", (np.abs(boxes) > limit[:, None]).any(axis=1), True)
        report("box has no area", ~(boxes[:, 2:] > 0).all(axis=1) & numbers, True)
        boxes[:, 2:] += boxes[:, :2]
        outside = (boxes[:, :2] >= size_wh).any(axis=1) | (boxes[:, 2:] <= 0).any(axis=1)
        report("box lies outside the image", outside, True)
        clipped = np.clip(boxes, 0, np.tile(size_wh, 2))
        report("box clipped to the image", (np.abs(clipped - boxes) > CLIP_TOLERANCE).any(axis=1), False)
    return clipped, numbers


def _is_box(value: Any) -> bool:
    if type(value) is not list or len(value) != 4:
        return False
    return all(type(number) in (int, float) and not abs(number) > 1e300 for number in value)


def _read_segmentations(items: list[Any], sizes: Ints, report: Report) -> Segmentations:
    count = len(items)
    items = [_normalised(item) for item in items]
    kinds = np.array([_kind(item) for item in items], dtype=np.uint8)
    known = np.array([item is None or type(item) in (list, dict) for item in items], dtype=bool)
    report("segmentation is neither polygons nor RLE", ~known, True)
    found = _read_polygons(items, kinds, sizes, report)
    lengths, runs = np.zeros(count, dtype=np.int64), []
    faults: dict[str, Bools] = {}
    for row in np.flatnonzero(kinds == RLE).tolist():
        height, width = sizes[row].tolist()
        counts = masks.check_counts(items[row], (height, width))
        if isinstance(counts, str):
            faults.setdefault(counts, np.zeros(count, dtype=bool))[row] = True
            continue
        found.extents[row], found.areas[row] = masks.runs_extent(counts, height)
        lengths[row] = len(counts)
        runs.append(counts)
    for reason, which in faults.items():
        report(reason, which, True)
    report("mask is empty", (kinds == RLE) & (found.areas == 0), True)
    found.run_offsets = _offsets(lengths)
    found.runs = np.concatenate(runs) if runs else np.zeros(0, dtype=np.uint32)
    return found


def _normalised(item: Any) -> Any:
    """None for a segmentation that says nothing; a flat list of numbers becomes a list of one polygon."""
    if type(item) is list:
        if item and type(item[0]) in (int, float):
            return [item]
        return item if any(part != [] for part in item) else None
    return None if item == {} else item


def _kind(item: Any) -> int:
    if type(item) is list:
        return POLYGON
    return RLE if type(item) is dict else NO_MASK


def _read_polygons(items: list[Any], kinds: NDArray[np.uint8], sizes: Ints, report: Report) -> Segmentations:
    rows = np.flatnonzero(kinds == POLYGON)
    parts = [part for row in rows.tolist() for part in items[row]]
    owners = np.repeat(rows, [len(items[row]) for row in rows.tolist()])
    flat, offsets, readable = masks.flatten_polygons(parts)
    faults, extents, areas = masks.check_polygons(flat, offsets, readable, sizes.max(axis=1, initial=0)[owners] * 1.0)
    good = ~np.any(list(faults.values()), axis=0)
    sound = np.bincount(owners[good], minlength=len(items)) > 0
    for reason, which in faults.items():
        broken = np.bincount(owners[which], minlength=len(items)) > 0
        report(reason, broken & ~sound, True)
        report(f"{reason}: this part left out", broken & sound, False)
    coordinates, point_offsets = _select_ragged(flat, offsets, good)
    bounds = np.tile([np.inf, np.inf, -np.inf, -np.inf], (len(items), 1))
    np.minimum.at(bounds[:, :2], owners[good], extents[good, :2])
    np.maximum.at(bounds[:, 2:], owners[good], extents[good, 2:])
    total = np.bincount(owners[good], weights=areas[good], minlength=len(items))
    part_offsets = _offsets(np.bincount(owners[good], minlength=len(items)))
    no_runs = np.zeros(0, dtype=np.uint32)
    return Segmentations(
        kinds=kinds,
        extents=np.where(sound[:, None], bounds, np.nan),
        areas=np.where(sound, total, np.nan),
        part_offsets=part_offsets,
        point_offsets=point_offsets,
        coordinates=coordinates,
        run_offsets=np.zeros(len(items) + 1, dtype=np.int64),
        runs=no_runs,
    )


def _clip_extents(found: Segmentations, sizes: Ints, report: Report) -> None:
    limits = np.tile(sizes[:, ::-1].astype(np.float64), 2)
    clipped = np.clip(found.extents, 0, limits)
    with np.errstate(invalid="ignore"):
        report("segmentation lies outside the image", (clipped[:, 2:] <= clipped[:, :2]).any(axis=1), True)
    found.extents = clipped


def _compare(boxes: Floats, extents: Floats, both: Bools, report: Report) -> None:
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.maximum(boxes[:, :2], extents[:, :2]), np.minimum(boxes[:, 2:], extents[:, 2:])
        shared = np.clip(high - low, 0, None).prod(axis=1)
        areas = [(corners[:, 2:] - corners[:, :2]).prod(axis=1) for corners in (boxes, extents)]
        overlap = shared / (areas[0] + areas[1] - shared)
        report("box and segmentation differ (boxes are x, y, width, height)", both & (overlap < MIN_AGREEMENT), False)


def _read_areas(items: Items, computed: Floats, report: Report) -> Floats:
    values = [item.get("area") for item in items]
    missing = np.array([value is None for value in values], dtype=bool)
    usable = np.array([isinstance(value, (int, float)) and 0 < value < 1e18 for value in values], dtype=bool)
    report("area missing: computed", missing, False)
    report("area is not a positive number: computed", ~missing & ~usable, False)
    given = np.array([value if ok else 0 for value, ok in zip(values, usable, strict=True)], dtype=np.float64)
    return np.where(usable, given, computed)


def _offsets(lengths: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _select_ragged(values: NDArray[Any], offsets: Ints, keep: Bools) -> tuple[NDArray[Any], Ints]:
    """Rows marked in `keep` of a ragged array, and their offsets."""
    lengths = np.diff(offsets)
    return values[np.repeat(keep, lengths)], _offsets(lengths[keep])
