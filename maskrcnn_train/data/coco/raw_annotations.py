"""The fields of annotations as columns, before anything is known of their images.

A block of annotations goes through at a time, so that only few of them are Python objects at once. Nothing is left
out here: what cannot be read is marked, and `annotations.py` decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn_train.data.coco import masks
from maskrcnn_train.data.coco.index import NO_MASK, POLYGON, RLE
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Floats, Ints

Bools = NDArray[np.bool_]
Items = Sequence[dict[str, Any]]

UNKNOWN = 3  # RawAnnotations.kinds: a segmentation that is neither polygons nor RLE
NO_ID = np.iinfo(np.int64).min  # an id that is missing or no whole number
ABSENT, GIVEN, MALFORMED = 0, 1, 2  # RawAnnotations.box_states


@dataclass
class RawAnnotations:
    """A annotations in the order of their file, with P polygons and R run lengths.

    ids, image_ids, category_ids int64 [A]; crowd int8 [A], -1 where it is neither 0 nor 1; boxes float64 [A, 4]
    x y w h, NaN where `box_states` is not GIVEN; areas float64 [A], NaN: missing, 0: unusable; kinds uint8 [A].
    Polygons: num_parts int64 [A]; lengths of parts int64 [P] with their numbers x y x y ... in `coordinates`;
    part_extents float64 [P, 4] x1 y1 x2 y2, part_areas and part_outlines (length) float64 [P], NaN: unreadable.
    Of RLE rows: rle_sizes int64 [A, 2] height, width as the RLE has them; rle_pixels int64 [A] that it covers, -1:
    unreadable; rle_boxes int64 [A, 4] x1 y1 x2 y2; rle_areas int64 [A]; num_runs int64 [A], lengths in `runs`.
    """

    ids: Ints
    image_ids: Ints
    category_ids: Ints
    crowd: NDArray[np.int8]
    boxes: Floats
    box_states: NDArray[np.uint8]
    areas: Floats
    kinds: NDArray[np.uint8]
    num_parts: Ints
    part_lengths: Ints
    part_extents: Floats
    part_areas: Floats
    part_outlines: Floats
    coordinates: Floats
    rle_sizes: Ints
    rle_pixels: Ints
    rle_boxes: Ints
    rle_areas: Ints
    num_runs: Ints
    runs: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.ids)


def join(blocks: list[RawAnnotations]) -> RawAnnotations:
    """All blocks as one; `blocks` is empty afterwards, a column at a time, to keep the peak of memory low."""
    columns = {}
    for item in fields(RawAnnotations):
        columns[item.name] = np.concatenate([getattr(block, item.name) for block in blocks])
        for block in blocks:
            delattr(block, item.name)
    blocks.clear()
    return RawAnnotations(**columns)


def read_items(items: Items, file: str, position: int = 0) -> RawAnnotations:
    """Columns of some annotations, the first of which is number `position` of its file.

    Raises UserError with one line where an annotation has no usable image or category.
    """
    for number, item in enumerate(items, start=position):
        if type(item) is not dict:
            raise UserError(
                f"`annotations` in {file}: entry {number} is a {type(item).__name__}; it should be an object"
            )
    ids = [item.get("id") for item in items]
    usable = [number if type(number) is int and abs(number) < 2**62 else NO_ID for number in ids]
    crowd = [item.get("iscrowd") or 0 for item in items]
    boxes, box_states = _read_boxes([item.get("bbox") for item in items])
    return RawAnnotations(
        ids=np.array(usable, dtype=np.int64),
        image_ids=whole_numbers(items, "image_id", "annotation", file, position),
        category_ids=whole_numbers(items, "category_id", "annotation", file, position),
        crowd=np.array([int(value) if value in (0, 1) else -1 for value in crowd], dtype=np.int8),
        boxes=boxes,
        box_states=box_states,
        areas=np.array([_area(item.get("area")) for item in items], dtype=np.float64),
        **_read_segmentations([item.get("segmentation") for item in items]),
    )


def whole_numbers(items: Items, key: str, what: str, file: str, position: int = 0) -> Ints:
    """Column `key` as int64. Raises UserError for the first item where it is missing or no whole number."""
    values = [item.get(key) for item in items]
    if {*map(type, values)} == {int}:
        numbers = np.array(values)
        if numbers.dtype == np.int64 and np.abs(numbers).max() < 2**62:
            return numbers
    for number, value in enumerate(values):
        if type(value) is not int and not (type(value) is float and value.is_integer()):
            item = items[number]
            known = item.get("id") is not None
            name = f"{what} {shown(item['id'])}" if known else f"{what} number {number + position}"
            raise UserError(f"{name} in {file} has {key} {shown(value)}; it should be a whole number")
        if abs(value) >= 2**62:
            raise UserError(f"{what} number {number + position} in {file} has {key} {shown(value)}; it is too large")
    return np.array(values, dtype=np.int64)


def shown(value: Any) -> str:
    """A value of the file, for a message of one line."""
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _area(value: Any) -> float:
    if value is None:
        return np.nan
    return float(value) if type(value) in (int, float) and 0 < value < 1e18 else 0.0


def _read_boxes(values: list[Any]) -> tuple[Floats, NDArray[np.uint8]]:
    flat, _, numeric = masks.flatten_numbers(values, [type(value) is list and len(value) == 4 for value in values])
    boxes = np.full((len(values), 4), np.nan)
    boxes[numeric] = flat.reshape(-1, 4)
    states = [
        GIVEN if ok else ABSENT if value in (None, []) else MALFORMED for value, ok in zip(values, numeric, strict=True)
    ]
    return boxes, np.array(states, dtype=np.uint8)


# ---------------------------------------------------------------- segmentations


def _read_segmentations(values: list[Any]) -> dict[str, NDArray[Any]]:
    values = [_normalised(value) for value in values]
    kinds = np.array([_kind(value) for value in values], dtype=np.uint8)
    return {"kinds": kinds, **_read_polygons(values, kinds), **_read_codes(values, kinds)}


def _normalised(value: Any) -> Any:
    """None for a segmentation that says nothing; a flat list of numbers becomes a list of one polygon."""
    if type(value) is list:
        if value and type(value[0]) in (int, float):
            return [value]
        return value if any(part != [] for part in value) else None
    return None if value == {} else value


def _kind(value: Any) -> int:
    if type(value) is list:
        return POLYGON
    if type(value) is dict:
        return RLE
    return NO_MASK if value is None else UNKNOWN


def _read_polygons(values: list[Any], kinds: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    num_parts = np.zeros(len(values), dtype=np.int64)
    rows = np.flatnonzero(kinds == POLYGON)
    lists = [values[row] for row in rows.tolist()]
    num_parts[rows] = [len(parts) for parts in lists]
    flat, offsets, readable = masks.flatten_polygons(list(chain.from_iterable(lists)))
    extents, areas, outlines = masks.measure_polygons(flat, offsets, readable)
    return {
        "num_parts": num_parts,
        "part_lengths": np.diff(offsets),
        "part_extents": extents,
        "part_areas": areas,
        "part_outlines": outlines,
        "coordinates": flat,
    }


def _read_codes(values: list[Any], kinds: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    count = len(values)
    sizes, pixels = np.zeros((count, 2), dtype=np.int64), np.full(count, -1, dtype=np.int64)
    boxes, areas, lengths = (np.zeros(shape, dtype=np.int64) for shape in ((count, 4), count, count))
    runs = []
    for row in np.flatnonzero(kinds == RLE).tolist():
        size, counts = masks.read_code(values[row])
        sizes[row] = size
        if counts is None:
            continue
        pixels[row] = counts.sum()
        if pixels[row] == size[0] * size[1] > 0:
            boxes[row], areas[row] = masks.runs_extent(counts, size[0])
            lengths[row] = len(counts)
            runs.append(counts.astype(np.uint32))
    return {
        "rle_sizes": sizes,
        "rle_pixels": pixels,
        "rle_boxes": boxes,
        "rle_areas": areas,
        "num_runs": lengths,
        "runs": np.concatenate(runs) if runs else np.zeros(0, dtype=np.uint32),
    }
