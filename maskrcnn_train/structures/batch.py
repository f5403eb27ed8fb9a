"""What the loaders give to the model: a batch of images, and masks that are stored inside their boxes only.

`data` and `model` do not import each other; both import this module.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self, TypedDict

import torch
from torch import Tensor

from maskrcnn_train.structures.tiles import Tile


@dataclass
class _Pixels:
    """Of a batch only `pixels` move to a device; all else stays on the host."""

    pixels: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        return replace(self, pixels=self.pixels.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        return replace(self, pixels=self.pixels.pin_memory())


@dataclass
class ImageBatch(_Pixels):
    """Resized images, padded at the right and bottom to one size.

    pixels: uint8 or uint16 [N, C, H, W], C = 3: R G B; H and W are multiples of 32.
    sizes: (height, width) of each image inside `pixels`, network pixels.
    original_sizes: (height, width) of each image as decoded, image pixels.
    """

    sizes: list[tuple[int, int]]
    original_sizes: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.sizes)


@dataclass
class ImageVersions:
    """The same images at several network sizes, one batch a size."""

    versions: list[ImageBatch]

    def __len__(self) -> int:
        return len(self.versions[0])

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ImageVersions:
        return ImageVersions([batch.to(device, non_blocking=non_blocking) for batch in self.versions])


@dataclass
class MaskCrops(_Pixels):
    """The masks of one image, each stored inside its own box only.

    pixels: uint8 [sum of h_i * w_i], 0 or 1; crop i is rows y0..y1-1, columns x0..x1-1, row by row.
    boxes: int64 [N, 4], x0 y0 x1 y1 (x1, y1 exclusive), pixels of the resized image.
    offsets: int64 [N + 1], where crop i begins in `pixels`.
    size: (height, width) of the resized image. The host cuts the pixels up, so that only they move to a GPU.
    """

    boxes: Tensor
    offsets: Tensor
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.boxes)

    def crop(self, index: int) -> Tensor:
        """Mask `index` inside its box: uint8 [h, w]."""
        x0, y0, x1, y1 = self.boxes[index].tolist()
        start, end = int(self.offsets[index]), int(self.offsets[index + 1])
        return self.pixels[start:end].view(y1 - y0, x1 - x0)

    def dense(self) -> Tensor:
        """Full-size masks: uint8 [N, height, width]. For tests and pictures; costs N times the image."""
        masks = torch.zeros((len(self), *self.size), dtype=torch.uint8)
        for index, (x0, y0, x1, y1) in enumerate(self.boxes.tolist()):
            masks[index, y0:y1, x0:x1] = self.crop(index)
        return masks


class Target(TypedDict, total=False):
    """The objects of one image.

    boxes: float32 [N, 4], x1 y1 x2 y2, pixels of the resized image. labels: int64 [N], 1..K (0 is background).
    masks: MaskCrops, or uint8/bool [N, H, W] from a loader of one's own; absent for box-only data.
    image_id: the id in the JSON. iscrowd objects are not among the targets.
    ignored: float32 [I, 4], regions that are neither object nor background; absent where there are none.
    tile: where in its image it lies; absent for whole images.
    """

    boxes: Tensor
    labels: Tensor
    masks: MaskCrops | Tensor
    image_id: int
    ignored: Tensor
    tile: Tile


def to_device(value: Any, device: torch.device) -> Any:
    """Tensors, image batches and mask crops of a batch onto the device, without waiting."""
    if hasattr(value, "to"):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: to_device(item, device) for key, item in value.items()}
    return [to_device(item, device) for item in value] if isinstance(value, list) else value
