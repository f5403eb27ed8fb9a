"""What each format has beyond an outline: boxes, groups, circles, bitmaps, lists, colours; and what is no object."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from labelled_data import areas, images_of, parts_of, write
from PIL import Image

from maskrcnn_train import load_config
from maskrcnn_train.data.formats.labelled import LabelledImage
from maskrcnn_train.data.formats.masks import bitmap_of
from maskrcnn_train.data.formats.voc import palette
from maskrcnn_train.data.splits.splitting import read_parts, read_splits
from maskrcnn_train.settings.compose import default_config
from maskrcnn_train.settings.errors import UserError

SIZE = (40, 60)


def picture(path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1]).save(path, **options)
    return path


def read_one(name: str, root: Path) -> tuple[LabelledImage, list[tuple[str, int, bool]]]:
    """The only image of a data set, and what is not used: (reason, count, left out)."""
    parts = parts_of(name, root)
    (image,) = images_of(parts)["train"]
    return image, [(row.reason, row.count, row.dropped) for row in parts[0]["train"].skipped]


def yolo(root: Path, *lines: str) -> Path:
    picture(root / "images/train/a.png")
    (root / "labels/train").mkdir(parents=True)
    (root / "labels/train/a.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text("train: images/train\nnames: [door, window]\n")
    return root


def test_yolo_reads_outlines_boxes_and_names_the_lines_it_cannot(tmp_path: Path) -> None:
    square = "0 0.1 0.1 0.5 0.1 0.5 0.5 0.1 0.5"
    image, unused = read_one("yolo", yolo(tmp_path, square, "", "1 0.5 0.5 0.2 0.4", "0 1 2 3", "x y", square + " 0.9"))
    assert [each.name for each in image.objects] == ["door", "window"]
    assert areas(image) == [24 * 16, 0]
    assert image.objects[1].box == pytest.approx([24, 12, 12, 16])
    assert unused == [
        ("line is neither a box (5 numbers) nor an outline (7, 9, ...)", 2, True),
        ("line is not a class and numbers", 1, True),
    ]


def test_yolo_names_file_and_line_of_an_unknown_class(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"labels/train/a\.txt line 2 has class 7; .*data\.yaml names the classes 0 to 1"
    ):
        parts_of("yolo", yolo(tmp_path, "", "7 0.5 0.5 0.2 0.4"))


@pytest.mark.parametrize("names", ["2", "true", "door", "2026-01-01"])
def test_yolo_refuses_names_that_are_no_list(tmp_path: Path, names: str) -> None:
    root = yolo(tmp_path, "0 0.5 0.5 0.2 0.4")
    (root / "data.yaml").write_text(f"train: images/train\nnames: {names}\n")
    with pytest.raises(ValueError, match=r"data\.yaml: `names` should be a list, or a name for each number from 0"):
        parts_of("yolo", root)


def test_yolo_reads_the_box_of_a_line_with_keypoints(tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.5 0.5 0.2 0.4 0.1 0.1 0.2 0.3", "1 0.5 0.5 0.2 0.4", "1 0.5 0.5")
    (root / "data.yaml").write_text("train: images/train\nnames: [door, window]\nkpt_shape: [2, 2]\n")
    image, unused = read_one("yolo", root)
    assert [(each.name, each.segmentation) for each in image.objects] == [("door", None), ("window", None)]
    assert image.objects[0].box == image.objects[1].box == pytest.approx([24, 12, 12, 16])
    assert {reason[:9]: dropped for reason, _, dropped in unused} == {"keypoints": False, "line is n": True}


def test_a_box_has_no_mask(tmp_path: Path) -> None:
    root = yolo(tmp_path, "1 0.5 0.5 0.2 0.4")
    settings = ["data=yolo", f"data.root={root}", f"data.val.annotations={root}/data.yaml"]
    with pytest.raises(ValueError, match=r"have no segmentation, first: .*a\.txt line 1; .*mask_head=none"):
        read_splits(load_config(settings))
    assert read_splits(load_config([*settings, "mask_head=none"])).train.num_objects == 1


def test_yolo_finds_pictures_by_lists_and_names_without_data_yaml(tmp_path: Path) -> None:
    root = yolo(tmp_path / "list", "0 0.5 0.5 0.2 0.4")
    (root / "data.yaml").write_text("path: .\ntrain: train.txt\nnames: {0: door}\n")
    (root / "train.txt").write_text("data/images/train/a.png\n")  # as CVAT writes it
    assert [each.name for each in read_one("auto", root)[0].objects] == ["door"]
    root = yolo(tmp_path / "names", "1 0.5 0.5 0.2 0.4")
    (root / "data.yaml").unlink()
    (root / "classes.txt").write_text("door\nwindow\n")  # as Label Studio writes it
    assert [each.name for each in read_one("auto", root)[0].objects] == ["window"]


def test_yolo_written_here_is_read_from_any_folder(tmp_path: Path) -> None:
    parts = parts_of("yolo", yolo(tmp_path / "data", "1 0.5 0.5 0.2 0.4"))
    written = write(parts, "yolo", tmp_path / "out", tolerance=0)
    assert "path" not in yaml.safe_load((written / "data.yaml").read_text())  # Ultralytics: from the folder it runs in


def test_yolo_refuses_a_name_for_two_classes(tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.5 0.5 0.2 0.4")
    (root / "data.yaml").write_text("train: images/train\nnames: [car, car]\n")
    with pytest.raises(UserError, match="`names` has car twice"):
        read_one("yolo", root)


def test_a_part_of_yolo_with_the_images_of_train_is_none(tmp_path: Path) -> None:
    written = write(
        parts_of("yolo", yolo(tmp_path / "data", "1 0.5 0.5 0.2 0.4")), "yolo", tmp_path / "out", tolerance=0
    )
    content = (written / "data.yaml").read_text()
    assert yaml.safe_load(content)["val"] == "images/train"  # Ultralytics needs the key
    picture(written / "images/test/b.png")
    (written / "data.yaml").write_text(f"{content}test: images/test\n")
    data = replace(default_config().data, name="auto", root=str(written))
    parts, _, notes = read_parts(data, with_images=True)
    assert [*parts] == ["train", "test"]
    assert f"{written}/data.yaml: val is no part: it names the images of train" in notes


def test_lists_of_yolo_may_leave_their_folder(tmp_path: Path) -> None:
    root = yolo(tmp_path / "data", "0 0.5 0.5 0.2 0.4")
    picture(tmp_path / "data/more/b.png")
    (root / "data.yaml").write_text("train: train.txt\nnames: [door]\n")
    (root / "train.txt").write_text("./images/train/a.png\n../data/more/b.png\n../data/images/train/a.png\n")
    (images,) = (list(own) for own in images_of(parts_of("yolo", root)).values())
    assert [(each.file_name, len(each.objects)) for each in images] == [("images/train/a.png", 1), ("more/b.png", 0)]


def test_the_area_of_an_outline_with_a_cut_is_that_of_its_pixels(tmp_path: Path) -> None:
    # two squares that turn different ways, hanging together as Ultralytics converts COCO's parts
    line = [(6, 4), (16, 4), (16, 14), (6, 14), (6, 4), (30, 4), (30, 14), (40, 14), (40, 5), (30, 4), (6, 4)]
    text = " ".join(f"{x / 60} {y / 40}" for x, y in line)
    parts = parts_of("yolo", yolo(tmp_path, f"0 {text}"))
    (image,) = images_of(parts)["train"]
    assert parts[0]["train"].index.areas.tolist() == areas(image)
    assert 180 < areas(image)[0] < 200


def test_what_other_tools_leave_in_folders_is_no_data(tmp_path: Path) -> None:
    root = yolo(tmp_path / "yolo", "0 0.5 0.5 0.2 0.4")
    picture(root / "images/train/.ipynb_checkpoints/a-checkpoint.png")
    (root / "images/train/._a.png").write_bytes(b"of macOS")
    assert read_one("yolo", root)[0].file_name == "a.png"
    root = labelme(tmp_path / "labelme", shape("rectangle", [1, 1], [9, 9]))
    (root / "._a.json").write_bytes(b"\0of macOS")
    (root / "b.json").symlink_to(root / "nowhere.json")
    assert read_one("labelme", root)[0].file_name == "a.png"


def labelme(root: Path, *shapes: dict, **more: object) -> Path:
    picture(root / "a.png")
    content = {"shapes": list(shapes), "imagePath": "a.png", "imageHeight": SIZE[0], "imageWidth": SIZE[1], **more}
    (root / "a.json").write_text(json.dumps(content))
    return root


def shape(kind: str, *points: list[float], label: str = "door", **more: object) -> dict:
    return {"label": label, "shape_type": kind, "points": list(points), **more}


def test_a_picture_that_comes_later_is_found(tmp_path: Path) -> None:
    root = labelme(tmp_path, shape("rectangle", [1, 1], [9, 9]), imagePath="a.jpg")
    (root / "a.png").unlink()
    assert read_one("labelme", root)[0].file_name == "a.jpg"
    picture(root / "a.png")
    assert read_one("labelme", root)[0].file_name == "a.png"


@pytest.mark.parametrize("name", ["#door", "a:b", "background"])
def test_voc_refuses_names_that_its_file_cannot_hold(tmp_path: Path, name: str) -> None:
    root = labelme(tmp_path, shape("rectangle", [1, 1], [9, 9], label=name))
    with pytest.raises(UserError, match=f"cannot name a class '{name}'"):
        write(parts_of("labelme", root), "voc", tmp_path / "out", tolerance=0)


def test_mask_png_refuses_classes_too_long_for_the_name_of_a_file(tmp_path: Path) -> None:
    parts = parts_of("labelme", labelme(tmp_path, shape("rectangle", [1, 1], [9, 9], label="\u7a93" * 27)))
    with pytest.raises(UserError, match=r"is too long for the names of mask_png's files; rename it: data\.rename"):
        write(parts, "mask_png", tmp_path / "out", tolerance=0)


def test_labelme_reads_every_shape_with_an_area(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 1, 1], [1, 1, 0]], bool)).save(file, format="PNG")
    code = base64.b64encode(file.getvalue()).decode()
    root = labelme(
        tmp_path,
        shape("polygon", [2, 2], [12, 2], [12, 12], [2, 12]),
        shape("rectangle", [30, 20], [20, 10]),
        shape("circle", [30, 20], [36, 28]),
        shape("mask", [5, 6], [7, 7], mask=code),
        shape("linestrip", [1, 1], [9, 9]),
        shape("circle", [1, 1]),
        shape("circle", ["x", 1], [9, 9]),
        imageHeight=None,
        imagePath=5,  # no text: the picture beside it
    )
    image, unused = read_one("labelme", root)
    assert areas(image) == [100, 100, pytest.approx(np.pi * 100, rel=0.02), 4]
    assert bitmap_of(image.objects[3], image.size)[:2] == (5, 6)
    assert {reason: dropped for reason, _, dropped in unused} == {
        "a shape without an area": True,
        "circle without the points that it needs": True,
        "rectangle: its whole area is the mask": False,
    }


def test_labelme_joins_the_shapes_of_one_label_and_group(tmp_path: Path) -> None:
    squares = [[[x, 2], [x + 8, 2], [x + 8, 10], [x, 10]] for x in (2, 20, 40)]
    groups = [
        shape("polygon", *squares[0], group_id=1),
        shape("polygon", *squares[1], group_id=1),
        shape("polygon", *squares[2], label="window", group_id=1),
        shape("polygon", *squares[2]),
    ]
    image, _ = read_one("labelme", labelme(tmp_path, *groups))
    assert [(each.name, area) for each, area in zip(image.objects, areas(image), strict=True)] == [
        ("door", 128),
        ("window", 64),
        ("door", 64),
    ]


def test_a_shape_of_labelme_whose_type_is_no_text_is_left_out(tmp_path: Path) -> None:
    corners = [2, 2], [12, 2], [12, 12]
    shapes = [shape(kind, *corners) for kind in (["polygon"], {"polygon": 1}, "polygon")]
    image, unused = read_one("labelme", labelme(tmp_path, *shapes))
    assert (len(image.objects), unused) == (1, [("a shape without an area", 2, True)])


def test_spaces_around_a_label_of_labelme_make_no_class(tmp_path: Path) -> None:
    shapes = [shape("rectangle", [2, 2], [9, 9], label=label) for label in ("door", " door ")]
    image, _ = read_one("labelme", labelme(tmp_path, *shapes))
    assert [each.name for each in image.objects] == ["door", "door"]


def test_files_of_labelme_outside_of_its_parts_are_named(tmp_path: Path) -> None:
    square = shape("rectangle", [1, 1], [9, 9])
    for folder in ("", "train", "val"):
        labelme(tmp_path / folder, square)
    (tmp_path / "classes.json").write_text("{}")
    parts, _, notes = read_parts(replace(default_config().data, name="labelme", root=str(tmp_path)), with_images=True)
    assert [*parts] == ["train", "val"]
    assert notes == [f"LabelMe's files outside of train, val are not used; first: {tmp_path}/a.json"]


def test_labelme_finds_pictures_in_another_folder(tmp_path: Path) -> None:
    root = labelme(tmp_path / "data/labels", shape("polygon", [2, 2], [12, 2], [12, 12]), imagePath="..\\photos\\b.png")
    picture(tmp_path / "data/photos/b.png")
    assert read_one("labelme", root)[0].file_name == "photos/b.png"


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels>{labels}</labels></task></meta>
<image id="0" name="a.png" width="60" height="40">{shapes}</image></annotations>"""


def cvat(root: Path, *shapes: str) -> Path:
    picture(root / "images/a.png")
    labels = "".join(f"<label><name>{name}</name></label>" for name in ("door", "window"))
    (root / "annotations.xml").write_text(CVAT.format(labels=labels, shapes="".join(shapes)))
    return root


def test_pictures_of_labelme_may_be_links(tmp_path: Path) -> None:
    root = labelme(tmp_path / "data", shape("rectangle", [1, 1], [9, 9]))
    (root / "a.png").rename(tmp_path / "stored")
    (root / "a.png").symlink_to(tmp_path / "stored")
    assert read_one("labelme", root)[0].file_name == "a.png"


def test_a_damaged_file_of_labelme_is_named_whichever_it_is(tmp_path: Path) -> None:
    root = labelme(tmp_path, shape("rectangle", [1, 1], [9, 9]))
    (root / "0.json").write_text('{"shapes": [')
    with pytest.raises(UserError, match=r"0\.json is not JSON"):
        read_one("auto", root)


def test_a_picture_of_cvat_is_first_looked_for_in_the_folder_of_its_subset(tmp_path: Path) -> None:
    head = f'width="{SIZE[1]}" height="{SIZE[0]}" subset="train"'
    for name in ("a.png", "train/a.png"):
        picture(tmp_path / "images/train" / name)
    images = "".join(
        f'<image id="{number}" name="{name}" {head}/>' for number, name in enumerate(("a.png", "train/a.png"))
    )
    meta = "<meta><task><labels><label><name>door</name></label></labels></task></meta>"
    (tmp_path / "annotations.xml").write_text(f"<annotations>{meta}{images}</annotations>")
    found = images_of(parts_of("cvat", tmp_path))["train"]
    assert [each.file_name for each in found] == ["train/a.png", "train/train/a.png"]


def test_cvat_reads_every_shape_with_an_area(tmp_path: Path) -> None:
    image, unused = read_one(
        "cvat",
        cvat(
            tmp_path,
            '<polygon label="door" points="2,2;12,2;12,12;2,12"/>',
            '<box label="window" xtl="3" ytl="4" xbr="13" ybr="24" group_id="4"/>',
            '<ellipse label="door" cx="30" cy="20" rx="10" ry="5" rotation="90"/>',
            '<mask label="door" rle="1, 3, 2" left="50" top="30" width="3" height="2"/>',
            '<polygon label="door" points="20,30;24,30;24,34;20,34" group_id="3"/>',
            '<polygon label="door" points="30,30;34,30;34,34;30,34" group_id="3"/>',
            '<box label="window" xtl="3" ytl="4" xbr="13" ybr="24" group_id="4"/>',  # no mask to join
            '<polyline label="door" points="1,1;2,2"/>',
            '<mask label="door" rle="1, 3" left="50" top="30" width="3" height="2"/>',
            '<polygon label="door" points="1,1;2"/>',
        ),
    )
    assert areas(image) == [100, 0, pytest.approx(np.pi * 50, rel=0.03), 3, 32, 0]
    assert image.objects[1].box == [3, 4, 10, 20]
    x0, y0, bitmap = bitmap_of(image.objects[3], image.size)
    assert (x0, y0, bitmap.tolist()) == (50, 30, [[0, 1, 1], [1, 0, 0]])
    assert bitmap_of(image.objects[2], image.size)[2].shape == (20, 10)
    assert {reason for reason, *_ in unused} == {
        "polyline: no area",
        "mask: run lengths that do not fill their box",
        "polygon is not a list of three or more points",
    }


def test_cvat_names_the_label_that_its_head_lacks_and_the_line_of_broken_xml(tmp_path: Path) -> None:
    root = cvat(tmp_path / "a", '<polygon label="gate" points="1,1;9,1;9,9"/>')
    with pytest.raises(ValueError, match=r"a\.png polygon 1 has label 'gate', which is none of the labels in <meta>"):
        parts_of("cvat", root)
    with pytest.raises(ValueError, match=r"annotations\.xml line 3 is not XML"):
        parts_of("cvat", cvat(tmp_path / "b", "<polygon"))
    with pytest.raises(ValueError, match=r"annotations\.xml has an image without a name \(id 7\)"):
        parts_of("cvat", cvat(tmp_path / "c", '</image><image id="7" width="60" height="40">'))


def test_a_picture_of_cvat_may_have_a_name_too_long_for_a_file(tmp_path: Path) -> None:
    root, name = cvat(tmp_path, '<polygon label="door" points="1,1;9,1;9,9"/>'), f"{'a' * 300}.png"
    text = (root / "annotations.xml").read_text()
    (root / "annotations.xml").write_text(text.replace('name="a.png"', f'name="{name}" subset="Train"'))
    assert read_one("cvat", root)[0].file_name == name


def test_subsets_of_cvat_for_one_split_are_joined_and_others_named(tmp_path: Path) -> None:
    subsets = {"a": "Train", "b": "training", "c": "Validation", "d": "default", "e": "extra", "f": "default"}
    box = '<box label="door" xtl="3" ytl="4" xbr="13" ybr="24"/>'
    images = [
        f'<image name="{name}.png" subset="{subset}" width="60" height="40">{box}</image>'
        for name, subset in subsets.items()
    ]
    images.append(f'<image name="g.png" width="60" height="40">{box}</image>')
    (tmp_path / "annotations.xml").write_text(f"<annotations>{''.join(images)}</annotations>")
    parts, _, notes = read_parts(replace(default_config().data, name="cvat", root=str(tmp_path)), with_images=False)
    names = {name: [part.index.file_name(row) for row in part.rows] for name, part in parts.items()}
    assert names == {"train": ["a.png", "b.png"], "val": ["c.png"]}
    assert notes == [
        f"{tmp_path}/annotations.xml: 4 images are of no split: those of the subsets default (2), extra (1), none (1). "
        "Name their subset Train, Validation or Test in CVAT to use them"
    ]


@pytest.mark.parametrize("colored", [True, False])
def test_voc_reads_numbers_or_colours_and_leaves_borders_out(tmp_path: Path, colored: bool) -> None:
    ids, kinds = np.zeros((2, *SIZE), np.uint8)
    ids[2:12, 2:12], ids[20:30, 20:30], ids[2, 2:12] = 1, 2, 255
    kinds[2:12, 2:12], kinds[20:30, 20:30] = 15, 7
    kinds[3:7, 2:12], kinds[7:10, 2:12] = 0, 255  # most of the first is of no class
    picture(tmp_path / "JPEGImages/a.jpg")
    for folder, values in (("SegmentationObject", ids), ("SegmentationClass", kinds)):
        image = Image.fromarray(palette()[values]) if colored else Image.fromarray(values)
        (tmp_path / folder).mkdir()
        image.save(tmp_path / folder / "a.png")
    image, _ = read_one("voc", tmp_path)
    assert [(each.name, area) for each, area in zip(image.objects, areas(image), strict=True)] == [
        ("person", 90),
        ("car", 100),
    ]


def test_an_object_of_voc_in_16_bits_may_have_number_255(tmp_path: Path) -> None:
    ids, kinds = np.zeros(SIZE, np.uint16), np.zeros(SIZE, np.uint8)
    ids[2:12, 2:12], ids[20:30, 20:25], kinds[2:30, 2:30] = 255, 300, 15
    picture(tmp_path / "JPEGImages/a.jpg")
    for folder, values in (("SegmentationObject", ids), ("SegmentationClass", kinds)):
        (tmp_path / folder).mkdir()
        Image.fromarray(values).save(tmp_path / folder / "a.png")
    image, _ = read_one("voc", tmp_path)
    assert areas(image) == [100, 50]


@pytest.mark.parametrize(
    ("names", "list_", "lines", "found"),
    [
        (("photo 1", "photo 0"), "Segmentation/train.txt", ("photo 1", "photo 0"), ("photo 1", "photo 0")),
        (("photo 1", "b"), "Main/train.txt", ("photo 1", "b"), ("photo 1", "b")),
        (("photo 1", "b"), "Segmentation/train.txt", ('"photo 1"', "b"), ("photo 1", "b")),
        (("a" * 251, "b"), "Segmentation/train.txt", ("a" * 251, "b"), ("a" * 251, "b")),
        (("photo 1", "b", "c"), "Main/car_train.txt", ("photo 1  1", "b  0", "c -1"), ("photo 1", "b")),
    ],
)
def test_lists_of_voc_name_pictures_with_spaces(
    tmp_path: Path, names: tuple[str, ...], list_: str, lines: tuple[str, ...], found: tuple[str, ...]
) -> None:
    for name in names:
        picture(tmp_path / f"JPEGImages/{name}.png")
    (tmp_path / "SegmentationObject").mkdir()
    (tmp_path / "ImageSets" / list_).parent.mkdir(parents=True)
    (tmp_path / "ImageSets" / list_).write_text("\n".join(lines))
    images = images_of(parts_of("voc", tmp_path))["train"]
    assert {Path(image.file_name).stem for image in images} == {*found}


def test_boxes_of_voc_count_pixels_from_1(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages/a.jpg")
    for folder in ("SegmentationObject", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    corners = "<xmin>1</xmin><ymin>3</ymin><xmax>60</xmax><ymax>12</ymax>"
    xml = f"<annotation><object><name>car</name><bndbox>{corners}</bndbox></object></annotation>"
    (tmp_path / "Annotations/a.xml").write_text(xml)
    image, _ = read_one("voc", tmp_path)
    assert [(each.name, each.box) for each in image.objects] == [("car", [0, 2, 60, 10])]


def test_a_picture_of_voc_without_mask_and_xml_is_counted(tmp_path: Path) -> None:
    picture(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "SegmentationObject").mkdir()
    Image.new("L", SIZE[::-1], 1).save(tmp_path / "SegmentationObject/a.PNG")  # which is none of VOC's
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/train.txt").write_text("a\n")
    image, unused = read_one("voc", tmp_path)
    assert (image.objects, unused) == ([], [("neither mask nor XML: taken as without objects", 1, False)])


def test_one_png_an_image_has_classes_as_cityscapes_or_none(tmp_path: Path) -> None:
    values = np.zeros(SIZE, np.uint16)
    values[2:12, 2:12], values[20:30, 20:30] = 2001, 1000
    root = tmp_path / "above/data"
    picture(root / "images/a.jpg")
    (root / "masks").mkdir()
    Image.fromarray(values).save(root / "masks/a.png")
    (tmp_path / "classes.txt").write_text("gate\n")  # too far above
    assert [each.name for each in read_one("auto", root)[0].objects] == ["object", "object"]
    (root.parent / "classes.txt").write_text("door\nwindow\n")
    assert [each.name for each in read_one("auto", root)[0].objects] == ["door", "window"]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("images/a.png", "masks/a_1.png", "masks/a_2_door.png"), ["object", "door"]),
        (("images/a.png", "masks/a/1.png", "masks/a/2_front%20door.png"), ["object", "front door"]),
        (("a/images/a.png", "a/masks/0f3c.png", "a/masks/9b.png"), ["object", "object"]),
    ],
)
def test_one_png_a_mask_is_found_by_names_and_folders(tmp_path: Path, files: tuple[str, ...], names: list[str]) -> None:
    picture(tmp_path / files[0])
    for number, name in enumerate(files[1:]):
        mask = np.zeros(SIZE, bool)
        mask[2 + number : 12, 2:12] = True
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(tmp_path / name)
    image, _ = read_one("auto", tmp_path)
    assert [each.name for each in image.objects] == names
    assert areas(image) == [100, 90]


def test_a_mask_belongs_to_the_picture_with_the_longest_name(tmp_path: Path) -> None:
    for name in ("images/scan_1.png", "images/scan_1_2.png"):
        picture(tmp_path / name)
    (tmp_path / "masks").mkdir()
    for name in ("scan_1_2_1", "scan_1_2_2_door", "scan_1_1"):
        Image.new("1", SIZE[::-1], 1).save(tmp_path / f"masks/{name}.png")
    images = images_of(parts_of("mask_png", tmp_path))["train"]
    assert {image.file_name: [each.name for each in image.objects] for image in images} == {
        "scan_1.png": ["object"],
        "scan_1_2.png": ["object", "door"],
    }


@pytest.mark.parametrize(
    ("format_", "label", "stray"),
    [
        ("yolo", "labels/train/a.txt", "labels/train/b.txt"),
        ("yolo", "labels/train/a.TXT", "labels/train/b.TXT"),
        ("yolo", "labels/train/a.txt", f"labels/train/{'b' * 251}.txt"),  # a .jpeg of that name cannot be
        ("instance_png", "masks/a.png", "masks/a_color.png"),
        ("instance_png", "masks/a.png", "masks/b.PNG"),
        ("mask_png", "masks/a/1.png", "masks/b/1.png"),
    ],
)
def test_labels_that_belong_to_no_picture_are_counted(tmp_path: Path, format_: str, label: str, stray: str) -> None:
    if format_ == "yolo":
        yolo(tmp_path, "0 0.5 0.5 0.2 0.4")
        (tmp_path / "labels/train/a.txt").rename(tmp_path / label)
        (tmp_path / "labels/train/classes.txt").write_text("door\n")
    else:
        picture(tmp_path / "images/a.jpg")
        (tmp_path / label).parent.mkdir(parents=True)
        Image.new("L", SIZE[::-1], 1).save(tmp_path / label)
    assert read_one(format_, tmp_path)[1] == []
    (tmp_path / stray).parent.mkdir(exist_ok=True)
    (tmp_path / stray).write_bytes((tmp_path / label).read_bytes())
    image, unused = read_one(format_, tmp_path)  # though an index of the folder is in the cache
    assert (len(image.objects), unused) == (1, [("label file that belongs to no picture", 1, True)])


def test_a_picture_turned_by_its_exif_is_measured_upright(tmp_path: Path) -> None:
    root = yolo(tmp_path, "0 0.5 0.5 0.2 0.4")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(root / "images/train/a.png", exif=exif)
    assert read_one("yolo", root)[0].size == SIZE[::-1]


def test_a_mask_of_another_size_than_its_picture_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    (tmp_path / "masks").mkdir()
    Image.new("L", (30, 40)).save(tmp_path / "masks/a.png")
    with pytest.raises(ValueError, match=r"masks/a\.png has 30 x 40 pixels, its picture 60 x 40"):
        parts_of("auto", tmp_path)


def test_a_transparent_pixel_is_outside_the_mask(tmp_path: Path) -> None:
    picture(tmp_path / "images/a.png")
    pixels = np.full((*SIZE, 4), 255, np.uint8)
    pixels[..., 3] = np.triu(np.ones(SIZE)) * 255
    (tmp_path / "masks/a").mkdir(parents=True)
    Image.fromarray(pixels).save(tmp_path / "masks/a/1.png")
    assert areas(read_one("mask_png", tmp_path)[0]) == [int(np.triu(np.ones(SIZE)).sum())]


def test_folders_with_the_ending_of_a_file_are_none(tmp_path: Path) -> None:
    for name in ("a.json", "a.xml", "a.yaml", "data.yaml"):
        (tmp_path / name).mkdir()
    picture(tmp_path / "images/a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a.txt").touch()  # of YOLO, whose names of classes are missing
    with pytest.raises(UserError, match="is in none of the known formats"):
        parts_of("auto", tmp_path)
