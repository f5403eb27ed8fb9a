"""Masks to and from COCO run-length codes, without full-size masks on the way to them.

COCO counts runs down the columns of the whole image. Outside a mask's own box all pixels are zero, so the runs follow
from the pixels in the box and its position.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

Bitmap = npt.NDArray[Any]  # uint8 or bool [h, w]
Runs = npt.NDArray[np.uint32]
RLE = dict[str, Any]


def crop_runs(bitmap: Bitmap, x0: int, y0: int, size: tuple[int, int]) -> Runs:
    """Run lengths, in column order and zeros first, of a full-size mask that is zero outside one crop: uint32 [R].

    bitmap: uint8 or bool [h, w], its top left pixel at column `x0`, row `y0` of an image of `size` (height, width).

    >>> crop_runs(np.ones((2, 3), np.uint8), x0=1, y0=0, size=(2, 5)).tolist()
    [2, 6, 2]
    """
    height, width = size
    crop_height, crop_width = bitmap.shape
    if x0 < 0 or y0 < 0 or x0 + crop_width > width or y0 + crop_height > height:
        raise ValueError(
            f"crop {crop_height} x {crop_width} at row {y0}, column {x0} leaves the image {height} x {width}"
        )
    # One zero below each column ends every run inside its column; a zero in front makes the first edge a start.
    columns = np.zeros(crop_width * (crop_height + 1) + 1, np.uint8)
    columns[1:].reshape(crop_width, crop_height + 1)[:, :crop_height] = bitmap.T
    edges = np.flatnonzero(columns[1:] != columns[:-1])
    column, row = np.divmod(edges, crop_height + 1)
    edges = (column + x0) * height + row + y0
    if crop_height == height:
        # drop the edges where a run reaches the image's bottom and the next begins at the next column's top
        touching = np.flatnonzero(edges[1:-1:2] == edges[2::2]) * 2 + 1
        edges = np.delete(edges, np.concatenate([touching, touching + 1]))
    runs = np.diff(edges, prepend=0, append=height * width)
    return (runs if runs[-1] or len(runs) == 1 else runs[:-1]).astype(np.uint32)


def compress_runs(runs: Sequence[Runs], size: tuple[int, int]) -> list[RLE]:
    """COCO's compressed RLE dicts of the run lengths of masks of one `size` (height, width)."""
    if not runs:
        return []
    plain = [{"size": list(size), "counts": run} for run in runs]
    codes = coco_mask.frPyObjects(plain, *size)
    return [{"size": list(size), "counts": code["counts"].decode("ascii")} for code in codes]


def compressed(shape: RLE | list[list[float]], size: Sequence[int]) -> RLE:
    """A mask in any of COCO's forms - polygons, counts as a list, compressed counts - with compressed counts.

    size: (height, width) of the image.
    """
    if isinstance(shape, dict) and not isinstance(shape["counts"], list):
        return shape
    packed = coco_mask.frPyObjects(shape, *size)
    code: RLE = coco_mask.merge(packed) if isinstance(shape, list) else packed
    return code


def decode_crop(code: RLE) -> tuple[int, int, Bitmap]:
    """A mask cut to its own box: x0, y0, bitmap uint8 [h, w]; the counts may be a list. Pixels of the image."""
    code = compressed(code, code["size"])
    x0, y0, width, height = (int(value) for value in coco_mask.toBbox(code))
    with warnings.catch_warnings():
        # pycocotools 2.0.11 on numpy 2: its array has the signature of numpy 1
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        full = coco_mask.decode(code)
    return x0, y0, full[y0 : y0 + height, x0 : x0 + width]
