"""One data set in every format and read back: the same objects."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from labelled_data import Parts, differences, few_shapes, objects_of, parts_of, write
from small_model import SMALL

from maskrcnn_train import build_model, load_config
from maskrcnn_train.data.formats.registry import FORMATS
from maskrcnn_train.data.loading import build_loaders
from maskrcnn_train.data.splits.splitting import read_splits

BITMAPS = ("voc", "instance_png", "mask_png")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return few_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("given", ["auto", None])
def test_shapes_are_the_same_to_the_pixel_without_tolerance(
    shapes: Parts, format_: str, given: str | None, tmp_path: Path
) -> None:
    folder = write(shapes, format_, tmp_path / "out", tolerance=0)
    name = given or ("auto" if format_ == "coco" else format_)
    again = parts_of(name, folder)
    assert differences(objects_of(shapes), objects_of(again)) == (1.0, 0.0)
    assert sorted(again[1].names) == sorted(shapes[1].names)
    assert all(len(part.skipped) == 0 for part in again[0].values())


@pytest.mark.parametrize("format_", [name for name in FORMATS if name not in BITMAPS])
def test_outlines_are_within_the_tolerance(shapes: Parts, format_: str, tmp_path: Path) -> None:
    again = parts_of("auto", write(shapes, format_, tmp_path / "out", tolerance=0.3))
    iou, boxes = differences(objects_of(shapes), objects_of(again))
    assert iou >= 0.98
    assert boxes <= 0.5


def test_a_larger_tolerance_gives_fewer_points(shapes: Parts, tmp_path: Path) -> None:
    folders = [write(shapes, "yolo", tmp_path / str(tolerance), tolerance=tolerance) for tolerance in (0.0, 0.5, 2.0)]
    sizes = [sum(path.stat().st_size for path in folder.rglob("*.txt")) for folder in folders]
    assert sizes[0] > 1.5 * sizes[1] > 1.5 * sizes[2]


@pytest.mark.parametrize("format_", ["coco", "yolo", "cvat", "labelme", "label_studio"])
def test_facade_is_the_same_to_the_pixel(facade: Path, format_: str, tmp_path: Path) -> None:
    splits, classes = parts_of("roboflow", facade)
    splits["train"].rows, splits["val"].rows = splits["train"].rows[:4], splits["val"].rows[:2]
    again = parts_of("auto", write((splits, classes), format_, tmp_path / "out", tolerance=0.5))
    assert differences(objects_of((splits, classes)), objects_of(again)) == (1.0, 0.0)


def first_losses(format_: str, folder: Path) -> dict[str, float]:
    """Of the first batch of a training, by a model that the seed alone decides."""
    size = ["data.min_size=96", "data.max_size=96"]  # of the pictures: resized masks differ from resized outlines
    config = load_config([*SMALL, *size, f"data={format_}", f"data.root={folder}", "trainer.num_workers=0"])
    loaders = build_loaders(config)
    torch.manual_seed(config.seed)
    model = build_model(config, len(loaders.classes.names) + 1)
    return {name: float(loss.detach()) for name, loss in model(*next(iter(loaders.train))).items()}


def test_the_first_losses_are_equal_where_boxes_are_kept(shapes: Parts, tmp_path: Path) -> None:
    expected = first_losses("auto", write(shapes, "coco", tmp_path / "coco", tolerance=0))
    for format_ in BITMAPS:  # the others store outlines, whose boxes differ by less than a pixel
        again = first_losses(format_, write(shapes, format_, tmp_path / format_, tolerance=0))
        assert again == pytest.approx(expected, rel=1e-6), format_  # objects may come in another order


def test_a_training_reads_any_format_and_says_what_it_found(shapes: Parts, tmp_path: Path) -> None:
    folder = write(shapes, "cvat", tmp_path / "out", tolerance=0)
    splits = read_splits(load_config(["data=auto", f"data.root={folder}"]))
    assert splits.notes[0] == (
        f"data=auto: {folder} is CVAT for images 1.1: train 14 images, val 3 images, test 2 images"
    )
    assert splits.train.num_objects == shapes[0]["train"].num_objects


def test_the_index_is_cached_until_a_file_changes(shapes: Parts, tmp_path: Path, cache: Path) -> None:
    folder = write(shapes, "yolo", tmp_path / "out", tolerance=0)
    objects = parts_of("yolo", folder)[0]["train"].num_objects
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("meta.json")}
    parts_of("yolo", folder)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("meta.json")} == kept
    label = next(path for path in sorted((folder / "labels/train").glob("*.txt")) if path.stat().st_size)
    lines = label.read_text().splitlines()
    label.write_text("\n".join(lines[1:]))
    assert parts_of("yolo", folder)[0]["train"].num_objects == objects - 1


def test_one_part_needs_fractions(shapes: Parts, tmp_path: Path) -> None:
    only = {"train": shapes[0]["train"]}, shapes[1]
    folder = write(only, "labelme", tmp_path / "out", tolerance=0)
    settings = ["data=labelme", f"data.root={folder}"]
    with pytest.raises(ValueError, match=r"has no part for val, only train; cut it with data\.split\.fractions"):
        read_splits(load_config(settings))
    splits = read_splits(load_config([*settings, "data.split.fractions=[0.7,0.3]"]))
    assert (len(splits.train), len(splits.val)) == (10, 4)


def test_another_format_than_named_is_refused(shapes: Parts, tmp_path: Path) -> None:
    folder = write(shapes, "labelme", tmp_path / "out", tolerance=0)
    with pytest.raises(ValueError, match=r"is not YOLO segmentation; data=auto looks what it is"):
        parts_of("yolo", folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is in none of the known formats: COCO JSON; YOLO"):
        parts_of("auto", tmp_path / "empty")
