"""corrected.json: each doubt resolved as the model would, everything else as it was; and the files of doubts."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_coco import small_coco, write_json

from maskrcnn_train import load_config
from maskrcnn_train.data.coco.index import Category
from maskrcnn_train.data.coco.reader import open_index
from maskrcnn_train.data.splits.classes import categories_in
from maskrcnn_train.data.splits.splitting import Split, whole_split
from maskrcnn_train.labelling.corrections import corrected
from maskrcnn_train.labelling.files import doubt_entries, write_doubts
from maskrcnn_train.labelling.suspicion import Doubt
from maskrcnn_train.structures.classes import ClassMap
from maskrcnn_train.structures.rle import compress_runs, crop_runs

Coco = dict[str, Any]
DOOR, WINDOW = 3, 7
OWN = {DOOR: Category(DOOR, "=door", None), WINDOW: Category(WINDOW, "window", None)}


@pytest.fixture
def split(tmp_path: Path) -> Split:
    content = small_coco(6) | {"categories": [{"id": DOOR, "name": "=door"}, {"id": WINDOW, "name": "window"}]}
    index = open_index(write_json(tmp_path / "all.json", content))
    return whole_split("train", index, {DOOR: 1, WINDOW: 2}, tmp_path)


def result(image: int, category: int, *, hole: bool = False) -> Coco:
    size = (40, 60) if image % 2 else (60, 40)
    bitmap = np.ones((14, 10), np.uint8)
    bitmap[4:8, 3:6] = not hole
    code = compress_runs([crop_runs(bitmap, 5, 6, size)], size)[0]
    return {"image_id": image, "category_id": category, "bbox": [5.123, 6.0, 10.0, 14.0]} | {
        "segmentation": code, "score": 0.9}  # fmt: skip


def found(split: Split) -> tuple[Coco, list[Doubt], list[Coco]]:
    """Ground truth, a doubt of each kind - about annotations 1, 3, 5, 7 and 9 and image 6 -, and the detections."""
    truth = small_coco(6)
    truth["categories"] = [{"id": DOOR, "name": "=door"}, {"id": WINDOW, "name": "window"}]
    results = [result(1, WINDOW), result(2, DOOR), result(3, DOOR, hole=True), result(6, WINDOW)]
    doubts = [
        Doubt("wrong class", 0.9, 1, 0, 0, WINDOW),
        Doubt("loose box", 0.8, 2, 2, 1, DOOR),
        Doubt("poor mask", 0.7, 3, 4, 2, DOOR),
        Doubt("spurious", 0.6, 4, 6, None, None),
        Doubt("doubled", 0.55, 5, 8, None, None, twin=9),
        Doubt("missing", 0.5, 6, None, 3, WINDOW),
    ]
    return truth, doubts, results


def test_each_doubt_is_resolved_and_the_rest_stays(split: Split) -> None:
    truth, doubts, results = found(split)
    given = {each["id"]: each for each in truth["annotations"]}
    got = {each["id"]: each for each in corrected(split, doubts, truth, results, OWN)["annotations"]}
    assert {*given} - {*got} == {7, 9}
    assert {*got} - {*given} == {13}
    assert got[1]["category_id"] == WINDOW
    assert got[1]["bbox"] == given[1]["bbox"]
    assert got[3]["bbox"] == [5.12, 6.0, 10.0, 14.0]
    assert got[3]["area"] == 140
    assert len(got[3]["segmentation"][0]) >= 8
    assert got[5]["bbox"] == given[5]["bbox"]
    assert got[5]["segmentation"]["size"] == [40, 60]  # a hole stays one
    assert got[5]["area"] == 128
    assert {key: got[13][key] for key in ("image_id", "category_id", "iscrowd")} == {
        "image_id": 6, "category_id": WINDOW, "iscrowd": 0}  # fmt: skip
    assert got[13]["attributes"] == {"doubt": "missing", "suspicion": 0.5}
    for number in (2, 4, 6, 8, 10, 11, 12):
        assert "attributes" not in got[number]
        assert got[number]["segmentation"] == given[number]["segmentation"]


def test_a_box_that_moves_does_not_keep_the_mask_of_the_old_one(split: Split) -> None:
    truth, doubts, results = found(split)
    boxes = [{key: value for key, value in each.items() if key != "segmentation"} for each in results]
    got = {each["id"]: each for each in corrected(split, doubts[:2], truth, boxes, OWN)["annotations"]}
    assert (got[3]["bbox"], "segmentation" in got[3]) == ([5.12, 6.0, 10.0, 14.0], False)
    assert "segmentation" in got[1]


def test_a_class_has_the_id_that_the_labels_give_it(tmp_path: Path) -> None:
    content = small_coco(6) | {"categories": [{"id": DOOR, "name": "window"}, {"id": WINDOW, "name": "=door"}]}
    index = open_index(write_json(tmp_path / "all.json", content))
    split = whole_split("val", index, {DOOR: 2, WINDOW: 1}, tmp_path)
    classes = ClassMap(["=door", "window", "gate"], [DOOR, WINDOW, 9])
    truth, doubts, results = found(split)
    truth = truth | {"categories": [{"id": id_, "name": name} for id_, name in classes.name_of_id.items()]}
    for each in truth["annotations"]:
        each["category_id"] = {DOOR: WINDOW, WINDOW: DOOR}[each["category_id"]]
    doubts = [replace(doubts[0], proposed=DOOR), doubts[1], replace(doubts[-1], proposed=9)]
    got = corrected(split, doubts, truth, results, categories_in(index, classes, load_config([]).data))
    names = {each["id"]: each["name"] for each in got["categories"]}
    assert names == {DOOR: "window", WINDOW: "=door", 8: "gate"}
    category = {each["id"]: names[each["category_id"]] for each in got["annotations"]}
    assert (category[1], category[3], category[13]) == ("=door", "window", "gate")
    entry = doubt_entries(doubts, index, truth, results)[0]
    assert (entry["class"], entry["proposed"]) == ("window", "=door")


@pytest.mark.parametrize(
    ("choice", "names", "own"),
    [
        (["data.rename={window: pane}"], ["door", "pane"], {1: DOOR, 2: WINDOW}),
        (["data.merge={opening: [door, window]}"], ["opening"], {1: DOOR}),
        (["data.merge={window: [door, window]}"], ["window"], {1: WINDOW}),
        (["data.classes=[door]"], ["door", "window"], {1: DOOR, 2: WINDOW}),
        (["data.rename={door: window, window: door}"], ["door", "window"], {1: WINDOW, 2: DOOR}),
        ([], ["door (id 3)", "window", "roof", "wall"], {1: DOOR, 2: WINDOW, 3: 8, 4: 9}),
    ],
)
def test_renamed_and_merged_classes_are_found_among_the_labels(
    choice: list[str], names: list[str], own: dict[int, int], tmp_path: Path
) -> None:
    index = open_index(write_json(tmp_path / "all.json", small_coco(2)))
    classes = ClassMap(names, [*range(1, len(names) + 1)])
    found = categories_in(index, classes, load_config(choice).data)
    assert {number: each.id for number, each in found.items()} == own


def test_what_is_written_is_read_again_without_a_fault(split: Split, tmp_path: Path) -> None:
    truth, doubts, results = found(split)
    index = open_index(write_json(tmp_path / "corrected.json", corrected(split, doubts, truth, results, OWN)))
    assert index.num_annotations == 11
    assert len(index.skipped) == 0


def test_the_files_name_each_doubt_as_the_labels_do(split: Split, tmp_path: Path) -> None:
    truth, doubts, results = found(split)
    write_doubts(tmp_path, doubt_entries(doubts, split.index, truth, results), "all.json")
    plain = json.loads((tmp_path / "doubts.json").read_text())["doubts"]
    assert [each["annotations"] for each in plain] == [[1], [3], [5], [7], [9], []]
    assert [(each["class"], each["proposed"]) for each in plain[:1] + plain[3:]] == [
        ("=door", "window"), ("=door", ""), ("=door", ""), ("", "window")]  # fmt: skip
    assert (plain[4]["twin"], plain[5]["box"], plain[5]["score"]) == (10, [5.12, 6.0, 10.0, 14.0], 0.9)
    rows = list(csv.DictReader((tmp_path / "doubts.csv").read_text().splitlines()))
    assert rows[0]["class"] == "'=door"  # no formula
    assert [rows[5][key] for key in ("image", "annotations", "kind", "x", "width")] == [
        "6.png", "", "missing", "5.12", "10.0"]  # fmt: skip
