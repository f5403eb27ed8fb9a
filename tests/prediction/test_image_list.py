"""images.json: what a stranger needs to match results of a folder, and how `evaluate` matches them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import evaluated, predicted
from PIL import Image
from tiny import untrained_checkpoint

from maskrcnn_train.prediction import image_list
from maskrcnn_train.settings.errors import UserError

NAMES = {30: "in/a.png", 10: "in/deep/b.png", 20: "in/deep/a.png"}  # ids of the ground truth; not the folder's order


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, predictions of their folder in `out`, and a ground truth of what was found there."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "in/deep").mkdir(parents=True)
    for image_id, name in NAMES.items():
        pixels = np.random.default_rng(image_id).integers(0, 256, (70, 60 + image_id, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    checkpoint = untrained_checkpoint(folder)
    predicted(checkpoint, folder / "in", folder / "out")
    images = [{"id": id_, "file_name": name, "height": 70, "width": 60 + id_} for id_, name in NAMES.items()]
    content = {"images": images, "categories": read(folder / "out/images.json")["categories"], "annotations": []}
    (folder / "empty.json").write_text(json.dumps(content))
    predicted(checkpoint, folder / "empty.json", folder / "by_id")
    objects = read(folder / "by_id/predictions.json")[::2]
    for number, each in enumerate(objects, start=1):
        each |= {"id": number, "iscrowd": 0, "area": each["bbox"][2] * each["bbox"][3]}
    (folder / "truth.json").write_text(json.dumps(content | {"annotations": objects}))
    return folder


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(image_list.logger, "warning", lambda text, *values: said.append(text % values))
    return said


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def scored(folder: Path, predictions: str, out: Path, truth: str = "truth.json") -> dict[str, float]:
    return evaluated(f"predictions={folder / predictions}", f"annotations={folder / truth}", folder=out)


def test_each_image_has_its_file_its_size_and_each_id_its_class(folder: Path) -> None:
    found = read(folder / "out/images.json")
    assert found["images"] == [
        {"id": 1, "file_name": f"{folder}/in/a.png", "width": 90, "height": 70},
        {"id": 2, "file_name": f"{folder}/in/deep/a.png", "width": 80, "height": 70},
        {"id": 3, "file_name": f"{folder}/in/deep/b.png", "width": 70, "height": 70},
    ]
    assert found["categories"][0] == {"id": 1, "name": "ellipse"}
    assert [each["id"] for each in read(folder / "by_id/images.json")["images"]] == list(NAMES)


def test_a_folders_results_are_scored_by_file_name(folder: Path, tmp_path: Path, warnings: list[str]) -> None:
    expected = scored(folder, "by_id/predictions.json", tmp_path / "by_id")
    assert not any("images are matched" in each for each in warnings)
    assert expected["bbox/AP"] > 0.3
    assert scored(folder, "out/predictions.json", tmp_path / "by_name") == expected
    assert "images are matched by file name" in warnings[-1]


def test_ids_that_agree_by_chance_do_not_hide_other_files(folder: Path, tmp_path: Path) -> None:
    truth = read(folder / "truth.json")
    renumbered = {30: 3, 10: 2, 20: 1}  # as the folder's ids, of other images
    for each, key in [
        *((each, "id") for each in truth["images"]),
        *((each, "image_id") for each in truth["annotations"]),
    ]:
        each[key] = renumbered[each[key]]
    (folder / "renumbered.json").write_text(json.dumps(truth))
    expected = scored(folder, "by_id/predictions.json", tmp_path / "by_id")
    assert scored(folder, "out/predictions.json", tmp_path / "out", "renumbered.json") == expected


def test_classes_are_matched_by_name_where_the_ground_truth_has_them_all(
    folder: Path, tmp_path: Path, warnings: list[str]
) -> None:
    expected = scored(folder, "by_id/predictions.json", tmp_path / "by_id")
    truth = read(folder / "truth.json")
    ids = [each["id"] for each in truth["categories"]]
    moved = dict(zip(ids, ids[1:] + ids[:1], strict=True))
    for each, key in [
        *((each, "id") for each in truth["categories"]),
        *((each, "category_id") for each in truth["annotations"]),
    ]:
        each[key] = moved[each[key]]
    (tmp_path / "moved.json").write_text(json.dumps(truth))
    assert scored(folder, "by_id/predictions.json", tmp_path / "a", str(tmp_path / "moved.json")) == expected
    assert "classes are matched by name" in warnings[-1]

    before, truth = len(warnings), read(folder / "truth.json")
    truth["categories"][0]["name"] = "an ellipse"  # which `data.rename` made another class of
    (tmp_path / "renamed.json").write_text(json.dumps(truth))
    found = scored(folder, "by_id/predictions.json", tmp_path / "b", str(tmp_path / "renamed.json"))
    assert found["bbox/AP"] == expected["bbox/AP"]
    assert not any("by name" in each for each in warnings[before:])


def test_a_file_that_the_ground_truth_lacks_or_has_twice_is_named(folder: Path, tmp_path: Path) -> None:
    truth = read(folder / "truth.json")
    truth["images"][1]["file_name"] = "in/c.png"
    (tmp_path / "other.json").write_text(json.dumps(truth))
    with pytest.raises(UserError, match=r"deep/b\.png \(id 3 in images\.json\) is no image of"):
        scored(folder, "out/predictions.json", tmp_path / "none", str(tmp_path / "other.json"))
    truth["images"][1]["file_name"] = "b.png"
    truth["images"].append(truth["images"][1] | {"id": 99, "file_name": "deep/b.png"})
    (tmp_path / "twice.json").write_text(json.dumps(truth))
    with pytest.raises(UserError, match=r"is 2 images of .*twice\.json"):
        scored(folder, "out/predictions.json", tmp_path / "twice", str(tmp_path / "twice.json"))


def test_two_files_of_one_image_are_named(folder: Path, tmp_path: Path) -> None:
    truth = read(folder / "truth.json")
    truth["images"][0]["file_name"] = "a.png"  # in/a.png and in/deep/a.png, which it had by another name
    truth["images"] = [each for each in truth["images"] if each["file_name"] != "in/deep/a.png"]
    truth["annotations"] = [each for each in truth["annotations"] if each["image_id"] != 20]
    (tmp_path / "one.json").write_text(json.dumps(truth))
    with pytest.raises(
        UserError, match=r"in/a\.png \(id 1 in images\.json\) and .*deep/a\.png \(id 2\) are both a\.png"
    ):
        scored(folder, "out/predictions.json", tmp_path / "out", str(tmp_path / "one.json"))


@pytest.mark.parametrize("content", ["{", "[]", '{"images": [{"id": 1}]}', '{"images": 3}'])
def test_another_file_of_this_name_is_not_read(content: str, folder: Path, tmp_path: Path, warnings: list[str]) -> None:
    (tmp_path / "images.json").write_text(content)
    (tmp_path / "predictions.json").write_text((folder / "out/predictions.json").read_text())
    with pytest.raises(UserError, match="has image_id 1, which the ground truth lacks"):
        scored(tmp_path, "predictions.json", tmp_path / "e", str(folder / "truth.json"))
    assert "images.json is not as predict writes it: images are matched by id" in warnings[-1]
