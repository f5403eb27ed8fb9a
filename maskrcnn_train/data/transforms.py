"""Resizing and augmentation of an image, its boxes and its masks together.

One `Geometry` is drawn for each image and then applied to pixels, boxes, polygons and run lengths alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from maskrcnn_train.config import AugmentationConfig, DataConfig
from maskrcnn_train.data import masks

Size = tuple[int, int]  # height, width
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """Resize to `scaled`, then mirror, then cut a window of `size` whose corner is at `corner` (y, x).

    Where the window reaches beyond the image it is padded at the right and bottom. All are pixels.
    """

    source: Size
    scaled: Size
    size: Size
    corner: tuple[int, int] = (0, 0)
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def scale(self) -> tuple[float, float]:
        """(vertical, horizontal) factor."""
        return self.scaled[0] / self.source[0], self.scaled[1] / self.source[1]

    @property
    def visible(self) -> Size:
        """The part of the window that shows the image; the rest is padding."""
        return (
            min(self.size[0], self.scaled[0] - self.corner[0]),
            min(self.size[1], self.scaled[1] - self.corner[1]),
        )

    @property
    def crops(self) -> bool:
        return self.visible != self.scaled

    def points(self, coordinates: Floats) -> Floats:
        """Move float64 [2 n] x y x y ... from the source to the window; not clipped."""
        points = coordinates.reshape(-1, 2) * self.scale[::-1]
        if self.mirror_x:
            points[:, 0] = self.scaled[1] - points[:, 0]
        if self.mirror_y:
            points[:, 1] = self.scaled[0] - points[:, 1]
        return np.asarray(points - self.corner[::-1]).reshape(-1)

    def boxes(self, boxes: Floats) -> Floats:
        """Move float64 [N, 4] x1 y1 x2 y2 from the source to the window, clipped to what is visible."""
        corners = self.points(boxes).reshape(-1, 2, 2)
        moved = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
        return np.asarray(np.clip(moved, 0, np.tile(self.visible[::-1], 2)))

    def unmirrored(self, box: masks.Box) -> masks.Box:
        """A box of the window as a box of the scaled image before mirroring."""
        x0, x1 = box[0] + self.corner[1], box[2] + self.corner[1]
        y0, y1 = box[1] + self.corner[0], box[3] + self.corner[0]
        if self.mirror_x:
            x0, x1 = self.scaled[1] - x1, self.scaled[1] - x0
        if self.mirror_y:
            y0, y1 = self.scaled[0] - y1, self.scaled[0] - y0
        return x0, y0, x1, y1

    def mirror(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """Mirror the first two axes, rows and columns."""
        return pixels[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]

    def runs_crop(self, runs: NDArray[np.uint32], box: masks.Box) -> masks.Bitmap:
        """The pixels of an RLE of the source inside `box` of the window: uint8 [h, w]."""
        crop = masks.scaled_runs_crop(runs, self.source, self.unmirrored(box), self.scale)
        return np.ascontiguousarray(self.mirror(crop))

    def resize(self, image: Image.Image) -> Image.Image:
        """The visible part, not yet mirrored. `image` may be smaller than `source`, of the same shape."""
        height, width = self.visible
        if image.size == (width, height) and not self.crops:
            return image
        if not self.crops:  # columns first: left to itself Pillow chooses the order, and so the rounding, by the size
            image = image.resize((width, image.height), Image.Resampling.BILINEAR, reducing_gap=3.0)
            return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
        x0, y0, x1, y1 = self.unmirrored((0, 0, width, height))
        factor_x, factor_y = image.width / self.scaled[1], image.height / self.scaled[0]
        box = (x0 * factor_x, y0 * factor_y, min(x1 * factor_x, image.width), min(y1 * factor_y, image.height))
        return image.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)

    def window(self, visible: Image.Image, fill: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Pixels of the window, uint8 [h, w, 3], from the resized visible part."""
        if self.mirror_x:  # Pillow mirrors pixels seven times faster than a numpy copy with a negative stride
            visible = visible.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.mirror_y:
            visible = visible.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        pixels = np.asarray(visible)
        if self.visible == self.size:
            return np.array(pixels, order="C")  # a copy of its own: Pillow's pixels are read-only
        padded = np.empty((*self.size, 3), dtype=np.uint8)
        padded[:] = fill
        padded[: self.visible[0], : self.visible[1]] = pixels
        return padded


def resized_size(size: Size, min_size: int, max_size: int) -> Size:
    """(height, width) with the shorter side `min_size`, unless the longer one would exceed `max_size`.

    torchvision's rule (GeneralizedRCNNTransform), rounded down; at least one pixel.
    """
    scale = min(min_size / min(size), max_size / max(size))
    # a hair more: 480 * (800 / 480) must not become 799 by rounding
    return max(1, int(size[0] * scale + 1e-6)), max(1, int(size[1] * scale + 1e-6))


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Draws the geometry of an image and changes its colours; without a generator it only resizes.

    min_sizes: shorter sides to draw from, network pixels. scale_jitter: range of the factor on the resized
    image, which is then cut or padded to its size before. Probabilities and strengths from 0 to 1.
    fill: R G B of padding.
    """

    min_sizes: tuple[int, ...]
    max_size: int
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    scale_jitter: tuple[float, float] | None = None
    color_jitter: float = 0.0
    fill: tuple[int, int, int] = (124, 116, 104)

    def geometry(self, source: Size, rng: np.random.Generator | None) -> Geometry:
        """Draw the geometry of an image of (height, width) `source`."""
        if rng is None:
            size = resized_size(source, self.min_sizes[0], self.max_size)
            return Geometry(source, size, size)
        size = resized_size(source, int(rng.choice(self.min_sizes)), self.max_size)
        mirror_x, mirror_y = bool(rng.random() < self.horizontal_flip), bool(rng.random() < self.vertical_flip)
        if self.scale_jitter is None:
            return Geometry(source, size, size, mirror_x=mirror_x, mirror_y=mirror_y)
        factor = rng.uniform(*self.scale_jitter)
        scaled = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
        corner = (
            int(rng.integers(0, max(0, scaled[0] - size[0]) + 1)),
            int(rng.integers(0, max(0, scaled[1] - size[1]) + 1)),
        )
        return Geometry(source, scaled, size, corner, mirror_x, mirror_y)

    def colors(self, image: Image.Image, rng: np.random.Generator | None) -> Image.Image:
        """Change brightness, contrast, saturation and hue at random."""
        if rng is None or self.color_jitter == 0:
            return image
        strength = self.color_jitter
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(1 + strength * rng.uniform(-0.5, 0.5))
        return _shift_hue(image, round(255 * strength * rng.uniform(-0.1, 0.1)))


def _shift_hue(image: Image.Image, steps: int) -> Image.Image:
    if steps == 0:
        return image
    hsv = np.array(image.convert("HSV"))
    hsv[..., 0] += np.uint8(steps % 256)  # the hue is a circle of 256 steps
    return Image.fromarray(hsv, mode="HSV").convert("RGB")


def build_transform(data: DataConfig, augmentation: AugmentationConfig | None, pixel_mean: list[float]) -> Transform:
    """The transform of training images, or without `augmentation` that of all others."""
    fill = tuple(min(255, max(0, round(255 * mean))) for mean in pixel_mean)
    if augmentation is None:
        return Transform(min_sizes=(data.min_size,), max_size=data.max_size, fill=(fill[0], fill[1], fill[2]))
    jitter = augmentation.scale_jitter
    return Transform(
        min_sizes=tuple(augmentation.min_sizes or [data.min_size]),
        max_size=data.max_size,
        horizontal_flip=augmentation.horizontal_flip,
        vertical_flip=augmentation.vertical_flip,
        scale_jitter=None if jitter is None else (min(jitter), max(jitter)),
        color_jitter=augmentation.color_jitter,
        fill=(fill[0], fill[1], fill[2]),
    )
