"""The fields of annotations as columns, before anything is known of their images.

Annotations come in blocks, so that only few are Python objects at a time. Unreadable fields are only marked here;
`annotations.py` decides what to do with them.
"""

from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn_train.data.coco import masks
from maskrcnn_train.data.coco.entries import TOO_LARGE, Entries, Faults, Problem, number_problem
from maskrcnn_train.data.coco.index import NO_MASK, POLYGON, RLE
from maskrcnn_train.structures.arrays import Floats, Ints

UNKNOWN = 3  # RawAnnotations.kinds: a segmentation that is neither polygons nor RLE
MASK_KINDS = {list: POLYGON, dict: RLE, type(None): NO_MASK}
NO_ID = np.iinfo(np.int64).min  # an id that is missing or no whole number
ABSENT, GIVEN, MALFORMED = 0, 1, 2  # RawAnnotations.box_states


@dataclass
class RawAnnotations:
    """A annotations in the order of their file, with P polygons and R run lengths.

    numbers int64 [A], positions in the file; ids, image_ids, category_ids int64 [A]; crowd int8 [A], -1 where it is
    neither 0 nor 1; boxes float64 [A, 4] x y w h, NaN where `box_states` is not GIVEN; areas float64 [A], NaN:
    missing, 0: unusable; kinds uint8 [A].
    Polygons: num_parts int64 [A]; lengths of parts int64 [P] with their numbers x y x y ... in `coordinates`;
    part_extents float64 [P, 4] x1 y1 x2 y2, part_areas and part_outlines (length) float64 [P], NaN: unreadable.
    Of RLE rows: rle_sizes int64 [A, 2] height, width as the RLE has them; rle_pixels int64 [A] that it covers, -1:
    unreadable; rle_boxes int64 [A, 4] x1 y1 x2 y2; rle_areas int64 [A]; num_runs int64 [A], lengths in `runs`.
    """

    numbers: Ints
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
    """All blocks as one. Empties `blocks` a column at a time, which keeps peak memory low."""
    columns = {}
    for item in fields(RawAnnotations):
        columns[item.name] = np.concatenate([getattr(block, item.name) for block in blocks])
        for block in blocks:
            delattr(block, item.name)
    blocks.clear()
    return RawAnnotations(**columns)


def read_items(items: list[Any], faults: Faults, first: int = 0) -> RawAnnotations:
    """Columns of some annotations, `first` being the number of items[0] in its file.

    Annotations without a usable image_id or category_id are left out and noted in `faults`.
    """
    entries = Entries("annotation", items, faults, first)
    if not all(_are_whole(entries.items, key) for key in ("image_id", "category_id")):
        entries.check(_reference_problem)
    items = entries.items
    usable = [_whole_id(item.get("id")) for item in items]
    crowd = [item.get("iscrowd") or 0 for item in items]
    boxes, box_states = _read_boxes([item.get("bbox") for item in items])
    masks_given = [_normalised(item.get("segmentation")) for item in items]
    kinds = np.array([MASK_KINDS.get(type(value), UNKNOWN) for value in masks_given], dtype=np.uint8)
    return RawAnnotations(
        numbers=np.array(entries.numbers),
        ids=np.array(usable, dtype=np.int64),
        image_ids=entries.column("image_id"),
        category_ids=entries.column("category_id"),
        crowd=np.array([int(value) if value in (0, 1) else -1 for value in crowd], dtype=np.int8),
        boxes=boxes,
        box_states=box_states,
        areas=np.array([_area(item.get("area")) for item in items], dtype=np.float64),
        kinds=kinds,
        **_read_polygons(masks_given, kinds),
        **_read_codes(masks_given, kinds),
    )


def _whole_id(number: Any) -> int:
    """An id, which may be 100.0 as those of images; NO_ID where it is no whole number."""
    if type(number) is float and number.is_integer():
        number = int(number)
    return number if type(number) is int and abs(number) < TOO_LARGE else NO_ID


def _are_whole(items: list[Any], key: str) -> bool:
    """Whether all values are integers of int64: a check of all at once, for the usual case."""
    values = [item.get(key) for item in items]
    if {*map(type, values)} != {int}:
        return False
    numbers = np.array(values)
    return numbers.dtype == np.int64 and bool(np.abs(numbers).max() < TOO_LARGE)


def _reference_problem(item: dict[str, Any]) -> Problem:
    for key in ("image_id", "category_id"):
        if problem := number_problem(item, key):
            return f"annotation-{key.replace('_', '-')}", problem
    return None


def _area(value: Any) -> float:
    if value is None:
        return np.nan
    return float(value) if type(value) in (int, float) and 0 < value < 1e18 else 0.0


def _read_boxes(values: list[Any]) -> tuple[Floats, NDArray[np.uint8]]:
    flat, _, numeric = masks.flatten_numbers(values, [type(value) is list and len(value) == 4 for value in values])
    boxes = np.full((len(values), 4), np.nan)
    boxes[numeric] = flat.reshape(-1, 4)
    absent = np.array([value in (None, []) for value in values], dtype=bool)
    return boxes, np.select([numeric, absent], [GIVEN, ABSENT], MALFORMED).astype(np.uint8)


def _normalised(value: Any) -> Any:
    """None for a segmentation that says nothing; a flat list of numbers becomes a list of one polygon."""
    if type(value) is list:
        if value and type(value[0]) in (int, float):
            return [value]
        return value if any(part != [] for part in value) else None
    return None if value == {} else value


def _read_polygons(values: list[Any], kinds: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    num_parts = np.zeros(len(values), dtype=np.int64)
    rows = np.flatnonzero(kinds == POLYGON)
    lists = [values[row] for row in rows.tolist()]
    num_parts[rows] = [len(parts) for parts in lists]
    parts = list(chain.from_iterable(lists))
    points = [type(part) is list and len(part) >= 6 and len(part) % 2 == 0 for part in parts]
    flat, offsets, readable = masks.flatten_numbers(parts, points)
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
