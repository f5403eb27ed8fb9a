"""Pictures of any kind, decoded and resized for the model as the validation of its training did."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maskrcnn_train.data.images import MAX_PIXELS, MAX_TILED_PIXELS, decode, to_rgb
from maskrcnn_train.data.transforms import build_transform
from maskrcnn_train.prediction.tiling import Tiles, Window
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainConfig

Picture = str | Path | Image.Image | NDArray[np.uint8] | Tensor


@dataclass
class Prepared:
    """An image ready for the model. original: R G B, upright; source: its file. pixels: uint8 [3, h, w], resized;
    None where it is detected in `windows`, each of which is cut and resized when its turn comes."""

    original: Image.Image
    source: str | None
    pixels: Tensor | None
    windows: list[Window]

    @property
    def size(self) -> tuple[int, int]:
        return self.original.height, self.original.width


def prepare(config: TrainConfig, picture: Picture, tiles: Tiles | None = None) -> Prepared:
    """Decode one image and, unless it is to be cut into tiles, resize it. Raises ImageError."""
    source = str(picture) if isinstance(picture, str | Path) else None
    image = _open(picture, MAX_PIXELS if tiles is None else MAX_TILED_PIXELS)
    windows = [] if tiles is None else tiles.windows((image.height, image.width))
    return Prepared(image, source, None, windows) if len(windows) > 1 else resize(config, image, source)


def resize(config: TrainConfig, image: Image.Image, source: str | None = None) -> Prepared:
    """An image, or one tile of it, with its pixels as the model takes them."""
    transform = build_transform(config.data, None, config.numerics.pixel_mean)
    geometry = transform.geometry((image.height, image.width), None)
    pixels = torch.from_numpy(geometry.window(geometry.resize(image), transform.fill)).permute(2, 0, 1)
    return Prepared(image, source, pixels, [])


def _open(picture: Picture, max_pixels: int) -> Image.Image:
    if isinstance(picture, str | Path):
        return decode(Path(picture), max_pixels=max_pixels)
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    if isinstance(picture, Tensor):
        floating, kind = picture.is_floating_point(), f"{picture.dtype} {tuple(picture.shape)}"
        if picture.ndim != 3 or picture.shape[0] != 3 or not (floating or picture.dtype == torch.uint8):
            raise UserError(f"an image tensor must be uint8, or float in 0..1, [3, height, width], not {kind}")
        pixels = (picture.clamp(0, 1) * 255).round().to(torch.uint8) if floating else picture
        picture = pixels.permute(1, 2, 0).cpu().numpy()
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise UserError(f"an image array must be uint8 [height, width, 3], not {picture.dtype} {picture.shape}")
    return Image.fromarray(np.ascontiguousarray(picture))
