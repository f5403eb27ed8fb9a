"""Images of any number of channels, 8 or 16 bits deep, and the files that hold them: NumPy arrays and TIFFs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import MAX_CHANNELS
from maskrcnn_train.structures.arrays import Size

Values = NDArray[Any]  # [H, W, C]

TIFF, NUMPY = (".tif", ".tiff"), ".npy"
UPRIGHT, PALETTE = 1, 3  # values of a TIFF's tags of orientation and of colours


@dataclass(frozen=True)
class ChannelImage:
    """One Pillow image for each channel: of mode L for 8 bits, of mode F for 16, which F holds without loss.

    What `Image.Image` does, each channel does; only what resizing and cutting need is here.
    """

    channels: tuple[Image.Image, ...]

    @classmethod
    def of(cls, values: Values) -> ChannelImage:
        """values: uint8 or uint16 [H, W, C]."""
        kind = np.uint8 if values.dtype == np.uint8 else np.float32
        return cls(tuple(Image.fromarray(np.ascontiguousarray(each, kind)) for each in np.moveaxis(values, -1, 0)))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), as Pillow has it."""
        return self.channels[0].size

    @property
    def width(self) -> int:
        return self.size[0]

    @property
    def height(self) -> int:
        return self.size[1]

    def resize(self, *given: Any, **options: Any) -> ChannelImage:
        return self._each(lambda channel: channel.resize(*given, **options))

    def crop(self, box: tuple[int, int, int, int]) -> ChannelImage:
        return self._each(lambda channel: channel.crop(box))

    def transpose(self, method: Image.Transpose) -> ChannelImage:
        return self._each(lambda channel: channel.transpose(method))

    def transform(
        self, size: tuple[int, int], method: Any, data: Any, resample: Any, *, fillcolor: tuple[int, ...]
    ) -> ChannelImage:
        """fillcolor: one value for each channel."""
        filled = zip(self.channels, fillcolor, strict=True)
        return ChannelImage(
            tuple(each.transform(size, method, data, resample, fillcolor=fill) for each, fill in filled)
        )

    def _each(self, change: Callable[[Image.Image], Image.Image]) -> ChannelImage:
        return ChannelImage(tuple(map(change, self.channels)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Values:
        """uint8 or uint16 [H, W, C]."""
        values = np.stack([np.asarray(channel) for channel in self.channels], axis=-1)
        whole = values if values.dtype == np.uint8 else np.rint(values).astype(np.uint16)
        return whole if dtype is None else whole.astype(dtype)


AnyImage = Image.Image | ChannelImage

# ---------------------------------------------------------------- files


def numpy_layout(path: Path) -> tuple[Values, Size]:
    """A .npy file mapped into memory as [H, W, C], and (height, width), before anything of it is read.

    The channels are the last axis if that has at most 16 entries, else the first; an array of two axes has one channel.
    Raises ValueError for any other array.
    """
    values: Values = np.lib.format.open_memmap(path, mode="r")  # no other format, and no pickle
    if values.ndim == 2:
        values = values[..., None]
    elif values.ndim == 3 and values.shape[2] > MAX_CHANNELS >= values.shape[0]:
        values = np.moveaxis(values, 0, 2)
    if values.ndim != 3 or values.shape[2] > MAX_CHANNELS:
        raise ValueError(f"the array is {list(values.shape)}, neither [H, W], [H, W, C] nor [C, H, W]")
    return values, (values.shape[0], values.shape[1])


def read_tiff(path: Path, check: Callable[[Size, int], None]) -> Values:
    """The samples of all pages, one after another, as [H, W, C]; smaller copies of the image are left out.

    check: hears (height, width) and the number of channels before the pixels are decoded. Raises ValueError for a
    palette, for a picture that lies on its side, and for damaged bytes.
    """
    with _opened(path) as file:
        first, *others = [page for page in file.pages if not page.is_reduced and not page.is_mask]
        check((first.imagelength, first.imagewidth), sum(page.samplesperpixel for page in (first, *others)))
        if first.photometric == PALETTE:
            raise ValueError("its pixels are numbers of colours in a palette; save the colours")
        if first.tags.valueof("Orientation", UPRIGHT) != UPRIGHT:
            raise ValueError("its tags say that it lies on its side or mirrored; save it upright")
        return np.concatenate([_samples(page) for page in (first, *others)], axis=-1)


def _samples(page: Any) -> Values:
    """Of one page: [H, W, C]."""
    values: Values = page.asarray(maxworkers=1)
    if page.samplesperpixel == 1:
        return values[..., None]
    return np.moveaxis(values, 0, -1) if page.axes.startswith("S") else values


def tiff_size(path: Path) -> Size:
    """(height, width) of a TIFF, from its first tags. Raises ValueError for damaged bytes."""
    with _opened(path) as file:
        return file.pages[0].imagelength, file.pages[0].imagewidth


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A TIFF in tifffile, whose errors of every kind become ValueErrors. Raises UserError without the package."""
    try:
        import tifffile
    except ImportError:
        raise UserError(f"{path} needs the package tifffile; pip install 'maskrcnn-train[tiff]'") from None
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except (UserError, OSError, MemoryError):
        raise
    except Exception as error:  # as damaged bytes raise any
        raise ValueError(str(error)) from error
