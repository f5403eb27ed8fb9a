from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_coco import Coco, assert_equal, small_coco, square, write_json

from maskrcnn_train.data.coco import reader as coco_module
from maskrcnn_train.data.coco.json_file import NotInBlocks, in_blocks
from maskrcnn_train.data.coco.reader import read_coco


def awkward_coco() -> Coco:
    """Borders of objects in texts and in lists of objects, RLE, broken annotations, several parts."""
    coco = small_coco(6)
    items = coco["annotations"]
    items[0]["note"] = 'a "quoted" } , { border }], "categories": [] \\'
    items[1]["attributes"] = [{"a": 1}, {"b": [{}, {}]}]
    items[2]["segmentation"] = {"size": [60, 40], "counts": [0, 2400]}
    items[3]["bbox"] = [0, 0, 0, 0]
    items[4]["segmentation"].append([1, 2])
    del items[5]["id"]
    return coco


def blocks_of(text: bytes, size: int) -> list[list[Any]]:
    return list(in_blocks(text, size)[1])


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("size", [700, 1000, 1500])
def test_blocks_hold_every_annotation_once(size: int, indent: int | None) -> None:
    coco = awkward_coco()
    text = json.dumps({"info": {}, **coco}, indent=indent).encode()
    rest, _ = in_blocks(text, size)
    assert rest == {"info": {}, **coco, "annotations": []}
    blocks = blocks_of(text, size)
    assert [item for block in blocks for item in block] == coco["annotations"]
    assert len(blocks) > 1


@pytest.mark.parametrize("order", [("images", "annotations", "categories"), ("annotations", "categories", "images")])
def test_a_file_read_in_blocks_is_the_file_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: tuple[str, ...]
) -> None:
    coco = awkward_coco()
    path = write_json(tmp_path / "train.json", {key: coco[key] for key in order})
    whole = read_coco(path)
    monkeypatch.setattr(coco_module, "parse_json", lambda path: pytest.fail("read whole"))
    assert_equal(read_coco(path, block_size=500), whole)


@pytest.mark.parametrize(
    "text",
    [
        '{"images": [], "annotations": [], "categories": []}',
        '{"images": [], "categories": [], "annotations": [{"id": 1}',
        '{"images": [], "categories": [], "info": {"annotations": [{"id": 1}]}, "annotations": [{"id": 2}]}',
        '{"images": [], "categories": [], "annotations": [{"id": 1}, {"id": 2}], "annotations": [{"id": 3}]}',
    ],
)
def test_what_is_not_plainly_in_blocks_is_left_to_the_parser(text: str) -> None:
    with pytest.raises(NotInBlocks):
        blocks_of(text.encode(), 10)


def test_an_annotation_larger_than_a_block_is_read_whole(tmp_path: Path) -> None:
    coco = small_coco()
    coco["annotations"][3]["segmentation"] = [square(20, 18, 10)] * 200
    path = write_json(tmp_path / "train.json", coco)
    assert_equal(read_coco(path, block_size=400), read_coco(path))


def test_nan_in_a_block_is_named(tmp_path: Path) -> None:
    coco = small_coco()
    coco["annotations"][5]["bbox"][0] = float("nan")
    index = read_coco(write_json(tmp_path / "train.json", coco), block_size=400)
    assert [finding.ids for finding in index.skipped] == [[6]]


def test_a_fault_in_a_later_block_names_its_place(tmp_path: Path) -> None:
    coco = small_coco(6)
    coco["annotations"][9] = {"bbox": [1, 2, 3, 4]}
    with pytest.raises(ValueError, match=r"annotation number 9 in train\.json has image_id missing"):
        read_coco(write_json(tmp_path / "train.json", coco), block_size=400)
