"""Several files as one part of a data set: ids made good, classes matched by name, every object where it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from labelled_data import images_of, objects_of, parts_of, write
from small_coco import annotation, small_coco, write_images, write_json

from maskrcnn_train import load_config
from maskrcnn_train.data.coco.reader import open_index
from maskrcnn_train.data.formats.joining import join_indices
from maskrcnn_train.data.splits.splitting import Splits, read_splits


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Two JSONs with equal ids; the second has other category ids, one class more and a faulty box."""
    first, second = small_coco(3), small_coco(4)
    second["categories"] = [{"id": 3, "name": "window"}, {"id": 7, "name": "door"}, {"id": 9, "name": "gate"}]
    second["annotations"].append(annotation(50, 1, 9, 30, 20, 8))
    second["annotations"].append(annotation(51, 1, 9, 30, 20, 8, bbox=[1, 2, 3], segmentation=[]))
    for name, coco in (("a", first), ("b", second)):
        write_json(tmp_path / f"{name}.json", coco)
        write_images(tmp_path / name, coco)
    paths = {key: ",".join(str(tmp_path / f"{name}{end}") for name in "ab") for key, end in
             (("annotations", ".json"), ("images", ""))}  # fmt: skip
    return [f"data.{split}.{key}=[{value}]" for split in ("train", "val") for key, value in paths.items()]


def read(two: list[str], *more: str) -> Splits:
    return read_splits(load_config(["data=custom", *two, *more]))


def test_joined_files_have_unique_ids_and_classes_by_name(two: list[str]) -> None:
    train = read(two).train
    assert len(train) == 7
    assert len(set(train.index.image_ids.tolist())) == 7
    assert len(set(train.index.annotation_ids.tolist())) == train.index.num_annotations == 15
    assert [(each.id, each.name) for each in train.index.categories] == [(3, "door"), (7, "window"), (9, "gate")]
    assert [path.name for path in train.index.sources] == ["a.json", "b.json"]
    assert train.index.file_name(0) == "a/1.png"
    assert train.index.file_name(3) == "b/1.png"
    assert np.bincount(train.labels).tolist() == [0, 7, 7, 1]
    (row,) = train.skipped
    assert row.reason == "box is not four numbers"
    assert str(row.ids[0]).endswith("/b.json 51")


@pytest.mark.parametrize(("other", "first_id", "second_id"), [("window", 3, 7), ("window", 7, 12), ("door", 3, 7)])
def test_of_categories_with_one_name_each_keeps_its_objects(
    tmp_path: Path, other: str, first_id: int, second_id: int
) -> None:
    """The first is a super-category, as Roboflow writes it, without objects."""
    paths = []
    for name, ids in (("a", (3, 7)), ("b", (first_id, second_id))):
        coco = small_coco(3)
        names = zip((0, *ids), ("door", "door", other), strict=True)
        coco["categories"] = [{"id": number, "name": text} for number, text in names]
        for each in coco["annotations"]:
            each["category_id"] = dict(zip((3, 7), ids, strict=True))[each["category_id"]]
        paths.append(write_json(tmp_path / f"{name}.json", coco))
    joined = join_indices([open_index(path) for path in paths], [tmp_path, tmp_path])
    assert np.bincount(joined.category_ids).tolist() == [0, 0, 0, 6, 0, 0, 0, 6]


def test_every_object_stays_where_it_was(two: list[str], tmp_path: Path) -> None:
    joined = read(two)
    parts = {"train": joined.train}, joined.classes
    found = [image for images in images_of(parts).values() for image in images]
    for image in found:
        side = [12, 10, 8]
        for each in image.objects:
            assert each.box is not None
            assert each.box[2] in side
            x, y, w, h = each.box
            assert np.array(each.segmentation).reshape(-1, 2).tolist() == [
                [x, y],
                [x + w, y],
                [x + w, y + h],
                [x, y + h],
            ]
    assert [image.path.is_file() for image in found if image.path] == [True] * 7


def test_joined_files_are_cached_and_read_again_when_one_changes(two: list[str], tmp_path: Path) -> None:
    first = read(two).train.index
    assert first.folder is not None
    assert read(two).train.index.folder == first.folder
    write_json(tmp_path / "a.json", small_coco(2))
    assert read(two).train.index.num_images == 6


def test_one_folder_of_images_may_be_for_all(tmp_path: Path) -> None:
    coco = small_coco(4)
    for name in "ab":
        write_json(tmp_path / f"{name}.json", coco)
    images = write_images(tmp_path / "images", coco)
    paths = f"data.train.annotations=[{tmp_path}/a.json,{tmp_path}/b.json]", f"data.train.images={images}"
    config = load_config(["data=custom", *paths, "data.split.fractions=[0.5,0.5]"])
    assert [len(split) for split in read_splits(config).by_name.values()] == [4, 4]


def test_files_of_two_formats_are_joined(two: list[str], tmp_path: Path) -> None:
    splits = read(two)
    other = write(({"train": splits.train}, splits.classes), "yolo", tmp_path / "yolo", tolerance=0)
    key = f"data.train.annotations=[{tmp_path}/a.json,{other}]"
    with pytest.raises(ValueError, match=r"data\.train\.images has no effect: YOLO segmentation says itself"):
        read([*two, key])
    both = f"data.train.annotations=[{other},{other}]"
    joined = read_splits(load_config(["data=auto", both, "data.split.fractions=[0.5,0.5]"]))
    assert joined.train.index.num_images == 14


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["data.train.images=[x,y,z]"], r"data\.train\.images names 3 folders for 2 files"),
        (["data.train.annotations=[]"], r"data\.train\.annotations=\[\] is neither a path nor a list of paths"),
    ],
)
def test_a_mistake_is_one_line(two: list[str], settings: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read(two, *settings)


def test_a_part_in_another_folder_is_taken_by_its_name(two: list[str], tmp_path: Path) -> None:
    splits = read(two)
    both = {"train": splits.train, "val": splits.val}, splits.classes
    folder = write(both, "yolo", tmp_path / "yolo", tolerance=0)
    config = load_config(["data=yolo", f"data.train.annotations={folder}", f"data.val.annotations={folder}/data.yaml"])
    again = read_splits(config)
    parts = {"train": again.train, "val": again.val}, again.classes
    assert objects_of(parts).keys() == objects_of(parts_of("auto", folder)).keys()
