"""Checks the annotations of a COCO JSON against their images and sorts them.

A faulty annotation never stops a training and is never dropped silently: each fault has a row in `SkippedTable`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn_train.data.coco import masks
from maskrcnn_train.data.coco.index import NO_MASK, RLE
from maskrcnn_train.data.coco.raw_annotations import GIVEN, MALFORMED, NO_ID, UNKNOWN, RawAnnotations
from maskrcnn_train.data.coco.skipped import SkippedTable
from maskrcnn_train.structures.arrays import Bytes, Flags, Floats, Ints
from maskrcnn_train.structures.corners import box_areas, common_part

Report = Callable[[str, Any, bool], None]  # (reason, which: bool [A], dropped)

CLIP_TOLERANCE = 0.5  # pixels; tools round coordinates, that alone is not worth a row
MIN_AGREEMENT = 0.5  # IoU of a box and the extent of its segmentation; below it one of them is likely wrong


def check_annotations(
    raw: RawAnnotations,
    image_ids: Ints,
    sizes: Ints,
    keep: Flags,
    skipped: SkippedTable,
    places: Sequence[str] | None = None,
) -> dict[str, NDArray[Any]]:
    """Check the annotations and sort them by image: the columns of `AnnotationIndex` that are about them.

    image_ids: int64 [M]; sizes: int64 [M, 2] height, width. keep: bool [A], which annotations have a known image; it
    becomes False, in place, for those left out. `skipped` receives what is left out or repaired. places: where each
    annotation stands, if not in a JSON.
    """
    ids, image_rows, by_id = raw.ids.copy(), np.full(len(raw), -1), np.argsort(image_ids)
    ids[keep] = _unique_ids(raw.ids[keep], raw.numbers[keep], skipped)
    image_rows[keep] = by_id[np.searchsorted(image_ids, raw.image_ids[keep], sorter=by_id)]
    report = _reporter(ids, keep, skipped, places)
    own_sizes = np.concatenate([sizes, [[1, 1]]])[image_rows]  # row -1: 1 x 1
    report("iscrowd is neither 0 nor 1", raw.crowd < 0, True)
    boxes = _check_boxes(raw, own_sizes, report)
    extents, mask_areas, good_parts = _check_polygons(raw, own_sizes, report)
    report("segmentation is neither polygons nor RLE", raw.kinds == UNKNOWN, True)
    extents = _check_codes(raw, own_sizes, extents, mask_areas, report)
    has_box, has_mask = raw.box_states == GIVEN, raw.kinds != NO_MASK
    report("neither box nor segmentation", ~has_box & ~has_mask, True)
    if places is None:  # a JSON should have boxes and areas; other files have none
        report("box computed from the segmentation", ~has_box & has_mask, False)
        report("area missing: computed", np.isnan(raw.areas), False)
    boxes = np.where(has_box[:, None], boxes, extents)
    _compare(boxes, extents, has_box & has_mask, report)
    extents[~has_mask] = boxes[~has_mask]
    boxes[:, 2:] -= boxes[:, :2]
    report("area is not a positive number: computed", raw.areas == 0, False)
    areas = np.where(raw.areas > 0, raw.areas, np.where(has_mask, mask_areas, boxes[:, 2] * boxes[:, 3]))
    order = np.argsort(image_rows, kind="stable")
    order = order[keep[order]]
    return {
        "annotation_ids": ids[order],
        "image_rows": image_rows[order],
        "category_ids": raw.category_ids[order],
        "crowd": raw.crowd[order] == 1,
        "boxes": boxes[order],
        "written_boxes": np.where(has_box[:, None], raw.boxes, boxes)[order],
        "areas": areas[order],
        "kinds": raw.kinds[order],
        "extents": extents[order],
        **packed_places(None if places is None else (places[row] for row in order.tolist())),
        **_select_masks(raw, good_parts, order),
    }


def _reporter(ids: Ints, keep: Flags, skipped: SkippedTable, places: Sequence[str] | None) -> Report:
    """A function that notes the annotations with a fault in `skipped`, and leaves those to drop out of `keep`."""

    def report(reason: str, which: Flags, dropped: bool) -> None:
        which = which & keep
        for row in np.flatnonzero(which).tolist():
            item = int(ids[row]) if places is None else places[row]
            skipped.add(reason, item, f"annotation {item}" if places is None else str(item), dropped=dropped)
        if dropped:
            keep[which] = False

    return report


def _unique_ids(given: Ints, numbers: Ints, skipped: SkippedTable) -> Ints:
    """The ids of annotations; missing, wrong and repeated ones are replaced by new ones above the largest.

    numbers: positions of the annotations in their file.
    """
    usable = given != NO_ID
    first = np.zeros(len(given), dtype=bool)
    first[np.unique(given, return_index=True)[1]] = True
    ids = given.copy()
    following = max(int(given.max(initial=0)), 0) + 1
    for row in np.flatnonzero(~usable | ~first).tolist():
        reason = "annotation id repeated" if usable[row] else "annotation id missing or not a whole number"
        was = f" (id {given[row]})" if usable[row] else ""
        example = f"annotation number {numbers[row]}{was} is now {following}"
        skipped.add(f"{reason}: replaced", following, example, dropped=False)
        ids[row], following = following, following + 1
    return ids


def _check_boxes(raw: RawAnnotations, sizes: Ints, report: Report) -> Floats:
    """Boxes clipped to their images: float64 [A, 4] x1 y1 x2 y2, NaN where there is none."""
    boxes, numbers = raw.boxes.copy(), raw.box_states == GIVEN
    report("box is not four numbers", raw.box_states == MALFORMED, True)
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
    return clipped


def _check_polygons(raw: RawAnnotations, sizes: Ints, report: Report) -> tuple[Floats, Floats, Flags]:
    """Extents [A, 4] x1 y1 x2 y2 and areas [A] of the polygons, NaN without; which parts are good [P]."""
    count = len(raw)
    owners = np.repeat(np.arange(count), raw.num_parts)
    sides = sizes.max(axis=1, initial=0)[owners].astype(np.float64)
    measures = raw.part_extents, raw.part_areas, raw.part_outlines
    faults = masks.polygon_faults(raw.part_lengths > 0, *measures, sides)
    good = ~np.any(list(faults.values()), axis=0)
    sound = np.bincount(owners[good], minlength=count) > 0
    for reason, which in faults.items():
        broken = np.bincount(owners[which], minlength=count) > 0
        report(reason, broken & ~sound, True)
        report(f"{reason}: this part left out", broken & sound, False)
    bounds = np.tile([np.inf, np.inf, -np.inf, -np.inf], (count, 1))
    np.minimum.at(bounds[:, :2], owners[good], raw.part_extents[good, :2])
    np.maximum.at(bounds[:, 2:], owners[good], raw.part_extents[good, 2:])
    total = np.bincount(owners[good], weights=raw.part_areas[good], minlength=count)
    return np.where(sound[:, None], bounds, np.nan), np.where(sound, total, np.nan), good


def _check_codes(raw: RawAnnotations, sizes: Ints, extents: Floats, areas: Floats, report: Report) -> Floats:
    """Check the RLE and fill in their rows of `areas`; returns the extents of all masks, clipped to their images."""
    coded = raw.kinds == RLE
    report("RLE has another size than its image", coded & (raw.rle_sizes != sizes).any(axis=1), True)
    report("RLE has counts that cannot be read", coded & (raw.rle_pixels < 0), True)
    report("RLE counts do not add up to the image", coded & (raw.rle_pixels != sizes.prod(axis=1)), True)
    report("mask is empty", coded & (raw.rle_areas == 0), True)
    areas[coded] = raw.rle_areas[coded]
    extents = np.where(coded[:, None], raw.rle_boxes, extents)
    extents = np.asarray(np.clip(extents, 0, np.tile(sizes[:, ::-1].astype(np.float64), 2)))
    with np.errstate(invalid="ignore"):
        report("segmentation lies outside the image", (extents[:, 2:] <= extents[:, :2]).any(axis=1), True)
    return extents


def _compare(boxes: Floats, extents: Floats, both: Flags, report: Report) -> None:
    with np.errstate(invalid="ignore", divide="ignore"):
        shared = box_areas(common_part(boxes, extents))
        overlap = shared / (box_areas(boxes) + box_areas(extents) - shared)
        report("box and segmentation differ (boxes are x, y, width, height)", both & (overlap < MIN_AGREEMENT), False)


def _select_masks(raw: RawAnnotations, good_parts: Flags, order: Ints) -> dict[str, NDArray[Any]]:
    """The good polygons and the run lengths of the annotations in `order`, one after another."""
    first_part = _offsets(raw.num_parts)
    parts = _ranges(first_part[order], raw.num_parts[order])
    kept = np.bincount(np.repeat(np.arange(len(raw)), raw.num_parts)[good_parts], minlength=len(raw))
    parts = parts[good_parts[parts]]
    points = _ranges(_offsets(raw.part_lengths)[parts], raw.part_lengths[parts])
    runs = _ranges(_offsets(raw.num_runs)[order], raw.num_runs[order])
    return {
        "part_offsets": _offsets(kept[order]),
        "point_offsets": _offsets(raw.part_lengths[parts]),
        "coordinates": raw.coordinates[points],
        "run_offsets": _offsets(raw.num_runs[order]),
        "runs": raw.runs[runs],
    }


def packed_places(places: Iterable[str] | None) -> dict[str, NDArray[Any]]:
    """The columns of `AnnotationIndex` that say where annotations stand; None, of a JSON: both empty."""
    if places is None:
        return {"places": np.zeros(0, np.uint8), "place_offsets": np.zeros(0, np.int64)}
    return dict(zip(("places", "place_offsets"), packed_texts(places), strict=True))


def packed_texts(texts: Iterable[str]) -> tuple[Bytes, Ints]:
    """Texts in utf-8, one after another, and where each begins and the last ends: uint8, int64 [n + 1]."""
    encoded = [text.encode(errors="replace") for text in texts]
    return np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([0, *map(len, encoded)], dtype=np.int64)


def _offsets(lengths: Ints) -> Ints:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """The numbers starts[i], starts[i] + 1, ... of every i, lengths[i] of each, one range after another."""
    steps = np.ones(int(lengths.sum()), dtype=np.int64)
    starts, lengths = starts[lengths > 0], lengths[lengths > 0]
    if len(starts):
        steps[0] = starts[0]
        steps[np.cumsum(lengths[:-1])] = starts[1:] - starts[:-1] - lengths[:-1] + 1
    return np.cumsum(steps, out=steps)
