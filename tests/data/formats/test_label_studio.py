"""What Label Studio's tasks have of their own: addresses, percent, skipped and several annotations, brushes, scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_data import areas, images_of, parts_of
from PIL import Image

from maskrcnn_train import load_config
from maskrcnn_train.data.formats.label_studio import find, write
from maskrcnn_train.data.formats.labelled import DataSet, LabelledImage, LabelledObject
from maskrcnn_train.data.splits.splitting import read_parts
from maskrcnn_train.structures.brushes import unpack

HEIGHT, WIDTH = 40, 60
SQUARE = {"points": [[10, 10], [50, 10], [50, 50], [10, 50]]}  # 24 x 16 pixels


def region(kind: str, value: dict[str, Any], label: str | None = "door", **more: object) -> dict[str, Any]:
    labels = {} if label is None else {f"{kind}labels": [label]}
    size = {"original_width": WIDTH, "original_height": HEIGHT}
    return {"id": "r", "type": f"{kind}labels", "value": value | labels, **size, **more}


def task(address: str, *results: dict[str, Any], **more: object) -> dict[str, Any]:
    return {"id": 1, "annotations": [{"result": list(results), **more}], "data": {"image": address}}


def tasks(root: Path, *content: dict[str, Any], pictures: tuple[str, ...] = ("a.png",)) -> Path:
    for name in pictures:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images" / name)
    (root / "project-1-at-noon.json").write_text(json.dumps(content))
    return root


def read(root: Path) -> tuple[list[LabelledImage], dict[str, tuple[int, bool]]]:
    """The images, and how many regions are not used for what reason, and whether they are left out."""
    parts = parts_of("label_studio", root)
    images = list(images_of(parts)["train"])
    return images, {row.reason: (row.count, row.dropped) for row in parts[0]["train"].skipped}


def brush(mask: np.ndarray) -> list[int]:
    """A mask as one run, one block of single values, and runs of one length for the rest."""
    values = np.repeat(mask.astype(np.uint8).ravel() * 255, 4).tolist()
    bits = f"{len(values):032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    bits += "1" + "11" + f"{99:016b}" + f"{values[0]:08b}"
    bits += "0" + "10" + f"{99:08b}" + "".join(f"{value:08b}" for value in values[100:200])
    for start in range(200, len(values), 4):
        bits += "1" + "00" + f"{3:03b}" + f"{values[start]:08b}"
    return [int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8)]


def test_every_region_with_an_area_is_read(tmp_path: Path) -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[5:15, 20:50] = True
    box = {"x": 50, "y": 50, "width": 20, "height": 10}
    results = [
        region("polygon", SQUARE),
        region("brush", {"format": "rle", "rle": brush(mask)}, "window"),
        region("ellipse", {"x": 50, "y": 50, "radiusX": 20, "radiusY": 30, "rotation": 0}),
        region("rectangle", box | {"rotation": 0}),
        region("rectangle", box | {"rotation": 90}),
        region("keypoint", {"x": 10, "y": 10, "width": 0.5}),
        region("polygon", SQUARE, None, id="alone"),
        region("polygon", {"points": [[10, 10], [20, "x"]]}),
        region("polygon", SQUARE, image_rotation=90),
        {"type": "choices", "value": {"choices": ["blurred"]}},
    ]
    (image,), unused = read(tasks(tmp_path, task("/data/local-files/?d=images%2Fa.png", *results)))
    assert [each.name for each in image.objects] == ["door", "window", "door", "door", "door"]
    assert areas(image)[:2] == [24 * 16, 10 * 30]
    assert areas(image)[2] == pytest.approx(np.pi * 12 * 12, rel=0.02)
    assert image.objects[3].box == pytest.approx([30, 20, 12, 4])
    assert image.objects[4].box == pytest.approx([26, 20, 4, 12])  # turned around its first corner
    assert unused == {
        "keypointlabels: no area": (1, True),
        "choices: no area": (1, True),
        "a region without a label": (1, True),
        "polygonlabels that cannot be read": (1, True),
        "a region of a picture that was turned in Label Studio": (1, True),
    }


def test_a_label_may_be_in_another_result_of_its_region(tmp_path: Path) -> None:
    outline = region("polygon", SQUARE, None) | {"type": "polygon"}
    label = {"id": "r", "type": "labels", "value": SQUARE | {"labels": ["door"]}}
    (image,), unused = read(tasks(tmp_path, task("a.png", outline, label)))
    assert ([each.name for each in image.objects], areas(image), unused) == (["door"], [24 * 16], {})


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/3/0123abcd-a.png", "a.png"),
        ("s3://bucket/deep/a.png", "deep/a.png"),
        ("https://host/x/a%20b.png?X-Amz-Signature=1", "a b.png"),
        ("/data/local-files/?d=/mnt/photos/deep/a.png", "deep/a.png"),
        ("../../a.png", "a.png"),
    ],
)
def test_the_picture_is_found_by_the_end_of_its_address(address: str, name: str, tmp_path: Path) -> None:
    root = tasks(tmp_path, task(address, region("polygon", SQUARE)), pictures=(name,))
    assert [image.file_name for image in read(root)[0]] == [name]


def test_tasks_whose_picture_is_called_images_are_no_coco_json(tmp_path: Path) -> None:
    square = region("polygon", SQUARE)
    root = tasks(tmp_path, task("", square) | {"data": {"images": "/upload/a.png"}})
    assert [image.file_name for image in images_of(parts_of("auto", root))["train"]] == ["a.png"]


def test_skipped_and_open_tasks_are_not_used_and_named(tmp_path: Path) -> None:
    skipped, opened = task("b.png", was_cancelled=True), {"data": {"image": "c.png"}, "annotations": []}
    used = task("a.png", region("polygon", SQUARE)), task("d.png")
    root = tasks(tmp_path, *used, skipped, opened, pictures=("a.png", "b.png", "c.png", "d.png"))
    images, _ = read(root)
    assert [(image.file_name, len(image.objects)) for image in images] == [("a.png", 1), ("d.png", 0)]
    assert find(root)["train"].note.endswith("2 of 4 tasks have no annotation; their images are not used")


def test_of_several_annotations_the_ground_truth_or_the_last_counts(tmp_path: Path) -> None:
    several = task("a.png", region("polygon", SQUARE, "first"), ground_truth=True)
    several["annotations"].append({"result": [region("polygon", SQUARE, "second")]})
    (image,), unused = read(tasks(tmp_path, several))
    assert [each.name for each in image.objects] == ["first"]
    assert unused == {"several annotations: the ground truth or the last is read": (1, False)}
    del several["annotations"][0]["ground_truth"]
    assert [each.name for each in read(tasks(tmp_path, several))[0][0].objects] == ["second"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([task("a.png"), task("a.png")], r"a\.png is the picture of several tasks; remove all but one"),
        ([{"id": 7, "data": {"text": "hello"}, "annotations": [{"result": []}]}], r"\(id 7\) whose data names no pic"),
        ([{"data": {"image": "a.png"}, "annotations": [{"result": 7}]}], r"has no categories"),
        ([task("a.png"), 3], r"is not a list of Label Studio's tasks"),
        ([task("a.png", region("polygon", SQUARE, original_width=-1))], r"a\.png has size -1 x 40"),
    ],
)
def test_faults_of_a_task_are_one_line(content: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read(tasks(tmp_path, *content))


def test_detections_are_predictions_with_scores_and_classes_in_the_interface(tmp_path: Path) -> None:
    square = LabelledObject("a<b", [[6.0, 4.0, 30.0, 4.0, 30.0, 20.0, 6.0, 20.0]], score=0.75)
    images = [LabelledImage("x y.png", (HEIGHT, WIDTH), [square]), LabelledImage("z.png", (HEIGHT, WIDTH))]
    write(tmp_path, DataSet({1: "a<b"}, {"predictions": images}, copies=False, detected=True), tolerance=0)
    assert find(tmp_path)["train"].note.endswith("no task has an annotation; the predictions are read in their place")
    first, second = json.loads((tmp_path / "tasks.json").read_text())
    assert first["data"] == {"image": "/data/local-files/?d=x%20y.png"}
    assert "annotations" not in first | second
    assert (first["predictions"][0]["score"], second["predictions"][0]["result"]) == (0.75, [])
    (result,) = first["predictions"][0]["result"]
    assert (result["score"], result["type"], result["value"]["polygonlabels"]) == (0.75, "polygonlabels", ["a<b"])
    assert result["value"]["points"] == [[10, 10], [50, 10], [50, 50], [10, 50]]
    assert '<Label value="a&lt;b"/>' in (tmp_path / "label_config.xml").read_text()


@pytest.mark.parametrize("cut", [2, 5, 20])
def test_a_damaged_brush_is_refused(cut: int) -> None:
    packed = brush(np.ones((4, 60), bool))
    assert unpack(packed, 960).tolist() == [255] * 960
    assert unpack([0, 0, 0, 100, *packed[4:10]], 100).tolist() == [255] * 100  # its last bit is the last of a byte
    with pytest.raises(ValueError, match="a brush that ends too soon"):
        unpack(packed[:-cut], 960)
    with pytest.raises(ValueError, match="a brush of another picture"):
        unpack(packed, 961)


def test_pictures_elsewhere_are_named_or_told_in_one_line(tmp_path: Path) -> None:
    root = tasks(tmp_path / "labels", task("/data/upload/1/0123abcd-b.png", region("polygon", SQUARE)))
    assert find(root)["train"].note == ""
    with pytest.raises(ValueError, match=r"b\.png is nowhere below .*images; put it there, or name its folder by data"):
        read(root)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "b.png")
    config = load_config(["data=label_studio", f"data.root={root}", f"data.train.images={tmp_path}"])
    parts, *_ = read_parts(config.data, with_images=True)
    assert parts["train"].index.file_name(0) == "b.png"


def test_several_files_of_one_part_are_joined_as_the_message_says(tmp_path: Path) -> None:
    root = tasks(tmp_path, task("a.png", region("polygon", SQUARE)))
    (root / "project-2.json").write_text(json.dumps([task("b.png", region("polygon", SQUARE))]))
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "images/b.png")
    for data in ("auto", "label_studio"):
        given = [f"data={data}", f"data.root={root}", "data.split.fractions=[0.5,0.5]"]
        with pytest.raises(ValueError, match="several JSONs may be the train part; name them: ") as error:
            read_parts(load_config(given).data, with_images=True)
        named = str(error.value).partition("name them: ")[2].split()
        parts, *_ = read_parts(load_config([*given[1:], *named]).data, with_images=True)
        assert [parts["train"].index.file_name(image) for image in range(2)] == ["a.png", "b.png"]
