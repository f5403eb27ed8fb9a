"""Inputs: from a batch of images, or torchvision's list of images, to the padded tensor of the network."""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn_train.model.kept import Kept
from maskrcnn_train.structures.batch import ImageBatch, MaskCrops, Target
from maskrcnn_train.structures.boxes import resize_boxes

FARTHEST = 1e6  # pixels; arithmetic with larger coordinates overflows
ROW = 4096  # pixels; for the rows of most images the same constants
DIVISOR = 32  # the backbone halves five times


class BadTarget(ValueError):
    """A target that a model cannot train on."""


class NetworkInput(ImageBatch):
    """A batch whose pixels are float32, normalised, and zero where padded."""

    @property
    def padded_size(self) -> tuple[int, int]:
        return int(self.pixels.shape[2]), int(self.pixels.shape[3])


def normalize_batch(
    batch: ImageBatch, mean: Tensor, std: Tensor, memory_format: torch.memory_format, kept: Kept[tuple[Tensor, Tensor]]
) -> NetworkInput:
    """mean, std: [C, 1, 1] of pixels in 0..1. Padding is zero after normalising, as the networks were trained."""
    pixels = batch.pixels.to(torch.float32, memory_format=memory_format, copy=True)
    _, channels, height, width = pixels.shape
    repeats = math.ceil(width / ROW) * ROW
    highest = torch.iinfo(batch.pixels.dtype).max
    factor, shift = kept.get((highest, repeats), (mean, std), partial(_factor_and_shift, mean, std, highest, repeats))
    rows = pixels.permute(0, 2, 3, 1)
    if rows.is_contiguous():
        # channels_last: taken as whole rows of numbers a processor's vector units are full, with three they are not
        numbers = channels * width
        flat = rows.view(-1, numbers)
        torch.addcmul(shift[:numbers], flat, factor[:numbers], out=flat)
    else:
        torch.addcmul(shift[:channels, None, None], pixels, factor[:channels, None, None], out=pixels)
    for image, (own_height, own_width) in zip(pixels, batch.sizes, strict=True):
        if own_height < height:
            image[:, own_height:] = 0
        if own_width < width:
            image[:, :, own_width:] = 0
    return NetworkInput(pixels, batch.sizes, batch.original_sizes)


def _factor_and_shift(mean: Tensor, std: Tensor, highest: int, repeats: int) -> tuple[Tensor, Tensor]:
    """pixels * factor + shift are normal, where the highest pixel is that. Both [repeats * C]: for a row of pixels."""
    factor, shift = 1 / (highest * std), -mean / std
    return factor.flatten().repeat(repeats), shift.flatten().repeat(repeats)


def resize_list(
    images: list[Tensor], mean: Tensor, std: Tensor, min_size: int, max_size: int, memory_format: torch.memory_format
) -> NetworkInput:
    """Images float [C, h, w] in 0..1 normalised, resized and padded as torchvision's detection models do."""
    resized: list[Tensor] = []
    for image in images:
        floating = isinstance(image, Tensor) and image.is_floating_point()
        if not floating or image.dim() != 3 or len(image) != len(mean):
            raise ValueError(
                f"images in a list must be float [{len(mean)}, height, width] in 0..1, got {image.dtype} "
                f"{tuple(image.shape)}; divide uint8 images by 255, or pass an ImageBatch"
            )
        factor = min(min_size / min(image.shape[1:]), max_size / max(image.shape[1:]))
        normal = ((image.float() - mean) / std)[None]
        resized += F.interpolate(
            normal, scale_factor=factor, mode="bilinear", recompute_scale_factor=True, align_corners=False
        )
    height, width = (math.ceil(max(image.shape[axis] for image in resized) / DIVISOR) * DIVISOR for axis in (1, 2))
    pixels = resized[0].new_zeros((len(resized), len(mean), height, width)).contiguous(memory_format=memory_format)
    for padded, image in zip(pixels, resized, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    sizes, originals = ([(each.shape[1], each.shape[2]) for each in group] for group in (resized, images))
    return NetworkInput(pixels, sizes, originals)


def resize_targets(targets: list[Target], inputs: NetworkInput) -> list[Target]:
    """Boxes and masks of original images in network pixels; masks by the nearest pixel, as torchvision."""
    resized: list[Target] = []
    for index, (target, size, original) in enumerate(zip(targets, inputs.sizes, inputs.original_sizes, strict=True)):
        moved = target.copy()
        moved["boxes"] = resize_boxes(target["boxes"].float(), original, size)
        if "ignored" in target:
            moved["ignored"] = resize_boxes(target["ignored"].float(), original, size)
        masks = target.get("masks")
        if isinstance(masks, Tensor) and len(masks) and masks.shape[1:] != original:
            raise BadTarget(
                f"{_name(target, index)} has masks {list(masks.shape)}, but an image of height {original[0]} and width "
                f"{original[1]}; give masks [N, height, width] of that size"
            )
        if masks is not None and size != original:
            dense = masks.dense().to(target["boxes"].device) if isinstance(masks, MaskCrops) else masks
            moved["masks"] = F.interpolate(dense[:, None].float(), size=size)[:, 0].to(torch.uint8)
        resized.append(moved)
    return resized


def checked_targets(targets: list[Target], num_images: int, num_classes: int, with_masks: bool) -> list[Target]:
    """Targets with float32 boxes; raises BadTarget for the first that cannot train, naming its image_id."""
    if len(targets) != num_images:
        raise BadTarget(f"{num_images} images came with {len(targets)} targets; give one target for each image")
    checked: list[Target] = []
    for index, target in enumerate(targets):
        name = _name(target, index)
        _check_counts(target, name, with_masks)
        clean = target.copy()
        clean["boxes"] = target["boxes"].float().reshape(-1, 4)
        clean["labels"] = target["labels"].long()
        if "ignored" in target:
            clean["ignored"] = target["ignored"].float().reshape(-1, 4)
            if not len(clean["ignored"]):
                del clean["ignored"]
        _check_values(clean, name, num_classes)
        checked.append(clean)
    return checked


def _name(target: Target, index: int) -> str:
    return f"image_id {target['image_id']}" if "image_id" in target else f"image {index} of the batch"


def _check_counts(target: Target, name: str, with_masks: bool) -> None:
    kinds: dict[str, Any] = {"boxes": Tensor, "labels": Tensor, "masks": Tensor | MaskCrops | None}
    for key, kind in kinds.items():
        if not isinstance(found := target.get(key), kind):
            raise BadTarget(f"{name}: its {key} are of type {type(found).__name__}; give a tensor")
    count, masks = len(target["boxes"]), target.get("masks")
    if target["labels"].shape != (count,):
        raise BadTarget(f"{name} has {count} boxes and labels {list(target['labels'].shape)}; give one label a box")
    if with_masks and count and masks is None:
        raise BadTarget(f"{name} has boxes but no masks; add masks, or train without them: mask_head=none")
    if with_masks and masks is not None and len(masks) != count:
        raise BadTarget(f"{name} has {count} boxes and {len(masks)} masks; give one mask a box")


def _check_values(target: Target, name: str, num_classes: int) -> None:
    boxes, labels = target["boxes"], target["labels"]
    wrong = ~(boxes.abs() < FARTHEST).all(dim=1) | (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
    outside = (labels < 1) | (labels >= num_classes)
    if not bool((wrong | outside).any()):
        return
    index = int(torch.where(wrong | outside)[0][0])
    if bool(wrong[index]):
        raise BadTarget(
            f"{name}: box {index} is {boxes[index].tolist()}; boxes are x1, y1, x2, y2 with x1 < x2 and y1 < y2, "
            f"all finite and below {FARTHEST:g}. Drop it or correct it"
        )
    raise BadTarget(
        f"{name}: label {int(labels[index])} of box {index} is not among 1..{num_classes - 1}; 0 is the background"
    )
