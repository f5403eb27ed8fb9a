"""Masks of labels as bitmaps, run lengths and outlines."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn_train.data.coco.masks import (
    bitmap_extent,
    flatten_numbers,
    measure_polygons,
    polygon_crop,
    polygon_faults,
    read_code,
    runs_crop,
    runs_extent,
)
from maskrcnn_train.data.formats.labelled import DataSet, LabelledImage, LabelledObject
from maskrcnn_train.structures.arrays import Bytes, Flags, Floats, Ints, Size
from maskrcnn_train.structures.outlines import signed_area, simplified, trace
from maskrcnn_train.structures.rle import crop_runs

HIDDEN = "objects hidden by others, without a pixel of their own, were left out"
Crop = tuple[int, int, Bytes]  # x0, y0, bitmap [h, w], inside the image
Window = tuple[slice, slice]
Region = list[Floats]  # the loop around it, then those around its holes: [n, 2] each


def run_lengths(bitmap: Bytes, x0: int, y0: int, size: Size) -> dict[str, Any]:
    """A mask as COCO's run lengths; what lies outside the image is cut off.

    bitmap: [h, w], its top left pixel at column `x0`, row `y0` of an image of `size` (height, width).
    """
    top, left = max(-y0, 0), max(-x0, 0)
    inside = bitmap[top : max(size[0] - y0, 0), left : max(size[1] - x0, 0)]
    if 0 in inside.shape:
        return {"size": list(size), "counts": [size[0] * size[1]]}
    return {"size": list(size), "counts": crop_runs(inside > 0, x0 + left, y0 + top, size).tolist()}


def instances(ids: Ints) -> dict[int, Crop]:
    """The mask of each number above 0 in a map of objects [height, width]."""
    places = np.stack(np.nonzero(ids > 0), axis=1)
    values = ids[ids > 0]
    order = np.argsort(values, kind="stable")
    numbers, starts = np.unique(values[order], return_index=True)
    if not len(numbers):
        return {}
    low, high = np.minimum.reduceat(places[order], starts), np.maximum.reduceat(places[order], starts) + 1
    found = {}
    for number, (y0, x0), (y1, x1) in zip(numbers.tolist(), low.tolist(), high.tolist(), strict=True):
        found[number] = (x0, y0, (ids[y0:y1, x0:x1] == number).astype(np.uint8))
    return found


def bitmap_of(each: LabelledObject, size: Size) -> Crop | None:
    """The mask of an object in its own box, None where only the box is known. Its segmentation is checked."""
    if each.segmentation is None:
        return None
    if isinstance(each.segmentation, list):
        points = np.concatenate(each.segmentation).reshape(-1, 2)
        x0, y0 = np.clip(np.floor(points.min(axis=0)), 0, [size[1] - 1, size[0] - 1]).astype(int).tolist()
        x1, y1 = np.clip(np.ceil(points.max(axis=0)), [x0 + 1, y0 + 1], [size[1], size[0]]).astype(int).tolist()
        bitmap = polygon_crop([np.asarray(part) for part in each.segmentation], size, (x0, y0, x1, y1))
        left, top, right, bottom = bitmap_extent(bitmap) or (0, 0, 1, 1)
        return x0 + left, y0 + top, bitmap[top:bottom, left:right]
    runs = read_code(each.segmentation)[1]
    assert runs is not None
    box, area = runs_extent(runs, size[0])
    box = box if area else (0, 0, 1, 1)
    return box[0], box[1], runs_crop(runs, size[0], box)


def has_pixels(each: LabelledObject) -> bool:
    """Whether an object has anything to draw: a detection may have a mask without a pixel."""
    if isinstance(each.segmentation, dict):
        runs = read_code(each.segmentation)[1]
        return runs is not None and bool(runs[1::2].sum())
    return each.segmentation is not None or (each.box is not None and min(each.box[2:]) > 0)


def filled_box(each: LabelledObject, size: Size) -> Crop:
    """The mask of an object; where only its box is known the pixels of that in the image, one at the least."""
    if (crop := bitmap_of(each, size)) is not None:
        return crop
    assert each.box is not None
    low, last = np.array(each.box[:2]), np.array(size[::-1]) - 1
    x0, y0 = first = np.clip(np.round(low), 0, last).astype(int)
    x1, y1 = np.clip(np.round(low + each.box[2:]), first + 1, last + 1).astype(int)
    return int(x0), int(y0), np.ones((y1 - y0, x1 - x0), np.uint8)


def painted(image: LabelledImage) -> Iterator[tuple[LabelledObject, Window, Flags]]:
    """Each object with its window and the pixels of it, the largest first, so that small ones stay in sight."""
    crops = [(each, *filled_box(each, image.size)) for each in image.objects]
    for each, x0, y0, bitmap in sorted(crops, key=lambda crop: -int(crop[3].sum())):
        yield each, (slice(y0, y0 + bitmap.shape[0]), slice(x0, x0 + bitmap.shape[1])), bitmap > 0


def tell_hidden(data: DataSet, image: LabelledImage, ids: Ints | Bytes) -> None:
    """Note the objects without a pixel in a map of objects [height, width]."""
    visible = np.count_nonzero(np.bincount(ids.ravel())[1:])
    data.remarks[HIDDEN] += [image.file_name] * (len(image.objects) - int(visible))


def object_regions(each: LabelledObject, size: Size, tolerance: float) -> list[Region]:
    """The outlines of an object; none where only its box is known. Polygons are kept as they are.

    tolerance: pixels that a point which is left out may be away from the outline of run lengths.
    """
    if isinstance(each.segmentation, list):
        return [[np.array(part, dtype=np.float64).reshape(-1, 2)] for part in each.segmentation]
    return _traced(each, size, tolerance)


def disjoint_regions(each: LabelledObject, size: Size, tolerance: float) -> list[Region]:
    """`object_regions` that do not overlap, for `joined`: polygons that do are traced as one mask.

    All turn the way of `trace`, so that the areas of parts add up in one line through them.
    """
    if isinstance(each.segmentation, list) and len(each.segmentation) > 1:
        codes = coco_mask.frPyObjects(each.segmentation, *size)
        if int(coco_mask.area(coco_mask.merge(codes))) < int(coco_mask.area(codes).sum()):
            return _traced(each, size, tolerance)
    return [
        [loop if signed_area(loop) > 0 else loop[::-1], *holes]
        for loop, *holes in object_regions(each, size, tolerance)
    ]


def area_of_cut(each: LabelledObject, size: Size) -> int | None:
    """Pixels of an outline that comes back to one of its points, as along cuts between parts; None for another.

    The area that follows from its points would be too small where parts of it turn different ways.
    """
    if not isinstance(each.segmentation, list) or len(each.segmentation) != 1:
        return None
    points = [*zip(each.segmentation[0][::2], each.segmentation[0][1::2], strict=False)]
    if len({*points}) >= len(points) - (points[0] == points[-1]) or polygon_fault(each.segmentation[0], size):
        return None
    crop = bitmap_of(each, size)
    return None if crop is None else int(crop[2].sum()) or None


def _traced(each: LabelledObject, size: Size, tolerance: float) -> list[Region]:
    crop = bitmap_of(each, size)
    if crop is None:
        return []
    x0, y0, bitmap = crop
    return [[simplified(loop, tolerance) + np.array([x0, y0]) for loop in region] for region in trace(bitmap > 0)]


def united(first: Any, second: Any, size: Size) -> Any:
    """Two segmentations as one: all polygons, or where one is a bitmap the run lengths of both."""
    if isinstance(first, list) and isinstance(second, list):
        return first + second
    full = np.zeros(size, np.uint8)
    for each in (first, second):
        crop = bitmap_of(LabelledObject("", each), size)
        assert crop is not None
        x0, y0, bitmap = crop
        full[y0 : y0 + bitmap.shape[0], x0 : x0 + bitmap.shape[1]] |= bitmap
    return run_lengths(full, 0, 0, size)


def add_shape(
    image: LabelledImage, shape: LabelledObject, group: str | None, groups: dict[tuple[str, str], LabelledObject]
) -> None:
    """Add a shape to an image: as an object, or to the object of its name and group.

    group: None where it stands alone. groups: the objects of the image with a group so far.
    """
    first = shape if group is None else groups.setdefault((shape.name, group), shape)
    if first is shape:
        image.objects.append(shape)
    else:
        first.segmentation = united(first.segmentation, shape.segmentation, image.size)


def rounded(pixels: Floats) -> Floats:
    """Coordinates that were shares, so that half pixels stay such: the last digit would else decide what is inside."""
    with np.errstate(over="ignore"):
        return np.round(pixels, 6)


def polygon_fault(polygon: list[float], size: Size) -> str | None:
    """Why a polygon x y x y ... cannot be drawn."""
    flat, offsets, readable = flatten_numbers([polygon], [len(polygon) >= 6 and len(polygon) % 2 == 0])
    faults = polygon_faults(readable, *measure_polygons(flat, offsets, readable), np.array([float(max(size))]))
    return next((reason for reason, which in faults.items() if which[0]), None)


def needs_bitmap(each: LabelledObject, regions: list[Region], tolerance: float) -> bool:
    """Whether polygons would lose something of a mask: its holes, or where there is no tolerance its pixels."""
    return any(len(region) > 1 for region in regions) or (tolerance == 0 and isinstance(each.segmentation, dict))
