"""A batch holds its samples as they were."""

from __future__ import annotations

from pathlib import Path

import torch
from small_coco import Configure, roboflow, small_coco

from maskrcnn_train.data.loading import build_loaders
from maskrcnn_train.data.packing import pad_images
from maskrcnn_train.structures.batch import MaskCrops


def test_a_packed_batch_gives_back_every_sample(tmp_path: Path, configure: Configure) -> None:
    coco = small_coco(4)
    coco["annotations"] = [item for item in coco["annotations"] if item["image_id"] != 2]
    roboflow(tmp_path / "data", coco)
    loaders = build_loaders(configure("evaluation.batch_size=4"))
    ((images, targets),) = list(loaders.val)
    assert images.pixels.shape == (4, 3, 96, 96)
    assert images.sizes == [(48, 72), (72, 48)] * 2
    for position, target in enumerate(targets):
        pixels, expected, size = loaders.val.dataset[position]
        h, w = images.sizes[position]
        torch.testing.assert_close(images.pixels[position, :, :h, :w], pixels)
        assert images.original_sizes[position] == size
        assert target.keys() == expected.keys()
        torch.testing.assert_close(target["boxes"], expected["boxes"])
        masks, whole = target["masks"], expected["masks"]
        assert isinstance(masks, MaskCrops)
        assert isinstance(whole, MaskCrops)
        assert masks.size == whole.size
        torch.testing.assert_close(masks.dense(), whole.dense())


def test_padding_is_zero_and_reaches_a_multiple_of_32() -> None:
    batch = pad_images(
        [torch.ones((3, 40, 50), dtype=torch.uint8), torch.ones((3, 20, 70), dtype=torch.uint8)], [(1, 1)] * 2
    )
    assert batch.pixels.shape == (2, 3, 64, 96)
    assert batch.pixels.sum() == 3 * (40 * 50 + 20 * 70)
    assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
