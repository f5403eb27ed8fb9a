"""`data.exclude`: the labels that a file of doubts names become ignored regions of the training, and are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from labelled_data import few_shapes, write
from small_coco import roboflow, small_coco

from maskrcnn_train import load_config
from maskrcnn_train.checking.reading import read_data
from maskrcnn_train.data.loading import build_loaders
from maskrcnn_train.data.splits.excluding import EXCLUDED
from maskrcnn_train.data.splits.splitting import REGION, read_splits
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainConfig


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return roboflow(tmp_path / "data", small_coco(6))


def configured(root: Path, content: Any, *more: str) -> TrainConfig:
    path = root / "doubts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return load_config(["data=roboflow", f"data.root={root}", f"data.exclude={path}", "trainer.num_workers=0", *more])


def doubt(image: str | None, *annotations: int | str, **more: Any) -> dict[str, Any]:
    return {"kind": "spurious", "annotations": list(annotations), "image": image, **more}


def test_the_labels_named_are_no_targets_and_their_images_stay(root: Path) -> None:
    named = [doubt("1.png", 1), doubt("1.png", 2), doubt("3.png", 5), doubt("4.png", kind="missing")]
    splits = read_splits(configured(root, {"doubts": named}))
    assert splits.train.num_objects == 9
    assert splits.val.num_objects == 12
    assert len(splits.train) == 6
    row = next(row for row in splits.skipped["train"] if row.reason == EXCLUDED)
    assert (row.ids, row.dropped, row.examples[0]) == ([1, 2, 5], True, "annotation 1")
    loaders = build_loaders(configured(root, {"doubts": named}, "trainer.batch_size=6"))
    assert len(loaders.train.dataset.ground_truth()["annotations"]) == 9
    loaders.train.set_epoch(0)
    targets = {target["image_id"]: target for _, batch in loaders.train for target in batch}
    assert [len(targets[image]["boxes"]) for image in (1, 2, 3, 4)] == [0, 2, 1, 2]
    assert "masks" in targets[3]
    assert [len(targets[image].get("ignored", [])) for image in (1, 2, 3, 4)] == [2, 0, 1, 0]
    scale, mirror = 800 / 40, 60 * 800 / 40
    x1, y1, x2, y2 = targets[3]["ignored"][0].tolist()
    assert [y1 / scale, y2 / scale] == [4, 16]
    assert sorted((x1, mirror - x2))[0] / scale == pytest.approx(5)


def test_a_list_of_ids_is_enough(root: Path) -> None:
    assert read_splits(configured(root, [1, 7])).train.num_objects == 10


def test_the_check_leaves_them_out_too(root: Path) -> None:
    assert read_data(configured(root, [1, 7])).splits["train"].num_objects == 10


def test_what_the_labels_lack_is_told(root: Path) -> None:
    splits = read_splits(configured(root, [doubt("1.png", 1), doubt("2.png", 1), doubt(None, 99)]))
    assert splits.train.num_objects == 11
    assert any("lacks 2 annotations of data.exclude" in note for note in splits.notes)


def test_where_one_json_is_cut_only_the_training_part_is_concerned_and_the_cut_stays(root: Path) -> None:
    cut = ["data=custom", f"data.train.annotations={root}/train/_annotations.coco.json"]
    cut += [f"data.train.images={root}/train", "data.split.fractions=[0.5,0.5]"]
    whole = read_splits(load_config(cut))
    (root / "doubts.json").write_text(json.dumps(list(range(1, 13, 2))))
    some = read_splits(load_config([*cut, f"data.exclude={root / 'doubts.json'}"]))
    assert some.val.rows.tolist() == whole.val.rows.tolist()
    assert some.val.num_objects == 6
    assert (whole.train.num_objects, some.train.num_objects) == (6, 3)


def test_labels_of_other_formats_are_named_by_their_place(tmp_path: Path) -> None:
    write(few_shapes(tmp_path), "yolo", tmp_path / "yolo", tolerance=0.5)
    given = ["data=yolo", f"data.root={tmp_path / 'yolo'}"]
    index = read_splits(load_config(given)).train.index
    (tmp_path / "doubts.json").write_text(json.dumps([doubt(index.file_name(int(index.image_rows[3])), index.item(3))]))
    train = read_splits(load_config([*given, f"data.exclude={tmp_path / 'doubts.json'}"])).train
    assert train.num_objects == index.num_annotations - 1
    assert train.labels[3] == REGION


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not JSON"),
        ({"a": 1}, "is no list of doubts"),
        ([{"image": "1.png"}], "is no list of doubts"),
        ([99], "names no annotation of"),
        ([doubt("2.png", 1)], "names no annotation of"),
    ],
)
def test_a_file_of_something_else_is_refused(content: Any, complaint: str, root: Path) -> None:
    with pytest.raises(UserError, match=complaint):
        read_splits(configured(root, content))


def test_a_file_that_an_editor_saved_with_a_byte_order_mark_is_read(root: Path) -> None:
    assert read_splits(configured(root, "\ufeff[1, 7]")).train.num_objects == 10


def test_a_missing_file_is_named(root: Path) -> None:
    config = load_config(["data=roboflow", f"data.root={root}", "data.exclude=nowhere.json"])
    with pytest.raises(UserError, match=r"nowhere\.json does not exist"):
        read_splits(config)
