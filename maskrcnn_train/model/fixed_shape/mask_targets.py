"""Mask targets of all sampled proposals by RoIAlign of the crops: the host need not know which objects they have."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn_train.model.mask_targets import crops_from_dense
from maskrcnn_train.model.roi_align import OUTSIDE
from maskrcnn_train.model.sampling import Samples
from maskrcnn_train.structures.batch import MaskCrops, Target
from maskrcnn_train.structures.waits import send

MARGIN = 2  # pixels around a crop: RoIAlign repeats the last pixel of what it gets, a mask is zero there
PIXELS = 2**24  # of a canvas at most, if one crop has no more
FEW_PIXELS = 2**20  # cost less than the launches of one more canvas
NOWHERE = -(2**40)


@dataclass
class Crop:
    """Where one crop lies. start: its first pixel among those of all; size: (height, width) of its image."""

    x0: int
    y0: int
    width: int
    height: int
    start: int
    size: tuple[int, int]


@torch.no_grad()
def mask_targets(targets: list[Target], foreground: Samples, resolution: int, rule: str) -> Tensor:
    """Targets float32 [K, M, M] of sampled proposals with an object. Finding the crops of dense masks waits.

    Equal to those of `targets_in_boxes`, but for boxes narrower than a pixel at the border of an image.
    """
    found = [target["masks"] for target in targets if len(target["labels"])]
    crops = [each if isinstance(each, MaskCrops) else crops_from_dense(each) for each in found]
    starts = list(itertools.accumulate((len(target["labels"]) for target in targets), initial=0))
    table, aligned = _table(crops), rule == "binary"
    canvases = _canvases(table)
    slots = {index: (number, slot) for number, canvas in enumerate(canvases) for slot, index in enumerate(canvas)}
    corners = [(crop.x0 - MARGIN, crop.y0 - MARGIN) * 2 for crop in table]
    places = [(*slots[index], *corner) for index, corner in enumerate(corners)]
    objects = send(starts[:-1], foreground.boxes.device)[foreground.images] + foreground.matches
    sent = send([*places, (-1, 0, *[OUTSIDE] * 4)], objects.device, torch.float32)
    place, outside = sent[objects], sent[-1, 1:]
    rois = torch.cat((place[:, 1:2], foreground.boxes - place[:, 2:]), dim=1)
    numbers = torch.arange(len(canvases), device=rois.device)[:, None]
    rois = torch.where((place[:, 0] == numbers)[..., None], rois, outside)  # [canvases, K, 5]
    shares: list[Tensor] = []
    with torch.autocast(rois.device.type, enabled=False):
        for canvas, own in zip(_drawn(crops, table, canvases), rois, strict=True):
            # the operator itself: with trainer.deterministic torchvision's function pools in Python, for the sake of a
            # gradient that nobody asks for here
            pooled = torch.ops.torchvision.roi_align(canvas[:, None], own, 1.0, resolution, resolution, 0, aligned)
            shares.append(pooled[:, 0])
    total = torch.stack(shares).sum(dim=0) if len(shares) > 1 else shares[0]
    return (total >= 0.5).float() if aligned else total


def _table(crops: list[MaskCrops]) -> list[Crop]:
    table, first = [], 0
    for own in crops:
        for (x0, y0, x1, y1), offset in zip(own.boxes.tolist(), own.offsets[:-1].tolist(), strict=True):
            table.append(Crop(x0, y0, x1 - x0, y1 - y0, first + offset, own.size))
        first += len(own.pixels)
    return table


def _canvases(table: list[Crop]) -> list[list[int]]:
    """Crops (by number) of like size together, so that a large one does not make all canvases large; few, whatever
    their size."""
    canvases: list[list[int]] = []
    lengths = [max(crop.width, crop.height, 1) for crop in table]
    side = 0
    for index in sorted(range(len(table)), key=lengths.__getitem__):
        longest = lengths[index]
        limit = PIXELS if longest <= side else min(PIXELS, FEW_PIXELS)
        if not canvases or (len(canvases[-1]) + 1) * longest**2 > limit:
            canvases.append([])
            side = max(64, 1 << (longest - 1).bit_length())
        canvases[-1].append(index)
    return canvases


def _drawn(crops: list[MaskCrops], table: list[Crop], canvases: list[list[int]]) -> Iterator[Tensor]:
    """Each canvas float32 [G, H, W], one crop a layer, with MARGIN pixels around it."""
    device = crops[0].pixels.device
    order = [table[index] for canvas in canvases for index in canvas]
    shapes = [
        [max(getattr(table[index], side) for index in canvas) + 2 * MARGIN for side in ("height", "width")]
        for canvas in canvases
    ]
    rows, columns = _places(order, max(map(max, shapes)), device).unbind(1)
    # the first pixel is what is nowhere
    pixels = torch.cat((crops[0].pixels.new_zeros(1), *(each.pixels for each in crops))).float()
    first = 0
    for canvas, (tall, wide) in zip(canvases, shapes, strict=True):
        own = slice(first, first + len(canvas))
        index = (rows[own, :tall, None] + columns[own, None, :wide]).clamp_(min=0)
        yield pixels.index_select(0, index.flatten()).view(index.shape)
        first += len(canvas)


def _places(crops: list[Crop], count: int, device: torch.device) -> Tensor:
    """int64 [G, 2, count]: what each row and each column of a crop, from MARGIN before it, adds to the index of its
    pixels; NOWHERE outside of it. Beyond the border of the image its last pixel repeats, as in RoIAlign."""
    rows = [(-each.y0, each.size[0] - 1 - each.y0, each.height, each.width, each.start + 1) for each in crops]
    columns = [(-each.x0, each.size[1] - 1 - each.x0, each.width, 1, 0) for each in crops]
    numbers = send([rows, columns], device).transpose(0, 1)[..., None]
    low, high, length, stride, start = numbers.unbind(2)
    pixels = torch.arange(-MARGIN, count - MARGIN, device=device).clamp(low, high)
    outside = (pixels < 0) | (pixels >= length)
    return torch.addcmul(start, pixels, stride).masked_fill_(outside, NOWHERE)
