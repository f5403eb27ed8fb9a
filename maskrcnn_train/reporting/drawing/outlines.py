"""Masks as outlines that a browser draws: traced around their pixels, with few points."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from contourpy import contour_generator
from PIL import Image

Array = npt.NDArray[np.float64]
TOLERANCE = 0.5  # pixels of the picture that an outline may be off


def mask_path(bitmap: npt.NDArray[np.uint8], x0: float, y0: float, scale: float) -> str:
    """The SVG path of a mask, in picture pixels; empty where nothing is left of it.

    bitmap: [h, w], at column `x0`, row `y0` of the image. scale: picture pixels for an image pixel.
    """
    height, width = bitmap.shape
    small = (max(1, round(width * min(scale, 1.0))), max(1, round(height * min(scale, 1.0))))
    grey = Image.fromarray((bitmap > 0).astype(np.uint8) * 255)
    inside = np.asarray(grey if small == grey.size else grey.resize(small, Image.Resampling.BOX)) > 127
    factors = np.array([width / small[0], height / small[1]]) * scale
    start = np.array([x0, y0]) * scale
    loops = [simplified(loop * factors + start, TOLERANCE) for loop in trace(inside)]
    return "".join(_closed(loop) for loop in loops if len(loop) > 2)


def box_path(box: tuple[float, float, float, float], scale: float) -> str:
    """The SVG path of a box x, y, width, height of the image, in picture pixels."""
    x, y, width, height = (value * scale for value in box)
    return _closed(np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)]))


def _closed(points: Array) -> str:
    rounded = [" ".join(f"{round(value, 1):g}" for value in point) for point in points.tolist()]
    return "M" + "L".join(rounded) + "z"


def trace(inside: npt.NDArray[np.bool_]) -> list[Array]:
    """Closed loops around the pixels and the holes of a mask: float [n, 2] each, x y.

    inside: bool [h, w]. The points are the middles of pixel edges, so that slopes are slopes rather than stairs.
    """
    contours = contour_generator(z=np.pad(inside, 1).astype(np.float64)).lines(0.5)
    return [np.asarray(loop[:-1], np.float64) - 0.5 for loop in contours]


def simplified(loop: Array, tolerance: float) -> Array:
    """A closed loop with fewer points, none of the others farther than `tolerance` from it (Douglas and Peucker 1973).

    loop: [n, 2].
    """
    if len(loop) < 4:
        return loop
    far = int(np.linalg.norm(loop - loop[0], axis=1).argmax())
    closed = np.concatenate([loop, loop[:1]])
    kept = np.zeros(len(closed), bool)
    kept[[0, far, len(loop)]] = True
    spans = [(0, far), (far, len(loop))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        distances = _distances(closed[first + 1 : last], closed[first], closed[last])
        worst = int(distances.argmax())
        if distances[worst] > tolerance:
            middle = first + 1 + worst
            kept[middle] = True
            spans += [(first, middle), (middle, last)]
    return closed[:-1][kept[:-1]]


def _distances(points: Array, start: Array, end: Array) -> Array:
    """Of points [n, 2] from the line through two points; from the point where they are one."""
    along = end - start
    length = float(np.hypot(*along))
    offsets = points - start
    if length == 0:
        return np.asarray(np.linalg.norm(offsets, axis=1), np.float64)
    return np.asarray(np.abs(offsets[:, 0] * along[1] - offsets[:, 1] * along[0]) / length, np.float64)
