"""Quirks of real files that only show from the JSON to the sample; those of one step are tested beside that step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_coco import Coco, Configure, annotation, roboflow, small_coco, square

from maskrcnn_train.data.dataset import CocoDataset
from maskrcnn_train.data.images import ImageError
from maskrcnn_train.data.loading import build_loaders
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.data.transforms import Transform
from maskrcnn_train.structures.batch import MaskCrops


def plain(configure: Configure, **options: object) -> CocoDataset:
    splits = read_splits(configure())
    transform = Transform(min_sizes=(40,), max_size=60)
    return CocoDataset(split=splits.train, classes=splits.classes, transform=transform, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [[0, 1, 2, 3], [90, 7, 100000, 8], [-5, 2**40, 0, 3]])
def test_ids_may_be_any_whole_numbers(tmp_path: Path, configure: Configure, ids: list[int]) -> None:
    coco = small_coco()
    for image, number in zip(coco["images"], ids, strict=True):
        image["id"] = number
    for item in coco["annotations"]:
        item["image_id"] = ids[item["image_id"] - 1]
        item["category_id"] = {3: 0, 7: 2**33}[item["category_id"]]
    for number, item in enumerate(coco["annotations"]):
        item["id"] = number  # from 0
    coco["categories"] = [{"id": 2**33, "name": "window"}, {"id": 0, "name": "door"}]
    roboflow(tmp_path / "data", coco)
    data = plain(configure)
    expected = small_coco()
    for position in range(4):
        _, target, _ = data[position]
        assert target["image_id"] == ids[position]
        boxes = [item["bbox"] for item in expected["annotations"] if item["image_id"] == position + 1]
        torch.testing.assert_close(
            target["boxes"], torch.tensor([[x, y, x + w, y + h] for x, y, w, h in boxes], dtype=torch.float32)
        )
        assert target["labels"].tolist() == [1, 2]  # door has the smaller id
    assert data.classes.names == ["door", "window"]


def marked(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """A black picture of (width, height) with a white box."""
    picture = Image.new("RGB", size)
    picture.paste((255, 255, 255), box)
    return picture


@pytest.mark.parametrize("upright", [True, False])
def test_boxes_stay_on_their_objects_whatever_picture_was_annotated(
    tmp_path: Path, configure: Configure, upright: bool
) -> None:
    """A phone stores the picture lying on its side; tools annotate either the picture as stored or upright."""
    coco = small_coco(1)
    coco["annotations"] = [annotation(1, 1, 3, 5, 10, 12)]
    coco["images"][0].update(width=60, height=40, file_name="1.jpg")
    roboflow(tmp_path / "data", coco)
    picture = marked((60, 40), (5, 10, 17, 22))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned a quarter clockwise
    stored = picture.transpose(Image.Transpose.ROTATE_90) if upright else picture
    stored.save(tmp_path / "data" / "train" / "1.jpg", exif=exif, quality=95)
    pixels, target, size = plain(configure)[0]
    assert size == (40, 60)
    masks = target["masks"]
    assert isinstance(masks, MaskCrops)
    assert ((pixels[0] > 127) != (masks.dense()[0] > 0)).sum() <= 12


def test_an_image_of_another_size_than_its_json_says_is_named_and_can_be_skipped(
    tmp_path: Path, configure: Configure
) -> None:
    roboflow(tmp_path / "data", small_coco())
    marked((30, 20), (0, 0, 5, 5)).save(tmp_path / "data" / "train" / "3.png")
    with pytest.raises(ImageError, match=r"3\.png has 30 x 20 pixels, but its JSON says 60 x 40"):
        plain(configure)[2]
    loaders = build_loaders(configure("data.on_bad_image=skip"))
    ids = [target["image_id"] for _, targets in loaders.train for target in targets]
    assert 3 not in ids
    assert [fault.split(" has ")[1] for fault in loaders.train.bad_images] == [
        "30 x 20 pixels, but its JSON says 60 x 40; use the picture that was annotated, or correct width and height"
    ]


@pytest.mark.parametrize("mode", ["L", "I;16", "P", "RGBA", "CMYK"])
def test_pictures_of_every_kind_become_samples(tmp_path: Path, configure: Configure, mode: str) -> None:
    coco = small_coco(1)
    name = coco["images"][0]["file_name"] = f"1.{'jpg' if mode == 'CMYK' else 'png'}"
    coco["annotations"] = [annotation(1, 1, 3, 5, 10, 12)]
    roboflow(tmp_path / "data", coco)
    picture = marked((60, 40), (5, 10, 17, 22))
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    else:
        converted = picture.convert(mode)
    converted.save(tmp_path / "data" / "train" / name)
    pixels, target, _ = plain(configure)[0]
    assert (pixels.shape, pixels.dtype) == ((3, 40, 60), torch.uint8)
    masks = target["masks"]
    assert isinstance(masks, MaskCrops)
    assert ((pixels[0] > 127) != (masks.dense()[0] > 0)).sum() <= 12


def test_a_polygon_beyond_the_border_is_cut_there(tmp_path: Path, configure: Configure) -> None:
    coco = small_coco(1)
    coco["annotations"] = [annotation(1, 1, 3, 50, 30, 12, bbox=[50, 30, 12, 12], segmentation=[square(50, 30, 12)])]
    roboflow(tmp_path / "data", coco)
    _, target, _ = plain(configure)[0]
    masks = target["masks"]
    assert isinstance(masks, MaskCrops)
    assert target["boxes"].tolist() == [[50, 30, 60, 40]]
    assert masks.dense()[0, 30:40, 50:60].all()
    assert masks.dense().sum() == 100


def test_a_polygon_beyond_the_border_is_cut_there_when_turned(tmp_path: Path, configure: Configure) -> None:
    coco = small_coco(1)
    beyond = [[45, -20, 90, -20, 90, 60, 45, 60]]
    coco["annotations"] = [annotation(1, 1, 3, 45, 0, 15, bbox=[45, 0, 15, 40], segmentation=beyond)]
    roboflow(tmp_path / "data", coco)
    marked((60, 40), (0, 0, 60, 40)).save(tmp_path / "data" / "train" / "1.png")
    splits = read_splits(configure())
    transform = Transform(min_sizes=(40,), max_size=60, rotation=40.0, fill=(0, 0, 0))
    data = CocoDataset(split=splits.train, classes=splits.classes, transform=transform)
    for epoch in range(8):
        pixels, target, _ = data[(epoch, 0)]
        masks = target["masks"]
        assert isinstance(masks, MaskCrops)
        on_padding = masks.dense()[0].bool() & (pixels[0] < 100)
        assert masks.dense().sum() > 200
        assert on_padding.sum() <= 20


def boxes_only(coco: Coco) -> Coco:
    for item in coco["annotations"]:
        del item["segmentation"]
    return coco


def test_a_file_without_any_mask_trains_boxes_and_says_so_otherwise(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", boxes_only(small_coco()))
    with pytest.raises(ValueError, match=r"8 of 8 annotations .* no segmentation.* mask_head=none"):
        read_splits(configure())
    options = ("mask_head=none", "augmentation=strong", "augmentation.rotation=20", "trainer.batch_size=2")
    loaders = build_loaders(configure(*options))
    for images, targets in loaders.train:
        for (height, width), target in zip(images.sizes, targets, strict=True):
            assert "masks" not in target
            assert len(target["boxes"]) == len(target["labels"])
            assert (target["boxes"] <= torch.tensor([width, height, width, height])).all()
    assert "segmentation" not in loaders.val.dataset.ground_truth()["annotations"][0]
