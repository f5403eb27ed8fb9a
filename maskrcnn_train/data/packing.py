"""The samples of a batch, padded to one size and packed into few tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from maskrcnn_train.data.dataset import Sample
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.batch import ImageBatch, MaskCrops, Target
from maskrcnn_train.structures.tiles import Tile

NOTHING = torch.zeros(0, 4)
SIZE_DIVISOR = 32  # the coarsest feature maps have this stride


@dataclass
class PackedBatch:
    """A batch as few tensors: each tensor that a worker sends costs an open file and a message.

    images: what the model gets. boxes, labels: of all images, one after another; masks likewise, and regions to ignore
    if there are any. tiles: of each image where they are tiles, else empty.
    """

    images: ImageBatch
    image_ids: list[int]
    counts: list[int]
    boxes: Tensor
    labels: Tensor
    masks: MaskCrops | None
    faults: list[str]
    ignored: Tensor | None = None
    ignored_counts: list[int] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)

    def pin_memory(self) -> PackedBatch:
        there = {name: value for name, value in vars(self).items() if hasattr(value, "pin_memory")}
        return replace(self, **{name: value.pin_memory() for name, value in there.items()})

    def unpack(self) -> tuple[ImageBatch, list[Target]]:
        """What the loader yields; targets are views."""
        targets, start = [], 0
        for row, count in enumerate(self.counts):
            own = slice(start, start + count)
            target = Target(boxes=self.boxes[own], labels=self.labels[own], image_id=self.image_ids[row])
            if self.masks is not None:
                offsets = self.masks.offsets[start : start + count + 1]
                pixels = self.masks.pixels[int(offsets[0]) : int(offsets[-1])]
                size = self.images.sizes[row]
                target["masks"] = MaskCrops(pixels, self.masks.boxes[own], offsets - offsets[0], size)
            targets.append(target)
            start += count
        if self.ignored is not None:
            for target, regions in zip(targets, self.ignored.split(self.ignored_counts), strict=True):
                if len(regions):
                    target["ignored"] = regions
        for target, tile in zip(targets, self.tiles, strict=False):
            target["tile"] = tile
        return self.images, targets


def pad_images(images: Sequence[Tensor], original_sizes: Sequence[tuple[int, int]]) -> ImageBatch:
    """Put uint8 or uint16 [C, h, w] images into one batch, zeros at the right and bottom."""
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    height, width = (-(-max(side) // SIZE_DIVISOR) * SIZE_DIVISOR for side in zip(*sizes, strict=True))
    # rows of pixels stay together, as they were decoded and as channels_last models read them
    channels, dtype = images[0].shape[0], images[0].dtype
    pixels = torch.zeros((len(images), height, width, channels), dtype=dtype).permute(0, 3, 1, 2)
    for row, (image, (h, w)) in enumerate(zip(images, sizes, strict=True)):
        pixels[row, :, :h, :w] = image
    return ImageBatch(pixels, sizes, list(original_sizes))


def pack(samples: list[Sample] | UserError) -> PackedBatch | list[str] | UserError:
    """Collect samples into one batch; only the faults where no image could be read. An error is passed on."""
    if isinstance(samples, UserError):
        return samples
    faults = [fault for sample in samples for fault in sample.faults]
    readable = [sample for sample in samples if sample.pixels is not None]
    if not readable:
        return faults
    targets = [sample.target for sample in readable]
    pixels = [sample.pixels for sample in readable if sample.pixels is not None]
    ignored = [target.get("ignored", NOTHING) for target in targets]
    return PackedBatch(
        images=pad_images(pixels, [sample.original_size for sample in readable]),
        image_ids=[target["image_id"] for target in targets],
        counts=[len(target["labels"]) for target in targets],
        boxes=torch.cat([target["boxes"] for target in targets]),
        labels=torch.cat([target["labels"] for target in targets]),
        masks=_join([target["masks"] for target in targets if isinstance(target.get("masks"), MaskCrops)]),  # type: ignore[misc]
        faults=faults,
        ignored=torch.cat(ignored) if any(map(len, ignored)) else None,
        ignored_counts=[len(each) for each in ignored],
        tiles=[target["tile"] for target in targets if "tile" in target],
    )


def _join(crops: list[MaskCrops]) -> MaskCrops | None:
    if not crops:
        return None
    lengths = torch.cat([crop.offsets.diff() for crop in crops])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    pixels, boxes = torch.cat([crop.pixels for crop in crops]), torch.cat([crop.boxes for crop in crops])
    return MaskCrops(pixels, boxes, offsets, crops[0].size)
