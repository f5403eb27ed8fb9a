from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_coco import Coco, small_coco, square, write_json

from maskrcnn_train.data.coco.reader import open_index
from maskrcnn_train.data.coco.results import coco_content


def read(tmp_path: Path, coco: Coco) -> dict[str, Any]:
    return coco_content(open_index(write_json(tmp_path / "val.json", coco)))


def test_a_sound_file_is_given_as_it_stands(tmp_path: Path) -> None:
    coco = small_coco()
    coco["annotations"] = coco["annotations"][::-1]
    coco["annotations"][0]["bbox"][2] = 10.75
    truth = read(tmp_path, coco)
    by_id = {item["id"]: item for item in coco["annotations"]}
    assert len(truth["annotations"]) == len(by_id)
    for item in truth["annotations"]:
        assert item == by_id[item["id"]]
    assert truth["images"] == coco["images"]
    assert [(c["id"], c["name"]) for c in truth["categories"]] == [(3, "door"), (7, "window")]


def test_boxes_are_not_clipped(tmp_path: Path) -> None:
    coco = small_coco()
    coco["annotations"][0].update(bbox=[-4, 30, 12, 30], segmentation=[[-4, 30, 8, 30, 8, 60, -4, 60]])
    assert read(tmp_path, coco)["annotations"][0]["bbox"] == [-4, 30, 12, 30]


def test_what_crashes_an_evaluator_is_left_out(tmp_path: Path) -> None:
    coco = small_coco()
    items = coco["annotations"]
    items[0]["segmentation"].append([1, 1, float("nan"), 5, 7, 9])  # one part of two
    items[1]["segmentation"] = [[1, 1, 1e9, 5, 7, 9]]
    items[2]["segmentation"] = {"size": [0, 0], "counts": []}
    del items[3]["id"]  # gets a new id, so that its id in the file says nothing
    items[3]["segmentation"] = {"size": [60, 40], "counts": "oooo"}
    items[4]["id"] = 5
    items[5].update(id=5, segmentation=[[0, 0, 1, 1]])
    truth = read(tmp_path, coco)
    assert [item["id"] for item in truth["annotations"]] == [1, 5, 7, 8]
    assert truth["annotations"][0]["segmentation"] == [square(3, 4, 12)]


def test_run_lengths_and_missing_values_are_filled_in(tmp_path: Path) -> None:
    coco = small_coco()
    code = {"size": [40, 60], "counts": [410, 12, 28, 12, 1938]}
    coco["annotations"][0] = {"id": 1, "image_id": 1, "category_id": 3, "segmentation": code}
    (first, *_) = read(tmp_path, coco)["annotations"]
    assert first == {
        "id": 1,
        "image_id": 1,
        "category_id": 3,
        "iscrowd": 0,
        "area": 24.0,
        "bbox": [10, 10, 2, 12],
        "segmentation": code,
    }
    json.dumps(first)  # plain numbers only


def test_a_file_at_fault_is_named(tmp_path: Path) -> None:
    (tmp_path / "val.json").write_text("{")
    with pytest.raises(ValueError, match=r"val\.json is not JSON"):
        coco_content(open_index(tmp_path / "val.json"))
