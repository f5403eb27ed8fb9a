from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from small_model import dense_targets, small_config

from maskrcnn_train import build_model
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.mask_targets import crops_from_dense
from maskrcnn_train.model.paths import PathRule, path_for
from maskrcnn_train.structures.batch import ImageBatch, Target


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_model(device: torch.device) -> Callable[..., MaskRCNN]:
    def build(
        *overrides: str, num_classes: int = 4, objects: list[int] | None = None, path_for: PathRule = path_for
    ) -> MaskRCNN:
        torch.manual_seed(0)
        return build_model(small_config(*overrides), num_classes, objects=objects, path_for=path_for).to(device)

    return build


@pytest.fixture
def batch(device: torch.device) -> tuple[ImageBatch, list[Target]]:
    """Two uint8 images of 64 x 96 (the second only 64 x 80) and, on the host, targets with compact masks."""
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = dense_targets((64, 80))
    for target in targets:
        target["masks"] = crops_from_dense(target["masks"])  # type: ignore[arg-type]
    return ImageBatch(pixels.to(device), [(64, 96), (64, 80)], [(128, 192), (64, 80)]), targets
