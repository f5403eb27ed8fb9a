"""The built-in data set: reproducible, correctly labelled, and written all or nothing."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from maskrcnn_train.data import shapes
from maskrcnn_train.data.shapes import CATEGORIES, MAX_OBJECTS, ensure_shapes
from maskrcnn_train.settings.schema import ShapesConfig

# pycocotools 2.0.11 decodes masks in a way that NumPy 2 warns of; the package itself never decodes
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SECTION = ShapesConfig(num_train=60, num_val=6, num_test=5, image_size=96, seed=3)
SMALL = ShapesConfig(num_train=4, num_val=2, num_test=2, image_size=64, seed=0)
ENSURE_MANY = """
from pathlib import Path
from maskrcnn_train.settings.schema import ShapesConfig
from maskrcnn_train.data.shapes import ensure_shapes
ensure_shapes(ShapesConfig(num_train={count}, num_val=2, num_test=2, image_size=64, seed=0), Path({root!r}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_shapes(SECTION, tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def coco(folder: Path) -> COCO:
    return read(folder, "train")


def read(folder: Path, split: str) -> COCO:
    with redirect_stdout(io.StringIO()):
        return COCO(folder / "annotations" / f"{split}.json")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def masks_by_image(coco: COCO) -> list[list[tuple[dict[str, Any], np.ndarray]]]:
    return [[(entry, coco.annToMask(entry)) for entry in coco.imgToAnns[image_id]] for image_id in coco.imgs]


def has_hole(mask: np.ndarray) -> bool:
    """Whether the middle of the mask's box is background."""
    rows, columns = np.nonzero(mask)
    return not mask[(rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2]


def test_same_seed_same_bytes(folder: Path, tmp_path: Path) -> None:
    assert contents(ensure_shapes(SECTION, tmp_path)) == contents(folder)


def test_every_parameter_names_another_folder() -> None:
    changed = [ShapesConfig(**{**vars(SMALL), key: value + 1}) for key, value in vars(SMALL).items()]
    assert len({shapes.folder_name(section) for section in [SMALL, *changed]}) == 6


def test_splits_hold_different_images(folder: Path) -> None:
    images = [data for name, data in contents(folder).items() if name.endswith(".jpg")]
    assert len(images) == 71
    assert len(set(images)) == 71


def test_more_images_leave_the_first_ones_as_they_were(tmp_path: Path) -> None:
    few, many = ensure_shapes(SMALL, tmp_path), ensure_shapes(ShapesConfig(**{**vars(SMALL), "num_train": 6}), tmp_path)
    for path in (few / "train").iterdir():
        assert path.read_bytes() == (many / "train" / path.name).read_bytes()


@pytest.mark.parametrize(("split", "count"), [("train", 60), ("val", 6), ("test", 5)])
def test_pycocotools_reads_each_split(folder: Path, split: str, count: int) -> None:
    coco = read(folder, split)
    assert {category["id"]: category["name"] for category in coco.dataset["categories"]} == CATEGORIES
    assert len(coco.imgs) == count
    for image in coco.imgs.values():
        with Image.open(folder / split / image["file_name"]) as picture:
            assert (picture.mode, picture.size) == ("RGB", (image["width"], image["height"]))
    assert all(entry["iscrowd"] == 0 for entry in coco.anns.values())


def test_masks_are_visible_only(coco: COCO) -> None:
    for objects in masks_by_image(coco):
        assert sum((mask.astype(int) for _, mask in objects), np.zeros((96, 96), int)).max() <= 1


def test_box_and_area_are_those_of_the_mask(coco: COCO) -> None:
    for entry, mask in (each for objects in masks_by_image(coco) for each in objects):
        rows, columns = np.nonzero(mask)
        left, top, right, bottom = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        assert entry["bbox"] == [left, top, right - left, bottom - top]
        assert entry["area"] == mask.sum() >= shapes.MIN_VISIBLE_PIXELS


def test_every_class_and_both_kinds_of_mask_occur(coco: COCO) -> None:
    entries = list(coco.anns.values())
    assert {entry["category_id"] for entry in entries} == set(CATEGORIES)
    polygons = sum(isinstance(entry["segmentation"], list) for entry in entries)
    assert 0.2 < polygons / len(entries) < 0.8


def test_some_images_are_empty_and_none_is_crowded(coco: COCO) -> None:
    counts = [len(coco.imgToAnns[image_id]) for image_id in coco.imgs]
    assert 1 <= counts.count(0) <= 12
    assert 4 < max(counts) <= MAX_OBJECTS


def test_ring_has_a_hole_and_ellipse_has_none() -> None:
    for name, expected in (("ring", True), ("ellipse", False)):
        outlines = [unit * 7 + 16 for unit in shapes.unit_outlines(name)]  # the smallest size
        assert has_hole(shapes.rasterize(outlines, 32, (0, 0, 32, 32))) is expected


@pytest.mark.parametrize("name", CATEGORIES.values())
@pytest.mark.parametrize("radius", [7, 30])
def test_mask_is_where_half_the_pixel_is_covered(name: str, radius: int) -> None:
    outlines = [unit * radius + 40.3 for unit in shapes.unit_outlines(name)]
    box = (0, 0, 80, 80)
    mask, covered = shapes.rasterize(outlines, 80, box), shapes.coverage(outlines, 80, box) >= 0.5
    # an upright edge near the middle of a pixel may fall to either side along its whole length
    assert (mask & covered).sum() / (mask | covered).sum() > (0.96 if radius > 7 else 0.9)


def test_objects_stand_out_from_the_background(folder: Path, coco: COCO) -> None:
    differences = []
    for image, objects in zip(coco.imgs.values(), masks_by_image(coco), strict=True):
        pixels = np.asarray(Image.open(folder / "train" / image["file_name"]), dtype=float)
        empty = ~np.any([mask for _, mask in objects], axis=0) if objects else None
        differences += [np.abs(pixels[mask > 0].mean(0) - pixels[empty].mean(0)).max() for _, mask in objects]
    assert np.quantile(differences, 0.05) > 30


def test_second_call_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ensure_shapes(SMALL, tmp_path)
    monkeypatch.setattr(shapes, "draw_image", None)
    assert ensure_shapes(SMALL, tmp_path) == first


def test_failure_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shapes, "annotation", fail)
        with pytest.raises(OSError, match="No space left"):
            ensure_shapes(SMALL, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_killed_half_way_leaves_no_broken_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENSURE_MANY.format(count=100_000, root=str(tmp_path))]
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".*/train/*.jpg")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    unfinished = list(tmp_path.iterdir())
    assert len(unfinished) == 1
    assert unfinished[0].name.startswith(".")
    assert (ensure_shapes(SMALL, tmp_path) / "annotations" / "test.json").is_file()


def test_two_processes_at_once_make_one_good_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ENSURE_MANY.format(count=10, root=str(tmp_path / "new"))]
    processes = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    (folder,) = (tmp_path / "new").iterdir()
    assert len(read(folder, "train").imgs) == len(list((folder / "train").iterdir())) == 10


def test_the_race_is_lost_without_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / shapes.folder_name(SMALL)
    original = shapes.write_split

    def write_after_another_process_finished(*arguments: Any) -> None:
        original(*arguments)
        (folder / "train").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(shapes, "write_split", write_after_another_process_finished)
    assert ensure_shapes(SMALL, tmp_path) == folder
    assert list(tmp_path.iterdir()) == [folder]
