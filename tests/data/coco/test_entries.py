from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from small_coco import annotation, assert_equal, small_coco, write_json

from maskrcnn_train.data.coco.entries import Faults
from maskrcnn_train.data.coco.index import AnnotationIndex
from maskrcnn_train.data.coco.reader import open_index, read_coco


def listed(path: Path, **options: Any) -> tuple[AnnotationIndex, dict[str, list[int | str]]]:
    faults = Faults(path.name)
    index = read_coco(path, faults=faults, **options)
    return index, {fault.kind: fault.items for fault in faults.in_order}


@pytest.mark.parametrize(
    ("key", "value"), [("file_name", "a\nb.png"), ("file_name", "a\ud800.png"), ("name", "\ud800")]
)
def test_a_text_that_stops_a_training_is_named_and_left_out(key: str, value: str, tmp_path: Path) -> None:
    coco = small_coco()
    where = "images" if key == "file_name" else "categories"
    coco[where][0][key] = value
    coco["info"] = math.nan  # only Python's own reader, which such files need, takes half a surrogate pair
    path = write_json(tmp_path / "train.json", coco)
    with pytest.raises(ValueError, match=rf"{coco[where][0]['id']} in train\.json has"):
        read_coco(path)
    index, found = listed(path)
    assert list(found.values()) == [[coco[where][0]["id"]]]
    assert index.num_annotations == (6 if where == "images" else 4)  # without those of the image, of the category


@pytest.mark.parametrize("block_size", [400, 2**20])
def test_the_sound_rest_is_read_as_if_the_faulty_entries_were_not_there(tmp_path: Path, block_size: int) -> None:
    sound, coco = small_coco(6), small_coco(6)
    coco["images"].insert(2, {"id": 90, "file_name": "x.png", "width": 0, "height": 5})
    coco["annotations"].insert(0, "oops")
    coco["annotations"].insert(3, annotation(91, 90, 3, 1, 1, 5))  # of an image that is left out: not named
    coco["annotations"].insert(5, annotation(92, 1, 3, 1, 1, 5, category_id=None))
    coco["annotations"] += [annotation(93, 77, 3, 1, 1, 5), {**annotation(0, 77, 3, 1, 1, 5), "id": None}]
    index, found = listed(write_json(tmp_path / "train.json", coco), block_size=block_size)
    assert found == {
        "image-size": [90],
        "not-an-object": ["number 0"],
        "annotation-image-unknown": [93, "number 16"],
        "annotation-category-id": [92],
    }
    index.sources = [tmp_path / "sound.json"]
    assert_equal(index, read_coco(write_json(tmp_path / "sound.json", sound)))


def test_a_cause_is_told_before_its_effects(tmp_path: Path) -> None:
    coco = small_coco()
    coco["annotations"][0]["image_id"] = "a"
    coco["images"][3]["id"] = None
    with pytest.raises(ValueError, match=r"image number 3 in train\.json has id missing"):
        read_coco(write_json(tmp_path / "train.json", coco))


def test_a_file_with_faults_is_not_cached(tmp_path: Path) -> None:
    coco = small_coco()
    coco["images"][0]["height"] = 0
    path = write_json(tmp_path / "train.json", coco)
    for _ in range(2):
        faults = Faults(path.name)
        assert open_index(path, faults).folder is None
        assert [fault.items for fault in faults.values()] == [[1]]
