"""Pictures of any kind, decoded and resized for the model as the validation of its training did."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskrcnn_train.data.channels import AnyImage
from maskrcnn_train.data.images import MAX_PIXELS, MAX_TILED_PIXELS
from maskrcnn_train.data.pixels import PixelReader, build_reader
from maskrcnn_train.data.transforms import build_transform
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.tiles import Tiles, Window

STRAY = 0.5  # a resize leaves values a little outside 0..1; other scales are further away
Picture = str | Path | Image.Image | NDArray[Any] | Tensor


@dataclass
class Prepared:
    """An image ready for the model. original: upright; source: its file. pixels: uint8 or uint16 [C, h, w], resized;
    None where it is detected in `windows`, each of which is cut and resized when its turn comes."""

    original: AnyImage
    source: str | None
    pixels: Tensor | None
    windows: list[Window]

    @property
    def size(self) -> tuple[int, int]:
        return self.original.height, self.original.width


def prepare(
    config: TrainConfig, picture: Picture, tiles: Tiles | None = None, size: tuple[int, int] | None = None
) -> Prepared:
    """Decode one image and, unless it is to be cut into tiles, resize it. Raises ImageError.

    size: (height, width) that a file should have. If it is that before rotation by EXIF, the picture stays unrotated.
    """
    source = str(picture) if isinstance(picture, str | Path) else None
    image = _open(build_reader(config.data), picture, MAX_PIXELS if tiles is None else MAX_TILED_PIXELS, size)
    if image.width * image.height == 0:
        raise UserError(f"an image has {image.width} x {image.height} pixels")
    windows = [] if tiles is None else tiles.windows((image.height, image.width))
    return Prepared(image, source, None, windows) if len(windows) > 1 else resize(config, image, source)


def resize(config: TrainConfig, image: AnyImage, source: str | None = None) -> Prepared:
    """An image, or one tile of it, with its pixels as the model takes them."""
    transform = build_transform(config.data, None, config.numerics.pixel_mean)
    geometry = transform.geometry((image.height, image.width), None)
    pixels = torch.from_numpy(geometry.window(geometry.resize(image), transform.fill)).permute(2, 0, 1)
    return Prepared(image, source, pixels, [])


def _open(reader: PixelReader, picture: Picture, max_pixels: int, size: tuple[int, int] | None) -> AnyImage:
    if isinstance(picture, str | Path):
        return reader.read(Path(picture), expected=size, max_pixels=max_pixels)
    if isinstance(picture, Image.Image):
        return reader.from_pillow(picture)
    channels, kinds = reader.channels, {"uint8", reader.dtype.name}  # 8 bits deepen as those of files do
    named = " or ".join(sorted(kinds))
    if isinstance(picture, Tensor):
        floating = picture.is_floating_point()
        known = floating or str(picture.dtype).removeprefix("torch.") in kinds
        if picture.ndim != 3 or picture.shape[0] != channels or not known:
            what = f"an image tensor must be {named}, or float in 0..1, [{channels}, height, width]"
            raise UserError(f"{what}, not {picture.dtype} {tuple(picture.shape)}")
        values = (picture.float() if floating else picture).detach().permute(1, 2, 0).cpu().numpy()
        if floating and values.size and not (values.min() > -STRAY and values.max() < 1 + STRAY):  # nor NaN
            found = f"from {values.min():.4g} to {values.max():.4g}"
            raise UserError(f"an image tensor of floats must be in 0..1, not normalised, not {found}")
        picture = np.rint(values.clip(0, 1) * reader.highest).astype(reader.dtype) if floating else values
    if not isinstance(picture, np.ndarray):
        raise UserError(f"an image must be a path, a Pillow image, an array or a tensor, not {type(picture).__name__}")
    if picture.dtype.name not in kinds or picture.ndim != 3 or picture.shape[2] != channels:
        what = f"an image array must be {named} [height, width, {channels}]"
        raise UserError(f"{what}, not {picture.dtype} {picture.shape}")
    return reader.image(reader.in_depth(picture, "an image array"))
