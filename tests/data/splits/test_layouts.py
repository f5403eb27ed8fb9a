"""Where labels and images of a split are, as a person says it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_coco import small_coco, write_images, write_json

from maskrcnn_train.data.splits.layouts import Source, given_files, locate
from maskrcnn_train.settings.compose import default_config
from maskrcnn_train.settings.schema import SplitPathsConfig


def located(root: Path, name: str, images: object, split: str = "train", **more: object) -> Source | None:
    given = {split: SplitPathsConfig(images=images, annotations=None)}
    return locate(replace(default_config().data, name=name, root=str(root), **given, **more), split)


@pytest.mark.parametrize("name", ["auto", "coco"])
def test_given_images_win_over_those_that_are_found(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "annotations/instances_train2017.json", small_coco(2))
    write_images(tmp_path / "train2017", small_coco(2))
    source = located(tmp_path, name, "elsewhere")
    assert source is not None
    assert source.images == Path("elsewhere")


@pytest.mark.parametrize("name", ["auto", "labelme"])
def test_images_are_refused_where_the_labels_say_where_they_are(tmp_path: Path, name: str) -> None:
    write_images(tmp_path, small_coco(1))
    write_json(tmp_path / "1.json", {"shapes": [], "imagePath": "1.png"})
    with pytest.raises(ValueError, match=r"data\.train\.images has no effect: LabelMe says itself where they are"):
        located(tmp_path, name, "elsewhere")


@pytest.mark.parametrize("name", ["auto", "coco", "custom"])
def test_images_without_labels_are_refused(tmp_path: Path, name: str) -> None:
    write_json(tmp_path / "annotations/instances_train2017.json", small_coco(2))
    with pytest.raises(ValueError, match=r"has no part for test|data\.test\.annotations"):
        located(tmp_path, name, "elsewhere", "test")
    assert located(tmp_path, name, None, "test") is None


def test_several_folders_of_images_need_several_files_of_labels(tmp_path: Path) -> None:
    write_json(tmp_path / "annotations/instances_train2017.json", small_coco(2))
    for name in ("auto", "coco"):
        with pytest.raises(ValueError, match=r"data\.train\.images names 2 folders for 1 files; give one for each"):
            located(tmp_path, name, ["a", "b"])


def test_keys_outside_of_a_section_are_named_without_a_dot(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^annotations=.* is in none of the known formats"):
        given_files([tmp_path], [], "train", "auto", "")
    with pytest.raises(ValueError, match=r"^images names 2 folders for 1 files"):
        given_files([tmp_path], [tmp_path, tmp_path], "train", "auto", "")
