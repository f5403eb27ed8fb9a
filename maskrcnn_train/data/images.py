"""Decodes image files to upright 8-bit RGB, whatever the file holds."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs: 512 MiB as RGB
ORIENTATION = 0x0112  # EXIF tag
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FAULTS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    struct.error,
    zlib.error,
    MemoryError,
)
SHRINK_MARGIN = 1.5  # a JPEG is decoded at a fraction of its size only while it stays this much larger than needed


class ImageError(ValueError):
    """A file that cannot be used as an image; the message names the file."""


def decode(
    path: Path, *, expected: tuple[int, int] | None = None, smallest: tuple[int, int] | None = None
) -> Image.Image:
    """Decode one file to an RGB image, turned upright by its EXIF orientation. Raises ImageError naming the file.

    expected: (height, width) in the JSON. Annotations drawn on the un-rotated picture are recognised by their
    size being the un-rotated one; the picture is then left so. Any other size is an error.
    smallest: (height, width) that the caller is going to shrink it to; a much larger JPEG is then decoded at
    1/2, 1/4 or 1/8 of its size.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata and palettes that do not matter here
            with Image.open(path) as image:
                turn = _orientation(image, path, expected)
                if smallest is not None and isinstance(image, ImageFile.ImageFile):
                    _shrink_early(image, smallest, turn)
                rgb = _to_rgb(image)
            return rgb.transpose(TRANSPOSE[turn]) if turn in TRANSPOSE else rgb
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{path} has more than {MAX_PIXELS:,} pixels; cut it into tiles") from None
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist") from None
    except FAULTS as error:
        reason = str(error).split("\n")[0].replace(f" {str(path)!r}", "") or type(error).__name__
        raise ImageError(f"{path} cannot be read as an image: {reason}") from None


def _orientation(image: Image.Image, path: Path, expected: tuple[int, int] | None) -> int:
    """The EXIF orientation to undo; 1 where the annotations belong to the picture as stored."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{path} has {width} x {height} pixels, more than {MAX_PIXELS:,}; cut it into tiles")
    turn = image.getexif().get(ORIENTATION, 1)
    upright = (width, height) if turn in (5, 6, 7, 8) else (height, width)
    if expected is None or expected == upright:
        return int(turn) if turn in TRANSPOSE else 1
    if expected == (height, width):
        return 1
    raise ImageError(
        f"{path} has {upright[1]} x {upright[0]} pixels, but its JSON says {expected[1]} x {expected[0]}; "
        "use the picture that was annotated, or correct width and height"
    )


def _shrink_early(image: ImageFile.ImageFile, smallest: tuple[int, int], turn: int) -> None:
    height, width = smallest[::-1] if turn in (5, 6, 7, 8) else smallest
    wanted = (max(1, int(width * SHRINK_MARGIN)), max(1, int(height * SHRINK_MARGIN)))
    if wanted[0] * 2 <= image.size[0] and wanted[1] * 2 <= image.size[1]:
        image.draft("RGB", wanted)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow's own conversion would clip 16 bits to 255
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ImageError(f"{getattr(image, 'filename', 'image')} has floating-point pixels; convert it to 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    wide = pixels.astype(np.int64)
    if wide.max(initial=0) > 65535 or wide.min(initial=0) < 0:
        raise ValueError("its pixels need more than 16 bits")
    return np.asarray((wide + 128) // 257, dtype=np.uint8)
