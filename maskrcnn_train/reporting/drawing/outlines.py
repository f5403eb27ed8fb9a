"""Masks as outlines that a browser draws: traced around their pixels, with few points."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from maskrcnn_train.structures.arrays import Bytes, Floats
from maskrcnn_train.structures.outlines import simplified, trace

TOLERANCE = 0.8  # pixels of the picture that an outline may be off


def mask_path(x0: float, y0: float, bitmap: Bytes, scale: float) -> str:
    """The SVG path of a mask, in picture pixels; empty where nothing is left of it.

    bitmap: [h, w], at column `x0`, row `y0` of the image. scale: picture pixels for an image pixel.
    """
    if not bitmap.size:
        return ""
    height, width = bitmap.shape
    small = (max(1, round(width * min(scale, 1.0))), max(1, round(height * min(scale, 1.0))))
    grey = Image.fromarray((bitmap > 0).astype(np.uint8) * 255)
    inside = np.asarray(grey if small == grey.size else grey.resize(small, Image.Resampling.BOX)) > 127
    factors = np.array([width / small[0], height / small[1]]) * scale
    start = np.array([x0, y0]) * scale
    loops = [simplified(loop * factors + start, TOLERANCE) for region in trace(inside) for loop in region]
    return "".join(_closed(loop) for loop in loops if len(loop) > 2)


def box_path(box: Sequence[float], scale: float) -> str:
    """The SVG path of a box x, y, width, height of the image, in picture pixels."""
    x, y, width, height = (value * scale for value in box)
    return _closed(np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)]))


def _closed(points: Floats) -> str:
    rounded = [" ".join(f"{round(value, 1):g}" for value in point) for point in points.tolist()]
    return "M" + "L".join(rounded) + "z"
