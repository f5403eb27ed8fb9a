"""Reads image files as the settings say they are: 8-bit R G B, or any number of channels of 8 or 16 bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from maskrcnn_train.data.channels import NUMPY, TIFF, AnyImage, ChannelImage, Values, numpy_layout, read_tiff
from maskrcnn_train.data.images import (
    FLOATING,
    MAX_PIXELS,
    ImageError,
    check_size,
    decode,
    named_errors,
    refuse_large,
    to_rgb,
    upright,
)
from maskrcnn_train.settings.schema import DataConfig
from maskrcnn_train.structures.arrays import Size

PERCENTILES = (2, 98)  # of a channel, which become black and white


@dataclass(frozen=True, kw_only=True)
class PixelReader:
    """What the pixels of all images are, however a file holds them.

    channels, bits: of a pixel. picture_channels, picture_contrast: how images that are no R G B are shown.
    """

    channels: int
    bits: int
    picture_channels: tuple[int, ...]
    picture_contrast: str

    @property
    def is_rgb(self) -> bool:
        """Whether they are what Pillow reads, shrinks and shows by itself."""
        return self.channels == 3 and self.bits == 8

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    @property
    def highest(self) -> int:
        """The largest value of a channel."""
        return (1 << self.bits) - 1

    def read(
        self, path: Path, *, expected: Size | None = None, smallest: Size | None = None, max_pixels: int = MAX_PIXELS
    ) -> AnyImage:
        """One file, upright: an RGB image, or all channels without loss. Raises ImageError naming the file.

        The parameters are those of `decode`, which reads R G B; `smallest` counts there only.
        """
        kind = path.suffix.lower()
        if self.is_rgb and kind != NUMPY:
            return decode(path, expected=expected, smallest=smallest, max_pixels=max_pixels)
        name = str(path)

        def check(size: Size, count: int) -> None:
            refuse_large(name, size, max_pixels)
            self._check_count(name, count)
            check_size(name, size, expected)

        with named_errors(name, max_pixels):
            if kind == NUMPY:
                values, size = numpy_layout(path)
                check(size, values.shape[2])
            elif kind in TIFF:
                values = read_tiff(path, check)
            else:
                with Image.open(path) as image:
                    refuse_large(name, image.size[::-1], max_pixels)
                    values = self._stored(image, name, expected)
            return self.image(self.in_depth(values, name))

    def from_pillow(self, image: Image.Image) -> AnyImage:
        """A Pillow image as its file would be read. Raises ImageError."""
        name = str(getattr(image, "filename", "") or f"the {image.mode} image of {image.width} x {image.height} pixels")
        with named_errors(name):
            if self.is_rgb:
                return upright(image, name, to_rgb)
            return self.image(self.in_depth(self._stored(image, name, None), name))

    def image(self, values: Values) -> AnyImage:
        """values: [H, W, C] of `channels` and `dtype`."""
        return Image.fromarray(np.ascontiguousarray(values)) if self.is_rgb else ChannelImage.of(values)

    def show(self, image: AnyImage | Values) -> Image.Image:
        """R G B to look at: the chosen channels of an image, or one of them in grey."""
        if isinstance(image, Image.Image):
            return image
        values = np.asarray(image)
        if self.is_rgb:
            return Image.fromarray(values)
        chosen = [self._visible(values[..., number - 1]) for number in self.picture_channels]
        return Image.fromarray(np.stack(chosen * (3 // len(chosen)), axis=-1))

    def _visible(self, channel: NDArray[Any]) -> NDArray[np.uint8]:
        low, high = 0.0, float(self.highest)
        if self.picture_contrast == "percentile":
            low, high = np.percentile(channel, PERCENTILES)
        return np.rint(np.clip((channel - low) * (255 / max(high - low, 1)), 0, 255)).astype(np.uint8)

    def _stored(self, image: Image.Image, name: str, expected: Size | None) -> Values:
        """The values of a Pillow image: [H, W, C]."""
        tiles = image.tile if isinstance(image, ImageFile.ImageFile) and not image.mode.startswith("I") else []
        if any(";16" in str(tile[3]) for tile in tiles):
            raise ImageError(f"{name} has 16-bit colours, of which Pillow reads 8 bits; save it as TIFF or .npy")
        values = np.asarray(upright(image, name, _as_stored, expected))
        values = values[..., None] if values.ndim == 2 else values
        self._check_count(name, values.shape[2])
        return values

    def _check_count(self, name: str, count: int) -> None:
        if count != self.channels:
            what = f"{name} has {count} channel{'s' * (count != 1)}, but data.channels={self.channels}"
            raise ImageError(f"{what}; correct the file or the setting")

    def in_depth(self, values: Values, name: str) -> Values:
        """Values of `dtype`; 8 bits become 16 by a factor of 257, which keeps 0 black and the highest white."""
        if values.dtype.kind == "f":
            raise ImageError(f"{name} {FLOATING}")
        bits = 8 * values.dtype.itemsize
        if values.dtype.kind != "u" or bits > 16:
            raise ImageError(f"{name} has {values.dtype.name} pixels; save it as uint8 or uint16")
        if bits > self.bits:
            raise ImageError(f"{name} has 16-bit pixels, but data.bits=8; set data.bits=16")
        values = values.astype(self.dtype)
        return values * self.dtype.type(257) if bits < self.bits else values


def _as_stored(image: Image.Image, name: str) -> Image.Image:
    """A Pillow image whose bands are channels."""
    if image.mode in ("P", "PA"):
        raise ImageError(f"{name} has a palette, so its pixels are numbers of colours; save the colours")
    return image.convert("L") if image.mode == "1" else image.copy()


RGB = PixelReader(channels=3, bits=8, picture_channels=(1, 2, 3), picture_contrast="percentile")


def build_reader(data: DataConfig) -> PixelReader:
    """The reader of a data set's images."""
    shown = data.picture_channels or ([1, 2, 3] if data.channels >= 3 else [1])
    return PixelReader(
        channels=data.channels,
        bits=data.bits,
        picture_channels=tuple(shown),
        picture_contrast=data.picture_contrast,
    )
