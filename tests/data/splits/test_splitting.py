from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_coco import Configure, roboflow, small_coco, write_images, write_json

from maskrcnn_train import load_config
from maskrcnn_train.data.splits.classes import ClassMap
from maskrcnn_train.data.splits.splitting import read_split, read_splits


def test_roboflow_layout_is_found(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco(4), small_coco(2))
    splits = read_splits(configure())
    assert (len(splits.train), len(splits.val), splits.test) == (4, 2, None)
    assert splits.classes == ClassMap(["door", "window"], [3, 7])


def test_coco_layout_is_found(tmp_path: Path) -> None:
    for name in ("train", "val"):
        write_json(tmp_path / "annotations" / f"instances_{name}2017.json", small_coco())
        write_images(tmp_path / f"{name}2017", small_coco())
    splits = read_splits(load_config(["data=coco", f"data.root={tmp_path}"]))
    assert (len(splits.train), len(splits.val), splits.test) == (4, 4, None)


def test_custom_paths_are_found(tmp_path: Path) -> None:
    annotations, images = write_json(tmp_path / "a.json", small_coco()), write_images(tmp_path / "i", small_coco())
    paths = [
        f"data.{s}.{k}={v}"
        for s in ("train", "val", "test")
        for k, v in (("images", images), ("annotations", annotations))
    ]
    splits = read_splits(load_config(["data=custom", *paths]))
    assert splits.test is not None
    assert len(splits.test) == 4


def test_a_missing_root_is_said(configure: Configure) -> None:
    with pytest.raises(ValueError, match=r"data does not exist; set data\.root"):
        read_splits(configure())


def test_a_missing_json_names_the_file_and_the_key(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco())
    (tmp_path / "data" / "valid" / "_annotations.coco.json").unlink()
    with pytest.raises(
        ValueError, match=r"valid/_annotations\.coco\.json does not exist.*data\.val\.annotations.*fractions"
    ):
        read_splits(configure())


def test_missing_images_are_counted_and_named(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco())
    (tmp_path / "data" / "train" / "2.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 4 images named in train/_annotations.* first: 2\.png"):
        read_splits(configure())
    splits = read_splits(configure("data.on_bad_image=skip"))
    assert splits.train.rows.tolist() == [0, 2, 3]
    assert splits.skipped["train"].rows["image file missing"].ids == [2]


def test_nested_and_unicode_names_are_found(tmp_path: Path, configure: Configure) -> None:
    coco = small_coco()
    coco["images"][0]["file_name"] = "über/größe 1.png"
    roboflow(tmp_path / "data", coco)
    assert len(read_splits(configure()).train) == 4


def test_objects_without_masks_need_the_mask_head_off(tmp_path: Path, configure: Configure) -> None:
    coco = small_coco()
    coco["annotations"][2]["segmentation"] = []
    roboflow(tmp_path / "data", coco)
    with pytest.raises(
        ValueError, match=r"1 of 8 annotations .* have no segmentation, first: annotation 3; .*mask_head=none"
    ):
        read_splits(configure())
    assert len(read_splits(configure("mask_head=none")).train) == 4


def test_a_validation_class_unknown_to_training_stops(tmp_path: Path, configure: Configure) -> None:
    val = small_coco()
    val["categories"][0]["name"] = "gate"
    roboflow(tmp_path / "data", small_coco(), val)
    with pytest.raises(ValueError, match="objects of gate"):
        read_splits(configure())


def test_validation_ids_of_their_own_are_matched_by_name(tmp_path: Path, configure: Configure) -> None:
    val = small_coco()
    val["categories"] = [{"id": 3, "name": "window"}, {"id": 7, "name": "door"}]
    roboflow(tmp_path / "data", small_coco(), val)
    splits = read_splits(configure())
    assert splits.train.labels[:2].tolist() == [1, 2]
    assert splits.val.labels[:2].tolist() == [2, 1]
    assert len(splits.notes) == 2


def test_one_json_is_cut_into_parts(tmp_path: Path) -> None:
    annotations, images = write_json(tmp_path / "a.json", small_coco(20)), write_images(tmp_path / "i", small_coco(20))
    overrides = ["data=custom", f"data.train.images={images}", f"data.train.annotations={annotations}"]
    config = load_config([*overrides, "data.split.fractions=[0.6,0.2,0.2]"])
    splits = read_splits(config)
    assert splits.test is not None
    parts = [splits.train.rows, splits.val.rows, splits.test.rows]
    assert [len(part) for part in parts] == [12, 4, 4]
    assert sorted(np.concatenate(parts).tolist()) == list(range(20))
    again, _ = read_split(config.data, "val", splits.classes, with_masks=True)
    assert again.rows.tolist() == splits.val.rows.tolist()


def test_reading_data_does_not_import_torch() -> None:
    code = "import sys, maskrcnn_train.data.splits.splitting; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[3]).returncode == 0


def test_the_facade_classes_leave_the_supercategory_out(facade: Path) -> None:
    splits = read_splits(load_config(["data=roboflow", f"data.root={facade}"]))
    assert (len(splits.train), len(splits.val)) == (96, 32)
    assert splits.classes.ids == list(range(1, 11))
    assert splits.classes.name_of(3) == "facade"
