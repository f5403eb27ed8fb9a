"""Which COCO JSONs a folder holds, and where their images are."""

from __future__ import annotations

from pathlib import Path

import pytest
from labelled_data import parts_of
from small_coco import small_coco, write_images, write_json

from maskrcnn_train.data.formats import coco as coco_format


def test_coco_jsons_are_found_by_their_names_and_their_images_where_they_are(tmp_path: Path) -> None:
    coco = small_coco(2)
    for name in ("instances_Training", "captions_training", "My-Val"):
        write_json(tmp_path / f"labels/{name}.json", coco)
    write_images(tmp_path / "images/train", coco)
    write_images(tmp_path / "images", coco)
    splits, _ = parts_of("auto", tmp_path)
    assert {name: split.index.short_name for name, split in splits.items()} == {
        "train": "labels/instances_Training.json",
        "val": "labels/My-Val.json",
    }
    assert splits["train"].images == tmp_path / "images"
    write_json(tmp_path / "labels/other-val.json", coco)
    with pytest.raises(
        ValueError, match=r"several COCO JSONs may be the val part; name those: data\.val\.annotations="
    ):
        parts_of("auto", tmp_path)


def test_a_year_belongs_to_no_name_of_a_part(tmp_path: Path) -> None:
    for name in ("instances_train2017", "instances_val2017"):
        write_json(tmp_path / f"{name}.json", small_coco(2))
    assert [*parts_of("auto", tmp_path)[0]] == ["train", "val"]


@pytest.mark.parametrize(
    ("json", "images"),
    [
        ("annotations/train.json", "images"),
        ("annotations/train.json", "pictures/none"),
        ("annotations/instances_train2017.json", "images/train2017"),
        ("train/_annotations.coco.json", "train"),
    ],
)
def test_images_of_a_usual_layout_may_be_elsewhere(tmp_path: Path, json: str, images: str) -> None:
    coco = small_coco(2)
    for part in ("train", "val", "valid"):
        write_json(tmp_path / json.replace("train", part), coco)
        write_images(tmp_path / images.replace("train", part), coco)
    found = coco_format.find(tmp_path)
    usual = "train" if images == "pictures/none" else images
    assert {name: files.images for name, files in found.items()} == {
        name: tmp_path / usual.replace("train", part)
        for name, part in (("train", "train"), ("val", "valid" if "_annotations" in json else "val"))
    }


def test_the_images_of_detections_that_predict_writes_are_found(tmp_path: Path) -> None:
    write_json(tmp_path / "annotations/instances_predictions.json", small_coco(2))
    write_images(tmp_path / "images/predictions", small_coco(2))
    assert coco_format.find(tmp_path)["train"].images == tmp_path / "images/predictions"


def test_a_large_coco_json_is_known_by_its_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_format, "LOOKED_AT", 600)
    coco = small_coco(40)
    write_json(tmp_path / "all.json", {key: coco[key] for key in ("images", "categories", "annotations")})
    write_json(tmp_path / "results.json", [{"image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9], "score": 0.5}] * 40)
    write_images(tmp_path, coco)
    assert [files.annotations.name for files in coco_format.find(tmp_path).values()] == ["all.json"]
