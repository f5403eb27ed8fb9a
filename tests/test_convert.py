"""`convert`: any format from any other, with the chosen classes, parts and images; nothing is lost without a word."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from labelled_data import differences, images_of, objects_of, parts_of
from PIL import Image
from small_coco import annotation, roboflow, small_coco

from maskrcnn_train.convert import convert
from maskrcnn_train.data.formats.pictures import picture_size
from maskrcnn_train.data.formats.registry import FORMATS
from maskrcnn_train.data.images import ORIENTATION
from maskrcnn_train.settings.command_rules import check_convert_rules
from maskrcnn_train.settings.command_schema import ConvertConfig
from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.structures.outlines import signed_area


def converted(root: Path, to: Path, *overrides: str) -> Path:
    given = [f"data.root={root}", f"output_dir={to}", *overrides]
    return convert(load_command_config("convert", ConvertConfig, check_convert_rules, given)[0])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    train = small_coco(4)
    runs = {"size": [40, 60], "counts": [410, 12, 28, 12, 1938]}
    train["annotations"].append(annotation(30, 1, 3, 10, 8, 2, bbox=[10, 10, 2, 12], segmentation=runs))
    train["annotations"].append(annotation(31, 3, 7, 1, 2, 7, segmentation=runs, iscrowd=1))
    return roboflow(tmp_path / "data", train, small_coco(2))


def names_of(root: Path) -> dict[str, list[list[str]]]:
    parts = images_of(parts_of("auto", root))
    return {part: [[each.name for each in image.objects] for image in images] for part, images in parts.items()}


def test_a_chain_of_formats_keeps_parts_images_and_objects(source: Path, tmp_path: Path) -> None:
    for number, format_ in enumerate(
        ("yolo", "labelme", "cvat", "label_studio", "voc", "mask_png", "instance_png", "coco")
    ):
        source = converted(source, tmp_path / str(number), f"format={format_}")
    found = names_of(source)
    assert {part: [sorted(names) for names in images] for part, images in found.items()} == {
        "train": [["door", "door", "window"], *3 * [["door", "window"]]],
        "val": 2 * [["door", "window"]],
    }


@pytest.mark.parametrize("format_", FORMATS)
def test_images_that_differ_only_in_their_ending_keep_their_own_labels(format_: str, tmp_path: Path) -> None:
    content = small_coco(4)
    for image, name in zip(content["images"], ("1.jpg", "1.png", "1.bmp", "1_2.png"), strict=True):
        image["file_name"] = name
    content["annotations"] = [each for each in content["annotations"] if each["id"] in (1, 4, 5, 6, 7)]
    source = roboflow(tmp_path / "data", content)
    found = images_of(parts_of("auto", converted(source, tmp_path / "out", f"format={format_}")))
    for part in ("train", "val"):
        images = list(found[part])
        assert all(each.path is not None and each.path.is_file() for each in images)
        names = sorted(sorted(each.name for each in image.objects) for image in images)
        assert names == [["door"], ["door"], ["door", "window"], ["window"]]


def test_areas_are_those_of_the_json_and_survive_cuts(tmp_path: Path) -> None:
    content = small_coco(1)
    content["annotations"] = [annotation(1, 1, 3, 5, 5, 30, area=201.5)]
    squares = [[5, 5, 15, 5, 15, 15, 5, 15], [25, 5, 25, 15, 35, 15, 35, 5]]  # that turn different ways
    content["annotations"][0] |= {"segmentation": squares, "bbox": [5, 5, 30, 10]}
    source = roboflow(tmp_path / "data", content)
    for format_, area in (("coco", 201.5), ("yolo", 200), ("label_studio", 200)):
        folder = converted(source, tmp_path / format_, f"format={format_}")
        assert parts_of("auto", folder)[0]["train"].index.areas.tolist() == [area]
    # by its points alone, as other programs compute it
    numbers = np.array((tmp_path / "yolo/labels/train/1.txt").read_text().split()[1:], float).reshape(-1, 2) * (60, 40)
    assert signed_area(numbers) == pytest.approx(200)


@pytest.mark.parametrize(("format_", "is_told"), [("yolo", True), ("mask_png", True), ("labelme", False)])
def test_images_that_a_format_does_not_find_by_their_ending_are_told(
    format_: str, is_told: bool, tmp_path: Path
) -> None:
    content = small_coco(2)
    content["images"][1]["file_name"] = "2.gif"
    log = converted(roboflow(tmp_path / "data", content), tmp_path / "out", f"format={format_}") / "convert.log"
    assert ("2 images cannot be found" in log.read_text()) is is_told  # one of train, one of val


@pytest.mark.parametrize("format_", ["mask_png", "instance_png", "voc"])
def test_boxes_that_cross_the_border_are_filled_inside_the_image(format_: str, tmp_path: Path) -> None:
    content = small_coco(1)  # 60 x 40 pixels
    boxes = [[-2, 10, 20, 30], [59.6, 3, 0.4, 6], [25, -4.5, 10, 9], [30, 38, 25, 9]]
    content["annotations"] = [annotation(n, 1, 3, 0, 0, 1, bbox=box) for n, box in enumerate(boxes, start=1)]
    for each in content["annotations"]:
        del each["segmentation"]
    folder = converted(roboflow(tmp_path / "data", content), tmp_path / "out", f"format={format_}")
    found = parts_of("auto", folder)[0]["train"].index.boxes
    assert sorted(found.tolist()) == [[0, 10, 18, 30], [25, 0, 10, 4], [30, 38, 25, 2], [59, 3, 1, 6]]


def test_crowd_regions_that_a_format_has_not_are_counted(source: Path, tmp_path: Path) -> None:
    log = (converted(source, tmp_path / "out", "format=cvat") / "convert.log").read_text()
    assert "1 crowd regions were left out: only COCO has them" in log
    parts, _ = parts_of("auto", converted(source, tmp_path / "coco", "format=coco"))
    assert parts["train"].index.crowd.sum() == 1


@pytest.mark.parametrize("format_", ["voc", "instance_png"])
def test_objects_that_others_hide_wholly_are_counted(format_: str, tmp_path: Path) -> None:
    content = small_coco(2)
    content["annotations"] += [annotation(30 + number, 1, 3, 2, 4, 30) for number in range(3)]  # only the last is seen
    folder = converted(roboflow(tmp_path / "data", content, small_coco(1)), tmp_path / "out", f"format={format_}")
    said = f"{format_}: 2 objects hidden by others, without a pixel of their own, were left out; first: 1.png"
    assert said in (folder / "convert.log").read_text()
    assert [len(names) for names in names_of(folder)["train"]] == [3, 2]


def test_pictures_of_another_size_than_their_labels_say_are_counted(source: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for number, size, more in ((1, (61, 40), {}), (2, (60, 40), {}), (3, (40, 60), {"exif": exif})):  # 3 is turned
        Image.new("RGB", size).save(source / f"train/{number}.png", **more)
    log = (converted(source, tmp_path / "out", "format=yolo") / "convert.log").read_text()
    assert "yolo: 2 pictures have another size than their labels say; first: 1.png" in log


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("several", [True, False])
def test_pictures_of_one_name_in_nested_folders_are_told_apart(format_: str, several: bool, tmp_path: Path) -> None:
    content, names = small_coco(4), ["a.png", "images/a.png", "images/train/a.png", "train/a.png"]
    for image, name in zip(content["images"], names, strict=True):
        image["file_name"] = name
    source = roboflow(tmp_path / "data", content)
    json = f"{source}/train/_annotations.coco.json"
    only = ["data=custom", f"data.train.annotations={json}", f"data.train.images={source}/train"]
    folder = converted(source, tmp_path / "out", f"format={format_}", *([] if several else only))
    parts, _ = parts_of("auto", folder)
    assert len(parts) == 1 + several
    found = sorted(map(parts["train"].index.file_name, range(4)))
    assert [name.removeprefix("train/" if several and format_ == "cvat" else "") for name in found] == names


def test_only_the_chosen_classes_and_parts_are_written(source: Path, tmp_path: Path) -> None:
    settings = ["data.rename={door: gate}", "data.classes=[gate]", "data.split.fractions=[0.5,0.5]"]
    found = names_of(converted(source, tmp_path / "out", "format=yolo", *settings))
    assert {part: len(images) for part, images in found.items()} == {"train": 2, "val": 2}
    assert {name for images in found.values() for names in images for name in names} == {"gate"}


def test_bitmaps_stay_such_without_tolerance(source: Path, tmp_path: Path) -> None:
    xml = {}
    for tolerance in (0, 0.5):
        folder = converted(source, tmp_path / str(tolerance), "format=cvat", f"tolerance={tolerance}")
        xml[tolerance] = (folder / "annotations.xml").read_text()
    assert (xml[0].count("<mask"), xml[0.5].count("<mask")) == (1, 0)
    assert xml[0.5].count("<polygon") == xml[0].count("<polygon") + 1


def test_images_are_copied_unless_told_otherwise(source: Path, tmp_path: Path) -> None:
    for copies, count in (("true", 6), ("false", 0)):
        folder = converted(source, tmp_path / copies, "format=cvat", f"copy_images={copies}")
        assert len(list(folder.rglob("*.png"))) == count


def test_missing_images_are_told_as_in_a_training(source: Path, tmp_path: Path) -> None:
    given = ["data=custom", f"data.train.annotations={source}/train/_annotations.coco.json", "format=yolo"]
    with pytest.raises(ValueError, match=r"nowhere does not exist; give the folder of the images"):
        converted(source, tmp_path / "out", *given, "data.train.images=nowhere")
    (source / "train/2.png").unlink()
    given.append(f"data.train.images={source}/train")
    with pytest.raises(
        ValueError, match=r"1 of 4 images named in .* are missing in .*, first: 2\.png\. Correct the folder"
    ):
        converted(source, tmp_path / "out", *given)
    assert not (tmp_path / "out").exists()
    folder = converted(source, tmp_path / "skip", *given, "data.on_bad_image=skip")
    assert "image file missing" in (folder / "convert.log").read_text()
    assert [len(list(folder.rglob(kind))) for kind in ("*.png", "labels/*/*.txt")] == [3, 3]
    folder = converted(source, tmp_path / "labels", *given, "copy_images=false", "data.train.images=nowhere")
    assert len(list(folder.rglob("labels/*/*.txt"))) == 4


def test_a_mistake_is_one_line(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"format=xml is not an option; choose one of coco, yolo"):
        converted(source, tmp_path / "out", "format=xml")
    with pytest.raises(ValueError, match=r"data\.min_size is a setting of the training and has no effect here"):
        converted(source, tmp_path / "out", "format=coco", "data.min_size=64")


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_objects_of_a_picture_labelled_as_it_is_stored_stay_on_it(format_: str, suffix: str, tmp_path: Path) -> None:
    content = small_coco(1)
    content["images"][0]["file_name"] = f"1{suffix}"
    source = roboflow(tmp_path / "data", content)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    turned = Image.Exif()
    turned[ORIENTATION] = 6  # other programs, which read no size from the labels, show it upright: 40 x 60
    Image.fromarray(pixels).save(source / "train" / f"1{suffix}", exif=turned, lossless=True)
    expected = parts_of("roboflow", source)
    again = parts_of("auto", converted(source, tmp_path / "out", f"format={format_}", "tolerance=0"))
    assert differences(objects_of(expected), objects_of(again)) == (1.0, 0.0)
    (before,), (after,) = (list(images_of(parts)["train"]) for parts in (expected, again))
    assert picture_size(after.path) == after.size == before.size
    with Image.open(before.path) as old, Image.open(after.path) as new:
        assert (np.asarray(old) == np.asarray(new)).all()
