"""Decodes image files to upright 8-bit RGB, whatever the file holds."""

import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from maskrcnn_train.data.channels import TIFF
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Size

Convert = Callable[[Image.Image, str], Image.Image]  # of an image with this name

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs: 512 MiB as an array
MAX_TILED_PIXELS = 2 * MAX_PIXELS  # of an image that is detected in tiles; Pillow opens no larger file
CUT = "cut it into smaller files"
FLOATING = "has floating-point pixels; convert it to 8 or 16 bits"
ORIENTATION = 0x0112  # EXIF tag
SIDEWAYS = (5, 6, 7, 8)  # orientations of pictures that are stored with width and height exchanged
TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FAULTS = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error, zlib.error, MemoryError)
SHRINK_MARGIN = 1.5  # a JPEG is decoded at a fraction of its size only while it stays this much larger than needed


class ImageError(UserError):
    """A file that cannot be used as an image; the message names the file."""


class WrongSize(ImageError):
    """An image of another size than its JSON says."""


def decode(
    path: Path, *, expected: Size | None = None, smallest: Size | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Decode one file to an RGB image, turned upright by its EXIF orientation. Raises ImageError naming the file.

    expected: (height, width) in the JSON. If it is the size before rotation, the annotations belong to the picture
    as stored, which then stays so (except a TIFF: Pillow rotates it while loading). Any other size is an error.
    smallest: (height, width) that the caller will shrink it to; a much larger JPEG is decoded at 1/2, 1/4 or 1/8 of
    its size. max_pixels: of the file, at most MAX_TILED_PIXELS.
    """
    with named_errors(str(path), max_pixels), Image.open(path) as image:
        refuse_large(str(path), image.size[::-1], max_pixels)
        return upright(image, str(path), to_rgb, expected, smallest)


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """A file as Pillow opens it. Raises ImageError naming the file, also for what fails while it is open."""
    with named_errors(str(path)), Image.open(path) as image:
        yield image


def refuse_large(name: str, size: Size, max_pixels: int) -> None:
    """Raises ImageError for an image with more than `max_pixels`."""
    height, width = size
    if width * height > max_pixels:
        raise ImageError(f"{name} has {width} x {height} pixels, more than {max_pixels:,}; {CUT}")


@contextmanager
def named_errors(name: str, max_pixels: int = MAX_PIXELS) -> Iterator[None]:
    """Turn every error of decoding into an ImageError that names the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata and palettes that do not matter here
            yield
    except UserError:
        raise
    except Image.DecompressionBombError:
        raise ImageError(f"{name} has more than {max_pixels:,} pixels; {CUT}") from None
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist") from None
    except FAULTS as error:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0].replace(f" {name!r}", "")
        reason = reason or type(error).__name__
        unknown = isinstance(error, UnidentifiedImageError) and name.lower().endswith(TIFF)
        hint = "; if its channels are not R G B, set data.channels and data.bits" if unknown else ""
        raise ImageError(f"{name} cannot be read as an image: {reason}{hint}") from None


def upright(
    image: Image.Image, name: str, convert: Convert, expected: Size | None = None, smallest: Size | None = None
) -> Image.Image:
    """A Pillow image converted and turned upright, without metadata; the rest as in `decode`."""
    if image.format == "TIFF":
        image.load()  # Pillow rotates a TIFF while loading; only then tag and size are right
    turn = _orientation(image, name, expected)
    if smallest is not None and isinstance(image, ImageFile.ImageFile):
        height, width = smallest[::-1] if turn in SIDEWAYS else smallest
        needed = (max(1, int(width * SHRINK_MARGIN)), max(1, int(height * SHRINK_MARGIN)))
        if needed[0] * 2 <= image.size[0] and needed[1] * 2 <= image.size[1]:
            image.draft("RGB", needed)
    converted = convert(image, name)
    converted.info = {}  # else the orientation would be there to be undone again
    return converted.transpose(TRANSPOSE[turn]) if turn in TRANSPOSE else converted


def _orientation(image: Image.Image, name: str, expected: Size | None) -> int:
    """The EXIF orientation to undo; 1 where the annotations belong to the picture as stored."""
    width, height = image.size
    turn = image.getexif().get(ORIENTATION, 1)
    size = (width, height) if turn in SIDEWAYS else (height, width)
    if expected == (height, width) != size:
        return 1
    check_size(name, size, expected)
    return int(turn) if turn in TRANSPOSE else 1


def check_size(name: str, size: Size, expected: Size | None) -> None:
    """Raises WrongSize unless the size is the one in the JSON."""
    if expected is not None and size != expected:
        raise WrongSize(
            f"{name} has {size[1]} x {size[0]} pixels, but its JSON says {expected[1]} x {expected[0]}; "
            "use the picture that was annotated, or correct width and height"
        )


def to_rgb(image: Image.Image, name: str) -> Image.Image:
    """The image in 8-bit RGB. Raises ImageError where that would lose more than depth."""
    if image.mode.startswith("I"):  # Pillow's own conversion would clip 16 bits to 255
        wide = np.asarray(image).astype(np.int64)
        if wide.max(initial=0) > 65535 or wide.min(initial=0) < 0:
            raise ImageError(f"{name} cannot be read as an image: its pixels need more than 16 bits")
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ImageError(f"{name} {FLOATING}")
    if image.mode == "P" and "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")
