"""Resizing and augmentation of an image, its boxes and its masks together.

One `Geometry` is drawn for each image and then applied to pixels, boxes, polygons and run lengths alike.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from maskrcnn_train.data.channels import AnyImage
from maskrcnn_train.data.coco import masks
from maskrcnn_train.settings.schema import AugmentationConfig, DataConfig
from maskrcnn_train.structures.arrays import Floats, Size
from maskrcnn_train.structures.tiles import Tile

MIN_SIDE = 1.0  # network pixels; objects with a shorter side cannot be told from noise and are left out


@dataclass(frozen=True)
class Geometry:
    """Resize to `scaled`, mirror, rotate, then cut a window of `size` with its corner at `corner` (y, x); in pixels.

    A window that reaches beyond the image is padded at the right and bottom. angle: degrees anticlockwise about the
    centre of the scaled image; the corners that it uncovers are padded too.
    tile: where the source lies in a larger image, which points, boxes and run lengths are then of.
    """

    source: Size
    scaled: Size
    size: Size
    corner: tuple[int, int] = (0, 0)
    mirror_x: bool = False
    mirror_y: bool = False
    angle: float = 0.0
    tile: Tile | None = None

    @property
    def scale(self) -> tuple[float, float]:
        """(vertical, horizontal) factor."""
        return self.scaled[0] / self.source[0], self.scaled[1] / self.source[1]

    @property
    def visible(self) -> Size:
        """The part of the window that shows the image; the rest is padding."""
        (height, width), (y, x) = self.scaled, self.corner
        return min(self.size[0], height - y), min(self.size[1], width - x)

    @property
    def crops(self) -> bool:
        return self.visible != self.scaled or self.angle != 0

    @property
    def cuts(self) -> bool:
        """Whether objects may be visible in part only."""
        return self.crops or self.tile is not None

    def points(self, coordinates: Floats) -> Floats:
        """Move float64 [2 n] x y x y ... from the source to the window; not clipped."""
        points = coordinates.reshape(-1, 2)
        if self.tile is not None:
            points = points - self.tile[0][:2]
        points = points * self.scale[::-1]
        if self.mirror_x:
            points[:, 0] = self.scaled[1] - points[:, 0]
        if self.mirror_y:
            points[:, 1] = self.scaled[0] - points[:, 1]
        if self.angle:
            (cos, sin), middle = self._cos_sin(), np.array(self.scaled[::-1]) / 2
            points = middle + (points - middle) @ np.array([[cos, -sin], [sin, cos]])
        return np.asarray(points - self.corner[::-1]).reshape(-1)

    def boxes(self, boxes: Floats) -> Floats:
        """Move float64 [N, 4] x1 y1 x2 y2 from the source to the window, clipped to what is visible.

        Of a rotated image: the boxes around the rotated boxes.
        """
        columns = [0, 1, 2, 1, 2, 3, 0, 3] if self.angle else [0, 1, 2, 3]
        corners = self.points(boxes[:, columns]).reshape(-1, len(columns) // 2, 2)
        return self.clip(np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1))

    def clip(self, boxes: Floats) -> Floats:
        """What is visible of boxes of the window: float64 [N, 4] x1 y1 x2 y2."""
        return np.asarray(np.clip(boxes, 0, np.tile(self.visible[::-1], 2)))

    def frame(self) -> Floats:
        """The outline of the image, or of its tile, in the window: float64 [8] x y x y ..."""
        x0, y0, x1, y1 = (0, 0, *self.source[::-1]) if self.tile is None else self.tile[0]
        return self.points(np.array([x0, y0, x1, y0, x1, y1, x0, y1], dtype=np.float64))

    def _shifted(self, box: masks.Box) -> masks.Box:
        """A box of the window as a box of the scaled image."""
        y, x = self.corner
        return box[0] + x, box[1] + y, box[2] + x, box[3] + y

    def _unmirrored(self, box: masks.Box) -> masks.Box:
        x0, y0, x1, y1 = box
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
        if self.angle:
            return self._rotated_runs_crop(runs, box)
        return np.ascontiguousarray(self.mirror(self._upright_crop(runs, self._unmirrored(self._shifted(box)))))

    def _upright_crop(self, runs: NDArray[np.uint32], box: masks.Box) -> masks.Bitmap:
        window, size = self.tile or ((0, 0, *self.source[::-1]), self.source)
        return masks.scaled_runs_crop(runs, size, box, self.scale, window)

    def _rotated_runs_crop(self, runs: NDArray[np.uint32], box: masks.Box) -> masks.Bitmap:
        """Draw upright what lies under the rotated box, then rotate it."""
        x0, y0, x1, y1 = self._shifted(box)
        a, b, c, d, e, f = self._back((x0, y0), (0, 0))
        corners = np.array([[a * x + b * y + c, d * x + e * y + f] for x in (0, x1 - x0) for y in (0, y1 - y0)])
        limits = np.array(self.scaled[::-1])
        low = np.clip(np.floor(corners.min(axis=0)).astype(int), 0, limits - 1)
        high = np.clip(np.ceil(corners.max(axis=0)).astype(int), low + 1, limits)
        around = self._unmirrored((int(low[0]), int(low[1]), int(high[0]), int(high[1])))
        upright = self.mirror(self._upright_crop(runs, around)) * np.uint8(255)
        size, matrix = (x1 - x0, y1 - y0), self._back((x0, y0), (int(low[0]), int(low[1])))
        turned = Image.fromarray(upright).transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
        return (np.asarray(turned) >= 128).astype(np.uint8)

    def _cos_sin(self) -> tuple[float, float]:
        return math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))

    def _back(self, to: tuple[int, int], base: tuple[int, int]) -> tuple[float, float, float, float, float, float]:
        """Pillow's matrix that rotates a picture with its corner at `base` into one with its corner at `to` (x, y)."""
        (cos, sin), middle = self._cos_sin(), (self.scaled[1] / 2, self.scaled[0] / 2)
        x, y = to[0] - middle[0], to[1] - middle[1]
        return (
            *(cos, -sin, middle[0] + cos * x - sin * y - base[0]),
            *(sin, cos, middle[1] + sin * x + cos * y - base[1]),
        )

    def resize(self, image: AnyImage) -> AnyImage:
        """The visible part, not yet mirrored; the whole image if it will be rotated.

        `image` may be smaller than `source`, of the same shape.
        """
        if self.angle:
            height, width = self.scaled
            return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
        height, width = self.visible
        if image.size == (width, height) and not self.crops:
            return image
        if not self.crops:  # columns first: left to itself Pillow chooses the order, and so the rounding, by the size
            image = image.resize((width, image.height), Image.Resampling.BILINEAR, reducing_gap=3.0)
            return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
        x0, y0, x1, y1 = self._unmirrored(self._shifted((0, 0, width, height)))
        factor_x, factor_y = image.width / self.scaled[1], image.height / self.scaled[0]
        box = (x0 * factor_x, y0 * factor_y, min(x1 * factor_x, image.width), min(y1 * factor_y, image.height))
        return image.resize((width, height), Image.Resampling.BILINEAR, box=box, reducing_gap=3.0)

    def window(self, visible: AnyImage, fill: tuple[int, ...]) -> NDArray[Any]:
        """Pixels of the window, uint8 or uint16 [h, w, C], from the resized visible part; fill: C values of padding."""
        if self.mirror_x:  # Pillow mirrors pixels seven times faster than a numpy copy with a negative stride
            visible = visible.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.mirror_y:
            visible = visible.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        if self.angle:
            matrix, size = self._back(self.corner[::-1], (0, 0)), self.visible[::-1]
            visible = visible.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill)
        pixels = np.asarray(visible)
        if self.visible == self.size:
            return np.array(pixels, order="C")  # a copy of its own: Pillow's pixels are read-only
        padded = np.empty((*self.size, len(fill)), dtype=pixels.dtype)
        padded[:] = fill
        padded[: self.visible[0], : self.visible[1]] = pixels
        return padded


def resized_size(size: Size, min_size: int, max_size: int) -> Size:
    """(height, width) with the shorter side `min_size`, unless the longer one would exceed `max_size`.

    torchvision's rule (GeneralizedRCNNTransform), rounded down; at least one pixel.
    """
    scale = min(min_size / min(size), max_size / max(size))
    # 1e-6: 480 * (800 / 480) must not become 799 by rounding
    return max(1, int(size[0] * scale + 1e-6)), max(1, int(size[1] * scale + 1e-6))


@dataclass(frozen=True, kw_only=True)
class Transform:
    """Draws the geometry of an image and changes its colours; without a random generator it only resizes.

    min_sizes: shorter sides to choose from, network pixels. scale_jitter: range of a factor on the resized image,
    which is then cut or padded to its former size. min_crop: a random part of at least this share of each side
    becomes the picture. rotation: largest angle in degrees, in both directions. copy_paste: how often objects of
    another image are pasted in. Probabilities and strengths are 0 to 1. fill: one value a channel, of padding.
    """

    min_sizes: tuple[int, ...]
    max_size: int
    horizontal_flip: float = 0.0
    vertical_flip: float = 0.0
    scale_jitter: tuple[float, float] | None = None
    min_crop: float = 1.0
    rotation: float = 0.0
    color_jitter: float = 0.0
    copy_paste: float = 0.0
    fill: tuple[int, ...] = (124, 116, 104)

    def scaled(self, percent: int = 100) -> Self:
        """For images of this share of the size."""
        if percent == 100:
            return self
        *min_sizes, max_size = (max(1, round(size * percent / 100)) for size in (*self.min_sizes, self.max_size))
        return replace(self, min_sizes=tuple(min_sizes), max_size=max_size)

    def geometry(self, source: Size, rng: np.random.Generator | None) -> Geometry:
        """Draw the geometry of an image of (height, width) `source`."""
        if rng is None:
            size = resized_size(source, self.min_sizes[0], self.max_size)
            return Geometry(source, size, size)
        min_size = int(rng.choice(self.min_sizes))
        mirrors = bool(rng.random() < self.horizontal_flip), bool(rng.random() < self.vertical_flip)
        if self.scale_jitter is not None:
            size = resized_size(source, min_size, self.max_size)
            factor = rng.uniform(*self.scale_jitter)
            scaled = max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
        else:
            share = rng.uniform(self.min_crop, 1, 2) if self.min_crop < 1 else (1.0, 1.0)
            part = max(1, round(source[0] * share[0])), max(1, round(source[1] * share[1]))
            size = resized_size(part, min_size, self.max_size)
            scaled = round(source[0] * size[0] / part[0]), round(source[1] * size[1] / part[1])
        corner = (0, 0)
        if scaled != size:  # the window shows as much of the image as it can
            y, x = (int(rng.integers(0, max(0, scaled[axis] - size[axis]) + 1)) for axis in (0, 1))
            corner = y, x
        angle = float(rng.uniform(-self.rotation, self.rotation)) if self.rotation else 0.0
        return Geometry(source, scaled, size, corner, *mirrors, angle)

    def colors(self, image: AnyImage, rng: np.random.Generator | None) -> AnyImage:
        """Change brightness, contrast, saturation and hue at random; of R G B only."""
        if rng is None or self.color_jitter == 0 or not isinstance(image, Image.Image):
            return image
        strength = self.color_jitter
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            image = enhance(image).enhance(1 + strength * rng.uniform(-0.5, 0.5))
        steps = round(255 * strength * rng.uniform(-0.1, 0.1))
        if steps == 0:
            return image
        hsv = np.array(image.convert("HSV"))
        hsv[..., 0] += np.uint8(steps % 256)  # the hue is a circle of 256 steps
        return Image.fromarray(hsv, mode="HSV").convert("RGB")


def build_transform(data: DataConfig, augmentation: AugmentationConfig | None, pixel_mean: list[float]) -> Transform:
    """The transform of training images, or without `augmentation` that of all others."""
    highest = 2**data.bits - 1
    fill = tuple(min(highest, max(0, round(highest * mean))) for mean in pixel_mean)
    if augmentation is None:
        return Transform(min_sizes=(data.min_size,), max_size=data.max_size, fill=fill)
    jitter = augmentation.scale_jitter
    own = asdict(augmentation) | {"scale_jitter": None if jitter is None else (min(jitter), max(jitter))}
    own["min_sizes"] = tuple(augmentation.min_sizes or [data.min_size])
    for key in ("start_scale", "full_size_from"):  # the sampler's: they belong to batches
        del own[key]
    return Transform(**own, max_size=data.max_size, fill=fill)
