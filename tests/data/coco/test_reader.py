from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from small_coco import Coco, annotation, small_coco, square, write_json

from maskrcnn_train.data.coco.index import AnnotationIndex
from maskrcnn_train.data.coco.json_file import parse_json
from maskrcnn_train.data.coco.reader import open_index, read_coco


def read(tmp_path: Path, coco: Any) -> AnnotationIndex:
    return read_coco(write_json(tmp_path / "train.json", coco))


def reasons(index: AnnotationIndex) -> dict[str, int]:
    return {row.reason: row.count for row in index.skipped}


def changed(**change: Any) -> Coco:
    """The small data set with annotation 1 changed; a value of None removes the key."""
    coco = small_coco()
    coco["annotations"][0].update(change)
    coco["annotations"][0] = {key: value for key, value in coco["annotations"][0].items() if value is not None}
    return coco


def test_a_clean_file_has_an_empty_table(tmp_path: Path) -> None:
    index = read(tmp_path, small_coco())
    assert (index.num_images, index.num_annotations, len(index.skipped)) == (4, 8, 0)
    assert index.file_name(2) == "3.png"
    assert index.size(0) == (40, 60)
    np.testing.assert_array_equal(index.parts(0)[0], square(3, 4, 12))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("[1]", "holds a list"),
        ('{"images": [], "annotations": []}', "has no `categories`"),
        ('{"images": {}, "annotations": [], "categories": []}', "should be a list"),
        (
            '{"images": [3], "annotations": [], "categories": []}',
            "image number 0 in train.json is 3; it should be an object",
        ),
    ],
)
def test_a_wrong_file_is_one_line_naming_it(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "train.json").write_text(content)
    with pytest.raises(ValueError, match=words) as error:
        read_coco(tmp_path / "train.json")
    assert "train.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("where", "change", "words"),
    [
        ("annotations", {"category_id": 9}, "annotation 1 in train.json has category_id 9; categories are 3, 7"),
        ("annotations", {"image_id": 99}, "annotation 1 in train.json has image_id 99; images are 1..4"),
        ("annotations", {"image_id": "a"}, "annotation 1 in train.json has image_id 'a'"),
        ("images", {"id": 2}, "image 2 in train.json has an id that occurs 2 times"),
        ("images", {"width": None}, "image 1 in train.json has width missing"),
        ("images", {"height": 0}, "image 1 in train.json has size 60 x 0"),
        ("images", {"file_name": "../x.png"}, "outside the folder of images"),
        ("images", {"file_name": "/etc/x.png"}, "outside the folder of images"),
        ("images", {"file_name": "..\\x.png"}, "outside the folder of images"),
        ("images", {"height": 2**20, "width": 2**20}, "image 1 in train.json has size 1048576 x 1048576"),
        ("images", {"id": 2**62}, "image number 0 in train.json has id 4611686018427387904; it is too large"),
        ("images", {"id": None}, "image number 0 in train.json has id missing"),
        ("categories", {"id": -(10**17)}, "categories are -100000000000000000, 7"),
        ("images", {"file_name": 5}, "image 1 in train.json has file_name 5"),
        ("categories", {"name": ""}, "category 3 in train.json has name"),
        ("categories", {"name": "a\uffff"}, "category 3 in train.json has name 'a\\uffff'; it should be a text"),
        ("categories", {"id": 7}, "category 7 in train.json has an id that occurs 2 times"),
    ],
)
def test_a_fault_of_the_file_names_the_item(tmp_path: Path, where: str, change: Coco, words: str) -> None:
    coco = small_coco()
    coco[where][0].update(change)
    with pytest.raises(ValueError, match=r"train\.json") as error:
        read(tmp_path, coco)
    assert words in str(error.value)


NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [5, 5, 0, 4]}, "box has no area"),
        ({"bbox": [5, 5, -3, 4]}, "box has no area"),
        ({"bbox": [NAN, 5, 3, 4]}, "box has a coordinate that is not a number"),
        ({"bbox": [0, 0, 1e9, 4]}, "box reaches far outside the image"),
        ({"bbox": [70, 5, 3, 4]}, "box lies outside the image"),
        ({"bbox": [1, 2, 3]}, "box is not four numbers"),
        ({"bbox": "1,2,3,4"}, "box is not four numbers"),
        ({"segmentation": [[1, 1, 5, 5]]}, "polygon is not a list of three or more points"),
        ({"segmentation": [[1, 1, 5, 5, 7, 9, 3]]}, "polygon is not a list of three or more points"),
        ({"segmentation": [[1, 1, 5, 5, 7, "x"]]}, "polygon is not a list of three or more points"),
        ({"segmentation": [[1, 1, 5, 5, NAN, 9]]}, "polygon has a coordinate that is not a number"),
        ({"segmentation": [[1, 1, 5, 5, 1e9, 9]]}, "polygon reaches far outside the image"),
        ({"segmentation": [[1, 1, 5, 5, 9, 9]]}, "polygon has no area"),
        ({"segmentation": [square(100, 100, 9)]}, "segmentation lies outside the image"),
        ({"segmentation": [[-500, -300, 500, 300, 0, 0] * 500]}, "polygon has an outline too long to be drawn"),
        ({"segmentation": {"size": [40, float("inf")], "counts": [100]}}, "RLE has another size than its image"),
        ({"segmentation": [["1", 1, 5, 5, 7, 9]]}, "polygon is not a list of three or more points"),
        ({"segmentation": "abc"}, "segmentation is neither polygons nor RLE"),
        ({"segmentation": {"size": [10, 10], "counts": [100]}}, "RLE has another size than its image"),
        ({"segmentation": {"size": [40, 60], "counts": [100, 5]}}, "RLE counts do not add up to the image"),
        ({"segmentation": {"size": [40, 60], "counts": [2500, -100]}}, "RLE has counts that cannot be read"),
        ({"segmentation": {"size": [40, 60], "counts": "\u00ff~~~"}}, "RLE has counts that cannot be read"),
        ({"segmentation": {"size": [40, 60], "counts": "oooo"}}, "RLE has counts that cannot be read"),
        ({"segmentation": {"size": [40, 60], "counts": ""}}, "RLE has counts that cannot be read"),
        ({"segmentation": {"size": [40, 60]}}, "RLE has counts that cannot be read"),
        ({"segmentation": {"size": [40, 60], "counts": [2400]}}, "mask is empty"),
        ({"iscrowd": 2}, "iscrowd is neither 0 nor 1"),
        ({"bbox": None, "segmentation": None}, "neither box nor segmentation"),
    ],
)
def test_a_faulty_object_is_left_out_and_counted(tmp_path: Path, change: Coco, reason: str) -> None:
    index = read(tmp_path, changed(**change))
    assert index.num_annotations == 7
    assert reasons(index) == {reason: 1}
    assert next(iter(index.skipped)).ids == [1]
    np.testing.assert_array_equal(index.parts(0)[0], square(20, 19, 10))  # the next object moved up, whole


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": None}, "box computed from the segmentation"),
        ({"area": None}, "area missing: computed"),
        ({"area": -4}, "area is not a positive number: computed"),
        (
            {"segmentation": [square(3, 4, 12), [1, 2]]},
            "polygon is not a list of three or more points: this part left out",
        ),
        ({"bbox": [3, 4, 54, 12]}, "box and segmentation differ (boxes are x, y, width, height)"),
    ],
)
def test_a_repaired_object_is_kept_and_counted(tmp_path: Path, change: Coco, reason: str) -> None:
    index = read(tmp_path, changed(**change))
    assert index.num_annotations == 8
    assert reasons(index) == {reason: 1}
    assert index.skipped.num_dropped == 0
    assert index.areas[0] == pytest.approx(144)
    np.testing.assert_allclose(index.boxes[0], change.get("bbox") or [3, 4, 12, 12])


def test_a_box_partly_outside_is_clipped(tmp_path: Path) -> None:
    index = read(tmp_path, changed(bbox=[-4, 30, 12, 30], segmentation=[[-4, 30, 8, 30, 8, 60, -4, 60]]))
    np.testing.assert_allclose(index.boxes[0], [0, 30, 8, 10])
    assert reasons(index) == {"box clipped to the image": 1}


def test_missing_iscrowd_is_no_crowd(tmp_path: Path) -> None:
    assert not read(tmp_path, changed(iscrowd=None)).crowd.any()


def test_repeated_and_missing_annotation_ids_are_replaced(tmp_path: Path) -> None:
    coco = small_coco()
    coco["annotations"][1]["id"] = 1
    del coco["annotations"][2]["id"]
    index = read(tmp_path, coco)
    assert index.annotation_ids.tolist() == [1, 9, 10, 4, 5, 6, 7, 8]
    assert reasons(index) == {
        "annotation id repeated: replaced": 1,
        "annotation id missing or not a whole number: replaced": 1,
    }


def test_an_annotation_id_may_be_a_whole_float(tmp_path: Path) -> None:
    index = read(tmp_path, changed(id=100.0))
    assert 100 in index.annotation_ids.tolist()
    assert not reasons(index)


def test_compressed_and_listed_rle_give_the_same_runs(tmp_path: Path) -> None:
    bitmap = np.zeros((40, 60), dtype=np.uint8, order="F")
    bitmap[5:17, 3:15] = 1
    encoded = coco_mask.encode(bitmap)
    text = {"size": [40, 60], "counts": encoded["counts"].decode()}
    compressed = read(tmp_path, changed(segmentation=text, area=None, bbox=None))
    runs = compressed.counts(0).tolist()
    listed = read(tmp_path, changed(segmentation={"size": [40, 60], "counts": runs}))
    assert listed.counts(0).tolist() == runs
    assert compressed.areas[0] == 144
    np.testing.assert_allclose(compressed.boxes[0], [3, 5, 12, 12])


def test_polygons_of_several_parts_stay_one_object(tmp_path: Path) -> None:
    index = read(tmp_path, changed(segmentation=[square(3, 4, 4), square(11, 12, 4)], area=None))
    assert [len(part) for part in index.parts(0)] == [8, 8]
    assert index.areas[0] == 32
    np.testing.assert_allclose(index.extents[0], [3, 4, 15, 16])


def test_byte_order_mark_and_extra_keys_do_not_matter(tmp_path: Path) -> None:
    coco = {"info": {}, "licenses": None, **small_coco()}
    (tmp_path / "train.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(coco).encode())
    assert read_coco(tmp_path / "train.json").num_annotations == 8


def test_annotations_in_any_order_are_sorted_by_image(tmp_path: Path) -> None:
    coco = small_coco()
    coco["annotations"] = coco["annotations"][::-1]
    index = read(tmp_path, coco)
    for row in range(index.num_images):
        assert (index.image_rows[index.annotations(row)] == row).all()
        assert sorted(index.annotation_ids[index.annotations(row)].tolist()) == [2 * row + 1, 2 * row + 2]


def test_an_unusual_file_name_is_kept(tmp_path: Path) -> None:
    coco = small_coco()
    coco["images"][0]["file_name"] = "fotos/übung 1..a.jpg"
    assert read(tmp_path, coco).file_name(0) == "fotos/übung 1..a.jpg"


@pytest.mark.parametrize("block_size", [1, 2**20])
def test_a_file_name_written_on_windows_gets_slashes(tmp_path: Path, block_size: int) -> None:
    coco = small_coco()
    coco["images"][0]["file_name"] = "walls\\north\\1.png"
    index = read_coco(write_json(tmp_path / "train.json", coco), block_size=block_size)
    assert index.file_name(0) == "walls/north/1.png"


def test_a_name_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    coco = changed(bbox=[NAN, 0, 1, 1])  # with it the file is read by a parser that lets half a character through
    coco["images"][2]["file_name"] = "\ud800.png"
    with pytest.raises(ValueError, match=r"image 3 in train\.json has file_name '\\ud800\.png'; it should be a path"):
        read(tmp_path, coco)


def test_a_line_break_in_a_name_breaks_no_message(tmp_path: Path) -> None:
    coco = small_coco()
    coco["categories"][0]["name"] = " front\n door "
    assert read(tmp_path, coco).categories[0].name == "front door"
    coco["images"][0]["file_name"] = "a\nb.png"
    with pytest.raises(ValueError, match=r"image 1 in train\.json has file_name 'a\\nb\.png'; it should be a path"):
        read(tmp_path, coco)


def test_numbers_of_any_length_are_read(tmp_path: Path) -> None:
    coco = changed(bbox=[NAN, 0, 1, 1])
    coco["annotations"][1]["segmentation"] = [[10**400, 1, 5, 5, 7, 9]]
    assert sorted(reasons(read(tmp_path, coco))) == [
        "box has a coordinate that is not a number",
        "polygon has a coordinate that is not a number",
    ]
    exact = read_coco(tmp_path / "train.json", parse_json(tmp_path / "train.json", exact=True))
    assert "polygon reaches far outside the image" in reasons(exact)


def test_a_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json does not exist"):
        open_index(tmp_path / "none.json")


def test_the_facade_file_is_read_whole(facade: Path) -> None:
    index = read_coco(facade / "train" / "_annotations.coco.json")
    assert (index.num_images, index.num_annotations) == (96, 2976)
    assert index.skipped.num_dropped == 0


def test_a_crowd_object_is_marked(tmp_path: Path) -> None:
    coco = small_coco()
    coco["annotations"].append(annotation(50, 1, 3, 1, 1, 5, iscrowd=1))
    assert read(tmp_path, coco).crowd.sum() == 1
