"""Masks as COCO writes them (polygons, run lengths) and as small bitmaps inside their own boxes.

pycocotools crashes on malformed masks instead of raising: it only gets what `polygon_faults` or `read_code` checked.
Boxes here are x0 y0 x1 y1 in whole pixels, x1 and y1 exclusive.
"""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from maskrcnn_train.structures.arrays import Floats, Ints

Bitmap = NDArray[np.uint8]
Box = tuple[int, int, int, int]

FAR = 10  # image sides that a polygon may reach beyond its image; further out is a fault
MAX_CROSSINGS = 1000  # of the image by one outline; pycocotools allocates every pixel of it, and crashes if it cannot
MAX_OUTLINE = 2**22  # pixels
FARTHEST = 1e300  # stands in for whole numbers that no float can hold
MIN_AREA = 1e-3  # square pixels; polygons below it are lines
MAX_PIXELS = 2**31  # of an image that an RLE describes


def flatten_numbers(lists: Sequence[Any], usable: Sequence[bool]) -> tuple[Floats, Ints, NDArray[np.bool_]]:
    """Lists of numbers as one array: (numbers, offsets, which lists hold numbers only); the others are empty."""
    used = [values if ok else [] for values, ok in zip(lists, usable, strict=True)]
    numeric = np.array(usable, dtype=bool)
    if not {*map(type, chain.from_iterable(used))} <= {int, float}:
        for row, values in enumerate(used):
            if not {*map(type, values)} <= {int, float}:
                numeric[row], used[row] = False, []
    lengths = np.fromiter(map(len, used), dtype=np.int64, count=len(used))
    try:
        flat = np.fromiter(chain.from_iterable(used), dtype=np.float64, count=int(lengths.sum()))
    except OverflowError:  # whole numbers of more than 308 digits
        limited = (min(max(number, -FARTHEST), FARTHEST) for number in chain.from_iterable(used))
        flat = np.fromiter(limited, dtype=np.float64, count=int(lengths.sum()))
    return flat, np.concatenate([[0], np.cumsum(lengths)]), numeric


def measure_polygons(flat: Floats, offsets: Ints, readable: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Extents [P, 4] x1 y1 x2 y2, areas [P] in square pixels and lengths of outlines [P] in steps of one pixel.

    All are NaN where a polygon is not readable or has a coordinate that is not finite.
    """
    extents = np.full((len(readable), 4), np.nan)
    areas, outlines = np.full((2, len(readable)), np.nan)
    if readable.any():
        points, starts = flat.reshape(-1, 2), offsets[:-1][readable] // 2
        with np.errstate(invalid="ignore", over="ignore"):
            extents[readable, :2] = np.minimum.reduceat(points, starts, axis=0)
            extents[readable, 2:] = np.maximum.reduceat(points, starts, axis=0)
            following = np.arange(1, len(points) + 1)
            following[np.append(starts[1:], len(points)) - 1] = starts
            # relative to the first point of each polygon: large coordinates would cost digits
            local = points - np.repeat(points[starts], np.diff(np.append(starts, len(points))), axis=0)
            after = local[following]
            cross = local[:, 0] * after[:, 1] - after[:, 0] * local[:, 1]
            areas[readable] = np.abs(np.add.reduceat(cross, starts)) / 2
            outlines[readable] = np.add.reduceat(np.abs(after - local).max(axis=1), starts)
    extents[~np.isfinite(extents).all(axis=1)] = np.nan
    return extents, areas, outlines


def polygon_faults(
    readable: NDArray[np.bool_], extents: Floats, areas: Floats, outlines: Floats, sides: Floats
) -> dict[str, NDArray[np.bool_]]:
    """Find the faults of many polygons at once: reason -> [P].

    readable [P]; extents, areas, outlines: of `measure_polygons`. sides [P]: the longer side of each polygon's image.
    """
    finite = np.isfinite(extents).all(axis=1)
    with np.errstate(invalid="ignore"):
        far = finite & (np.abs(extents).max(axis=1, initial=0) > FAR * sides)
        long = finite & ~far & (outlines > np.minimum(MAX_CROSSINGS * sides, MAX_OUTLINE))
    return {
        "polygon is not a list of three or more points": ~readable,
        "polygon has a coordinate that is not a number": readable & ~finite,
        "polygon reaches far outside the image": far,
        "polygon has an outline too long to be drawn": long,
        "polygon has no area": finite & ~far & ~long & ~(areas > MIN_AREA),
    }


def polygon_crop(parts: Sequence[Floats], size: tuple[int, int], box: Box) -> Bitmap:
    """The union of polygons inside `box`: uint8 [h, w]; what pycocotools draws on the whole image, cropped.

    parts: float64 [2 n] each, x y x y ..., checked, in pixels of an image of `size` (height, width).
    """
    # run lengths of the whole image cost as much as the outline is long; moving the polygon to the corner of its
    # box instead would round some of its edges differently
    encoded = coco_mask.frPyObjects(parts, *size)
    counts = decode_counts((encoded[0] if len(encoded) == 1 else coco_mask.merge(encoded))["counts"])
    assert counts is not None, "pycocotools wrote run lengths that cannot be read"
    return runs_crop(counts, size[0], box)


def bitmap_extent(bitmap: Bitmap) -> Box | None:
    """Box around the ones of a bitmap [h, w], None without any."""
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if len(rows) == 0:
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def read_code(code: dict[str, Any]) -> tuple[tuple[int, int], Ints | None]:
    """(height, width) that an RLE names, and its run lengths; (0, 0) and None where these cannot be read."""
    size, counts = code.get("size"), code.get("counts")
    if type(size) is not list or not all(type(side) in (int, float) and 0 < side < MAX_PIXELS for side in size):
        size = []
    height, width = size if len(size) == 2 else (0, 0)
    runs = None
    if isinstance(counts, list) and all(type(number) is int and 0 <= number < MAX_PIXELS for number in counts):
        runs = np.array(counts, dtype=np.int64)
    elif isinstance(counts, str):
        runs = decode_counts(counts.encode("ascii", errors="replace"))
    return (int(height), int(width)), None if runs is None or (runs < 0).any() else runs


def decode_counts(text: bytes) -> Ints | None:
    """Run lengths of COCO's compressed string (int64), None where it is malformed.

    Six bits a character from '0': five of value, one for "more follows"; the last of a number carries its
    sign; from the fourth number on, each is the difference to the one two before (maskApi.c, rleFrString).
    """
    codes = np.frombuffer(text, dtype=np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 0x20) == 0)
    if len(codes) == 0 or codes.min() < 0 or codes.max() > 63 or len(ends) == 0 or ends[-1] != len(codes) - 1:
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    digits = ends - starts + 1
    if digits.max() > 7:  # more than 35 bits
        return None
    digit = np.arange(len(codes)) - np.repeat(starts, digits)
    values = np.add.reduceat((codes & 0x1F) << (5 * digit), starts)
    values -= np.where(codes[ends] & 0x10, np.int64(1) << (5 * digits), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def runs_extent(runs: NDArray[np.integer[Any]], height: int) -> tuple[Box, int]:
    """Box around the ones of an RLE, and how many there are; ((0, 0, 0, 0), 0) without any."""
    edges = np.cumsum(runs, dtype=np.int64)
    starts, ends = edges[:-1:2], edges[1::2] - 1
    starts, ends = starts[: len(ends)][ends >= starts[: len(ends)]], ends[ends >= starts[: len(ends)]]
    if len(starts) == 0:
        return (0, 0, 0, 0), 0
    left, right = int(starts[0] // height), int(ends[-1] // height) + 1
    across = (starts // height) != (ends // height)  # a run into the next column touches bottom and top
    top = 0 if across.any() else int((starts % height).min())
    bottom = height if across.any() else int((ends % height).max()) + 1
    return (left, top, right, bottom), int((ends - starts + 1).sum())


def runs_crop(runs: NDArray[np.integer[Any]], height: int, box: Box) -> Bitmap:
    """The pixels of an RLE inside `box`: uint8 [h, w]. Only the columns of the box are filled.

    runs describe an image of `height` rows; `box` lies inside it.
    """
    x0, y0, x1, y1 = box
    edges = np.cumsum(runs, dtype=np.int64)
    low, high = x0 * height, x1 * height
    begin, end = np.searchsorted(edges, low, side="right"), np.searchsorted(edges, high, side="left")
    inside = np.concatenate([[low], edges[begin:end], [high]])
    values = (np.arange(begin, begin + len(inside) - 1) % 2).astype(np.uint8)
    strip = np.repeat(values, np.diff(inside)).reshape(x1 - x0, height)
    return np.ascontiguousarray(strip[:, y0:y1].T)


def scaled_runs_crop(
    runs: NDArray[np.uint32], size: tuple[int, int], box: Box, scale: tuple[float, float], window: Box
) -> Bitmap:
    """The pixels of an RLE, cut to `window` and scaled, inside `box` of the scaled window: uint8 [h, w].

    size: (height, width) that the runs describe. scale: (vertical, horizontal) factor. A pixel is 1 where at
    least half of it is covered.
    """
    (height, width), (x0, y0, x1, y1), (first, above, last, below) = size, box, window
    if scale == (1.0, 1.0):
        return runs_crop(runs, height, (first + x0, above + y0, first + x1, above + y1))
    left, right = first + x0 / scale[1], min(first + x1 / scale[1], last)
    top, bottom = above + y0 / scale[0], min(above + y1 / scale[0], below)
    outer = (int(left), int(top), min(int(np.ceil(right)), width), min(int(np.ceil(bottom)), height))
    crop = Image.fromarray(runs_crop(runs, height, outer) * np.uint8(255))
    source = (left - outer[0], top - outer[1], right - outer[0], bottom - outer[1])
    resized = crop.resize((x1 - x0, y1 - y0), Image.Resampling.BOX, box=source)
    return (np.asarray(resized) >= 128).astype(np.uint8)
