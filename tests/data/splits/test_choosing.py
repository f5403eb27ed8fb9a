from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from small_coco import Coco, Configure, annotation, roboflow, small_coco

from maskrcnn_train import load_config
from maskrcnn_train.checking.annotations import check_annotations
from maskrcnn_train.checking.reading import read_data
from maskrcnn_train.data.dataset import CocoDataset
from maskrcnn_train.data.loading import build_dataset
from maskrcnn_train.data.splits.choosing import with_choice
from maskrcnn_train.data.splits.splitting import Splits, read_split, read_splits
from maskrcnn_train.settings.compose import config_from_plain
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import overrides_of
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.classes import ClassMap


@pytest.fixture(autouse=True)
def street(tmp_path: Path) -> Coco:
    """Doors (3) and windows (7) as in `small_coco`, and a car (9) and two buses (11) on the first image."""
    coco = small_coco()
    coco["categories"] += [{"id": 11, "name": "bus"}, {"id": 9, "name": "car"}, {"id": 12, "name": "van"}]
    for number, category in enumerate((9, 11, 11), start=100):
        coco["annotations"].append(annotation(number, 1, category, 30 + number % 3, 4, 8))
    roboflow(tmp_path / "data", coco, coco)
    return coco


def numbers(splits: Splits) -> dict[str, int]:
    """Training objects of each class."""
    split = splits.train
    labels = split.labels[split.is_object]
    return {name: int((labels == label).sum()) for label, name in enumerate(splits.classes.names, start=1)}


def training(config: TrainConfig) -> tuple[CocoDataset, Splits]:
    splits = read_splits(config)
    return build_dataset(config, splits.train, splits.classes, training=True), splits


def test_merged_classes_are_one_in_training_and_in_the_ground_truth(configure: Configure) -> None:
    dataset, splits = training(configure("data.merge={vehicle:[car,bus]}"))
    assert splits.classes == ClassMap(["door", "window", "vehicle", "van"], [3, 7, 9, 12])
    assert numbers(splits) == {"door": 4, "window": 4, "vehicle": 3, "van": 0}
    assert sorted(dataset[0][1]["labels"].tolist()) == [1, 2, 3, 3, 3]
    assert [each["category_id"] for each in dataset.ground_truth()["annotations"]].count(9) == 3
    note = "train/_annotations.coco.json: annotations of bus (2), car (1) are now vehicle"
    assert note in splits.notes
    assert note.replace("train", "valid") in splits.notes


def test_only_the_chosen_classes_are_trained_on_and_scored(configure: Configure) -> None:
    dataset, splits = training(configure("data.classes=[window,bus]"))
    assert splits.classes == ClassMap(["window", "bus"], [7, 11])
    assert numbers(splits) == {"window": 4, "bus": 2}
    assert sorted(dataset[0][1]["labels"].tolist()) == [1, 2, 2]
    assert len(dataset.ground_truth()["annotations"]) == splits.train.num_objects == 6
    left_out = "annotations of door (4), car (1), van (0) are left out"
    assert f"train/_annotations.coco.json: {left_out}" in splits.notes


def test_an_image_without_a_chosen_object_is_empty(configure: Configure) -> None:
    dataset, splits = training(configure("data.classes=[bus]", "data.keep_empty=false"))
    assert len(dataset) == 1
    findings = {each.kind: each.items for each in check_annotations(splits.train)}
    assert findings["images-empty"] == ["2.png", "3.png", "4.png"]


def test_names_change_before_classes_are_merged_and_chosen(configure: Configure) -> None:
    choice = ["data.rename={bus:coach}", "data.merge={vehicle:[car,coach]}", "data.classes=[vehicle]"]
    config = configure(*choice)
    splits = read_splits(config)
    assert (splits.classes, numbers(splits)) == (ClassMap(["vehicle"], [9]), {"vehicle": 3})
    checked = read_data(config)
    assert checked.classes == splits.classes
    np.testing.assert_array_equal(checked.splits["train"].labels, splits.train.labels)


def test_the_cut_of_one_json_knows_the_choice(configure: Configure) -> None:
    splits = read_splits(configure("data.classes=[door]", "data.split.fractions=[0.5,0.5]"))
    assert splits.classes.names == ["door"]
    assert [splits.train.num_objects, splits.val.num_objects] == [2, 2]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("data.classes=[Door]", r"data\.classes names Door, a class that train/_.* has not; did you mean door\?"),
        ("data.classes=[xyz]", "it has bus, car, door, van, window"),
        ("data.classes=[]", "keeps no class"),
        ("data.merge={vehicle:[car,lorry]}", r"data\.merge names lorry"),
        ("data.merge={vehicle:[car,bus],big:[bus]}", "names a class twice"),
        ("data.merge={door:[car,bus]}", "calls two classes door"),
        ("data.rename={cra:auto}", r"data\.rename names cra.*did you mean car"),
        ("data.rename={car:bus}", "calls two classes bus"),
        ("data.rename={car:auto,bus:auto}", "calls two classes auto"),
        ("data.rename={car:'a\u0007'}", r"data\.rename calls a class 'a\\x07'; write a text of one line"),
        ("data.rename={car:''}", r"data\.rename calls a class ''; write a text of one line"),
        ("data.rename=[car]", r"write e\.g\. data\.rename=\{car: auto\}"),
        ("data.classes=[null]", r"data\.classes\[0\] is null; leave it out"),
    ],
)
def test_a_choice_that_cannot_be_is_told(configure: Configure, choice: str, message: str) -> None:
    for read in (read_splits, read_data):
        with pytest.raises(UserError, match=message):
            read(configure(choice))


def test_a_trained_model_is_scored_with_the_choice_of_its_training(configure: Configure, tmp_path: Path) -> None:
    trained = configure("data.merge={vehicle:[car,bus]}", "data.classes=[vehicle]")
    classes = read_splits(trained).classes
    other = with_choice(configure().data, trained.data)
    split, notes = read_split(other, "val", classes, with_masks=True)
    assert split.num_objects == 3
    assert any("door (4), window (4), van (0) are left out" in note for note in notes)
    assert with_choice(None, trained.data) is trained.data
    own = configure("data.rename={van:vehicle}").data
    assert with_choice(own, trained.data) is own


def test_names_that_a_scored_json_lacks_do_not_matter(configure: Configure, tmp_path: Path) -> None:
    roboflow(tmp_path / "data", small_coco(), small_coco())
    data = configure("data.merge={vehicle:[car,bus]}", "data.classes=[vehicle,door]").data
    split, _ = read_split(data, "val", ClassMap(["vehicle", "door"], [9, 3]), with_masks=True)
    assert split.labels[split.labels > 0].tolist() == [2] * 4


def test_the_choice_comes_back_from_overrides_and_checkpoints(configure: Configure) -> None:
    config = configure("data.merge={vehicle:[car,bus]}", "data.rename={traffic light:lamp}", "data.classes=[vehicle]")
    assert load_config(overrides_of(config, load_config())) == config
    assert config_from_plain(asdict(config)) == config
