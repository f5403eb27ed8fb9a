"""Small models, their configurations and targets."""

from __future__ import annotations

import copy
import functools

import torch
import yaml
from torch import Tensor

from maskrcnn_train import load_config
from maskrcnn_train.model.mask_targets import crops_from_dense
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.batch import Target
from maskrcnn_train.structures.pasting import MaskPasting, paste_masks

SMALL = ["backbone=resnet10", "backbone.fpn_channels=32", "roi_head.conv_dim=16", "roi_head.fc_dim=32"]
SMALL += ["mask_head.conv_dim=16", "data.min_size=64", "data.max_size=96"]


@functools.cache
def composed(groups: tuple[str, ...]) -> TrainConfig:
    return load_config([*SMALL, *groups])


def small_config(*overrides: str) -> TrainConfig:
    """As load_config, but a composed config is used again: composing takes longer than the model."""
    groups = tuple(each for each in overrides if "." not in each.split("=")[0])
    config = copy.deepcopy(composed(groups))
    for override in overrides:
        if override not in groups:
            key, value = override.split("=")
            *path, name = key.split(".")
            section = functools.reduce(getattr, path, config)
            assert hasattr(section, name), override
            setattr(section, name, yaml.safe_load(value))
    return config


def dense_targets(size: tuple[int, int]) -> list[Target]:
    """Two images; round objects of several sizes, one cut by the border."""
    height, width = size
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    targets: list[Target] = []
    for image, circles in enumerate([[(20, 24, 14), (44, 40, 9), (60, 10, 16)], [(30, 30, 25)]]):
        masks = torch.stack([(ys - y) ** 2 + (xs - x) ** 2 < r * r for y, x, r in circles]).to(torch.uint8)
        boxes = crops_from_dense(masks).boxes.float()
        labels = torch.arange(len(boxes)) % 3 + 1
        targets.append({"boxes": boxes, "labels": labels, "masks": masks, "image_id": 100 + image})
    return targets


def paste_full(probabilities: Tensor, boxes: Tensor, size: tuple[int, int], pasting: MaskPasting) -> Tensor:
    """Pasted masks in images of their own: uint8 [N, height, width]."""
    full = torch.zeros((len(boxes), *size), dtype=torch.uint8)
    for image, (x0, y0, bitmap) in zip(full, paste_masks(probabilities, boxes, size, pasting), strict=True):
        image[y0 : y0 + bitmap.shape[0], x0 : x0 + bitmap.shape[1]] = torch.from_numpy(bitmap)
    return full
