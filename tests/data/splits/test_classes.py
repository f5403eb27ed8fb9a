from __future__ import annotations

import pytest

from maskrcnn_train.data.coco.index import Category
from maskrcnn_train.data.splits.classes import build_class_map, map_categories
from maskrcnn_train.structures.classes import ClassMap


def categories(*rows: tuple[int, str, str | None]) -> list[Category]:
    return [Category(*row) for row in rows]


def test_labels_follow_sorted_ids_whatever_the_gaps() -> None:
    classes, notes = build_class_map(categories((90, "b", None), (0, "a", None)), {0, 90}, "train.json")
    assert (classes.names, classes.ids, classes.num_classes, notes) == (["a", "b"], [0, 90], 3, [])
    assert [classes.label_of(0), classes.id_of(2), classes.name_of(2)] == [1, 90, "b"]


def test_a_supercategory_without_objects_is_left_out_and_said() -> None:
    found = categories((0, "facade", "none"), (1, "door", "facade"), (3, "facade", "facade"))
    classes, notes = build_class_map(found, {1, 3}, "train.json")
    assert (classes.names, classes.ids) == (["door", "facade"], [1, 3])
    assert any("category 0" in note for note in notes)


def test_a_class_that_is_its_own_supercategory_stays() -> None:
    classes, _ = build_class_map(categories((1, "person", "person"), (2, "car", "vehicle")), {2}, "train.json")
    assert classes.names == ["person", "car"]


def test_a_class_without_objects_stays_with_a_note() -> None:
    classes, notes = build_class_map(categories((1, "a", None), (2, "b", None)), {1}, "train.json")
    assert classes.names == ["a", "b"]
    assert notes == ["train.json has no objects of b; the model cannot learn them"]


def test_two_used_classes_of_one_name_stay_two() -> None:
    classes, _ = build_class_map(categories((1, "a", None), (3, "a", None)), {1, 3}, "train.json")
    assert classes.names == ["a (id 1)", "a (id 3)"]


def test_validation_is_matched_by_name() -> None:
    classes = ClassMap(["door", "window"], [3, 7])
    labels, notes = map_categories(
        classes, categories((1, "window", None), (3, "door", None)), {1, 3}, "val.json", "train.json"
    )
    assert labels == {1: 2, 3: 1}
    assert notes == ["window has id 1 in val.json and 7 in train.json; matched by name"]


def test_a_validation_class_unknown_to_training_is_named() -> None:
    with pytest.raises(ValueError, match=r"val\.json has objects of shop \(id 4\).*train\.json has not"):
        map_categories(ClassMap(["door"], [1]), categories((4, "shop", None)), {4}, "val.json", "train.json")


def test_an_unused_validation_class_does_not_matter() -> None:
    assert map_categories(ClassMap(["door"], [1]), categories((4, "shop", None)), set(), "v", "t") == ({}, [])


def test_plain_data_gives_the_map_back() -> None:
    classes = ClassMap(["door", "window"], [3, 7])
    assert ClassMap.from_plain(classes.to_plain()) == classes


@pytest.mark.parametrize("label", [0, 3, -1])
def test_a_label_out_of_range_is_refused(label: int) -> None:
    with pytest.raises(ValueError, match=r"labels are 1\.\.2"):
        ClassMap(["door", "window"], [3, 7]).name_of(label)
