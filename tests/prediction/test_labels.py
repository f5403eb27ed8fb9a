"""`predict save.formats=`: detections as a data set that label tools open, and that is read back to the same masks."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from commands import predicted as run
from labelled_data import images_of, parts_of
from PIL import Image
from pycocotools import mask as coco_mask

from maskrcnn_train.data.formats.labelled import DataSet, LabelledImage, LabelledObject
from maskrcnn_train.data.formats.writing import write_labels
from maskrcnn_train.structures.rle import compressed


@pytest.fixture(scope="module")
def checkpoint(run_dir: Path) -> Path:
    return run_dir / "checkpoints/last.pt"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "in/deep").mkdir(parents=True)
    for number, place in enumerate(("a.jpg", "deep/b.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / place)
    return tmp_path / "in"


@pytest.mark.parametrize("format_", ["coco", "labelme", "yolo", "cvat", "label_studio"])
def test_a_data_set_for_label_tools_reads_back_to_the_same_masks(
    checkpoint: Path, photos: Path, format_: str, tmp_path: Path
) -> None:
    found = run(checkpoint, photos, tmp_path / "out", f"save.formats=[{format_}]", "save.tolerance=0.3")
    parts = parts_of("auto", tmp_path / "out/labels" / format_)
    again = {image.file_name: image for images in images_of(parts).values() for image in images}
    assert len(again) == len(found.images)
    names = json.loads((tmp_path / "out/classes.json").read_text())["names"]
    assert {each.name for image in again.values() for each in image.objects} <= set(names)
    for image_id, (path, height, width) in found.images.items():
        (image,) = (each for name, each in again.items() if Path(path).as_posix().endswith(name))
        assert image.size == (height, width)
        own = [each["segmentation"] for each in found.results if each["image_id"] == image_id]
        own = [code for code in own if coco_mask.area(code)]
        codes = [compressed(each.segmentation, image.size) for each in image.objects]
        assert len(own) == len(codes)
        assert all(coco_mask.iou([a], [b], [0])[0, 0] > 0.98 for a, b in zip(own, codes, strict=True))


def test_detections_without_a_pixel_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    empty, one = ({"size": [70, 90], "counts": counts} for counts in ([70 * 90], [5, 1, 70 * 90 - 6]))
    objects = [LabelledObject("door", code, [0, 5, 1, 1], score=0.9) for code in (empty, one, empty)]
    data = DataSet({1: "door"}, {"predictions": [LabelledImage("a.jpg", (70, 90), objects)]}, copies=False)
    with caplog.at_level(logging.WARNING, logger="maskrcnn_train"):
        write_labels(tmp_path, "coco", data, tolerance=0)
    assert caplog.messages == ["coco: 2 objects without a pixel were left out; first: a.jpg"]


def test_labels_beside_other_pictures_are_found_without_copies(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    run(checkpoint, photos, tmp_path / "out", "save.formats=[labelme]", "save.copy_images=false")
    folder = tmp_path / "out/labels/labelme"
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} == {".json"}
    content = json.loads(next(folder.rglob("*.json")).read_text())
    assert (next(folder.rglob("*.json")).parent / content["imagePath"]).is_file()
