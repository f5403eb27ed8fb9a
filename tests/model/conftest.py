from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import pytest
import torch
import yaml

from maskrcnn_train import build_model, load_config
from maskrcnn_train.batch import ImageBatch, Target
from maskrcnn_train.config import TrainConfig
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.mask_targets import crops_from_dense

SMALL = ["backbone=resnet18", "backbone.fpn_channels=32", "roi_head.conv_dim=16", "roi_head.fc_dim=32"]
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


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_model() -> Callable[..., MaskRCNN]:
    def build(*overrides: str, num_classes: int = 4) -> MaskRCNN:
        torch.manual_seed(0)
        return build_model(small_config(*overrides), num_classes)

    return build


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


@pytest.fixture
def batch() -> tuple[ImageBatch, list[Target]]:
    """Two uint8 images of 64 x 96 (the second only 64 x 80) and targets with compact masks."""
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = dense_targets((64, 80))
    for target in targets:
        target["masks"] = crops_from_dense(target["masks"])  # type: ignore[arg-type]
    return ImageBatch(pixels, [(64, 96), (64, 80)], [(128, 192), (64, 80)]), targets
