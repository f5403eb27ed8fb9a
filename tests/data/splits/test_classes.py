from __future__ import annotations

from pathlib import Path

import pytest

from maskrcnn_train import load_config
from maskrcnn_train.data.coco.index import AnnotationIndex
from maskrcnn_train.data.coco.reader import read_coco
from maskrcnn_train.data.splits.classes import build_class_map, map_categories
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.classes import ClassMap

ALL = load_config().data


def index(name: str, rows: list[tuple[int, str, str | None]], used: list[int]) -> AnnotationIndex:
    """A JSON with categories (id, name, supercategory) and an object of each of `used`."""
    annotations = [
        {"id": number, "image_id": 1, "category_id": category, "bbox": [1, 1, 4, 4]}
        for number, category in enumerate(used, start=1)
    ]
    return read_coco(
        Path("data") / name,
        {
            "images": [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}],
            "categories": [{"id": id_, "name": name, "supercategory": parent} for id_, name, parent in rows],
            "annotations": annotations,
        },
    )


def test_labels_follow_sorted_ids_whatever_the_gaps() -> None:
    classes, notes = build_class_map(index("train.json", [(90, "b", None), (0, "a", None)], [0, 90]), ALL)
    assert (classes.names, classes.ids, classes.num_classes, notes) == (["a", "b"], [0, 90], 3, [])
    assert [classes.id_of(2), classes.name_of(2)] == [90, "b"]


def test_a_supercategory_without_objects_is_left_out_and_said() -> None:
    rows = [(0, "facade", "none"), (1, "door", "facade"), (3, "facade", "facade")]
    classes, notes = build_class_map(index("train.json", rows, [1, 3]), ALL)
    assert (classes.names, classes.ids) == (["door", "facade"], [1, 3])
    assert any("category 0" in note for note in notes)


def test_a_class_that_is_its_own_supercategory_stays() -> None:
    rows = [(1, "person", "person"), (2, "car", "vehicle")]
    assert build_class_map(index("train.json", rows, [2]), ALL)[0].names == ["person", "car"]


def test_a_class_without_objects_stays_with_a_note() -> None:
    classes, notes = build_class_map(index("train.json", [(1, "a", None), (2, "b", None)], [1]), ALL)
    assert classes.names == ["a", "b"]
    assert notes == ["data/train.json has no objects of b; the model cannot learn them"]


def test_two_used_classes_of_one_name_stay_two() -> None:
    classes, _ = build_class_map(index("train.json", [(1, "a", None), (3, "a", None)], [1, 3]), ALL)
    assert classes.names == ["a (id 1)", "a (id 3)"]


def test_validation_is_matched_by_name() -> None:
    val = index("val.json", [(1, "window", None), (3, "door", None)], [1, 3])
    labels, notes = map_categories(ClassMap(["door", "window"], [3, 7]), val, ALL, "train.json")
    assert labels == {1: 2, 3: 1}
    assert notes == ["window has id 1 in data/val.json and 7 in train.json; matched by name"]


def test_a_validation_class_unknown_to_training_is_named() -> None:
    val = index("val.json", [(4, "shop", None)], [4])
    with pytest.raises(UserError, match=r"val\.json has objects of shop \(id 4\).*train\.json has not"):
        map_categories(ClassMap(["door"], [1]), val, ALL, "train.json")


def test_an_unused_validation_class_does_not_matter() -> None:
    assert map_categories(ClassMap(["door"], [1]), index("v", [(4, "shop", None)], []), ALL, "t") == ({}, [])
