"""A data set without a fault, and the same with many planted: each of another kind, each with what must be found."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from small_coco import annotation, square

WIDTH, HEIGHT = 60, 40
SETTINGS = [
    "data=roboflow",
    "data.min_size=40",
    "data.max_size=60",
    "rpn.anchors.sizes=[8,12,16,24,32]",
    "backbone=resnet10",
    "backbone.fpn_channels=16",
    "schedule.warmup_steps=0",
    "trainer.device=cpu",
    "weights=none",
]
Found = tuple[str, str, str]  # severity, kind, split


def picture(seed: int) -> Image.Image:
    """A smooth random picture: no two look alike."""
    colors = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


class DataSet:
    """24 training and 6 validation images with two objects each, in Roboflow's layout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = {"train": root / "train", "val": root / "valid"}
        self.content: dict[str, dict[str, Any]] = {}
        for name, count in (("train", 24), ("val", 6)):
            self.folders[name].mkdir(parents=True)
            categories = [{"id": 3, "name": "door"}, {"id": 7, "name": "window"}]
            self.content[name] = {"images": [], "annotations": [], "categories": categories}
            for number in range(1, count + 1):
                self.add_image(name, number)
                self.add(name, 2 * number - 1, number, 3, 4 + number, 5)
                self.add(name, 2 * number, number, 7, 40 - number, 22)

    def add_image(self, split: str, number: int, *, file: bool = True, **change: Any) -> dict[str, Any]:
        image = {"id": number, "file_name": f"{split}{number}.png", "width": WIDTH, "height": HEIGHT, **change}
        self.content[split]["images"].append(image)
        if file:
            picture(1000 * (split == "val") + number).save(self.path(split, number))
        return image

    def path(self, split: str, number: int) -> Path:
        return self.folders[split] / f"{split}{number}.png"

    def add(self, split: str, number: int, image: int, category: int, x: float, y: float, **change: Any) -> None:
        self.content[split]["annotations"].append(annotation(number, image, category, x, y, 12, **change))

    def write(self) -> list[str]:
        """Write the JSONs; the overrides that lead to them."""
        for name, folder in self.folders.items():
            (folder / "_annotations.coco.json").write_text(json.dumps(self.content[name]))
        return [*SETTINGS, f"data.root={self.root}"]

    def write_custom(self, images: dict[str, Path]) -> list[str]:
        """The same as `data=custom`, with a folder of images for each split."""
        settings = [text for text in self.write() if not text.startswith(("data=", "data.root"))]
        paths = [f"data.{name}.annotations={folder}/_annotations.coco.json" for name, folder in self.folders.items()]
        return ["data=custom", *settings, *paths, *(f"data.{name}.images={path}" for name, path in images.items())]


def planted(root: Path) -> tuple[list[str], dict[Found, list[int | str]]]:
    """Overrides that lead to the data set with its faults, and every finding that they must give, with its items."""
    data = DataSet(root)
    expected: dict[Found, list[int | str]] = {}
    _plant_in_structure(data, expected)
    _plant_in_annotations(data, expected)
    _plant_in_images(data, expected)
    _plant_in_settings(data, expected)
    return [*data.write(), "optimizer.lr=1.0", "roi_head.detections_per_image=5"], expected


def _plant_in_structure(data: DataSet, expected: dict[Found, list[int | str]]) -> None:
    train = data.content["train"]
    train["images"].append({"id": 2, "file_name": "again.png", "width": WIDTH, "height": HEIGHT})
    expected["error", "image-id-repeated", "train"] = [2]
    train["images"].append({"id": 201, "file_name": "flat.png", "width": WIDTH, "height": 0})
    expected["error", "image-size", "train"] = [201]
    train["images"].append({"id": 202, "file_name": "../valid/val1.png", "width": WIDTH, "height": HEIGHT})
    expected["error", "image-outside", "train"] = [202]
    train["images"].append({"id": 203, "width": WIDTH, "height": HEIGHT})
    expected["error", "image-file-name", "train"] = [203]
    train["images"].append({"file_name": "anonymous.png", "width": WIDTH, "height": HEIGHT})
    expected["error", "image-id", "train"] = [f"number {len(train['images']) - 1}"]
    train["annotations"].append("oops")
    expected["error", "not-an-object", "train"] = [f"number {len(train['annotations']) - 1}"]
    train["categories"].append({"id": 11, "name": " "})
    expected["error", "category-name", "train"] = [11]
    train["categories"].append({"id": 7, "name": "pane"})
    expected["error", "category-id-repeated", "train"] = [7]
    data.add("train", 501, 999, 3, 30, 5)
    expected["error", "annotation-image-unknown", "train"] = [501]
    data.add("train", 502, 1, 77, 30, 5)
    expected["error", "annotation-category-unknown", "train"] = [502]
    data.add("train", 503, 1, 3, 30, 5, category_id="door")
    expected["error", "annotation-category-id", "train"] = [503]
    data.add("val", 504, 2, 12, 30, 5)
    data.content["val"]["categories"].append({"id": 12, "name": "gate"})
    expected["error", "class-unknown", "val"] = ["gate"]


def _plant_in_annotations(data: DataSet, expected: dict[Found, list[int | str]]) -> None:
    rle = {"size": [10, 10], "counts": [0, 100]}
    short = {"size": [HEIGHT, WIDTH], "counts": [5, 20]}
    for number, change in {
        601: {"bbox": [5, 5, 0, 9]},
        602: {"bbox": [90, 5, 9, 9]},
        603: {"bbox": [5, float("nan"), 9, 9]},
        604: {"segmentation": [[1, 2, 3, 4]]},
        605: {"segmentation": rle},
        606: {"segmentation": short},
        607: {"iscrowd": 7},
        608: {"bbox": None, "segmentation": None},
    }.items():
        data.add("train", number, number - 600, 3, 20, 20, **change)
    expected["warning", "annotation-left-out", "train"] = list(range(601, 609))
    data.add("train", 609, 9, 3, 30, 25, bbox=[30, 25, 55, 39])
    data.add("train", 1, 10, 3, 30, 25)
    # 609, with corners as x, y, width, height, reaches out of the image too; the repeated id becomes the next, 615
    expected["warning", "annotation-repaired", "train"] = [609, 609, 615]
    data.add("train", 611, 11, 3, 15, 5)
    expected["warning", "object-twice", "train"] = [611]
    data.add("train", 612, 12, 7, 16, 5)
    expected["warning", "object-two-classes", "train"] = [612]
    sliver = [20, 30, 20.5, 30, 20.5, 38, 20, 38]
    data.add("train", 613, 13, 3, 0, 0, bbox=[20, 30, 0.5, 8], segmentation=[sliver])
    expected["warning", "object-vanishes", "train"] = [613]
    data.content["train"]["categories"] += [{"id": 20, "name": "arch"}, {"id": 21, "name": "attic"}]
    data.add("train", 614, 14, 20, 40, 2)
    expected["warning", "class-rare", "train"] = ["arch"]
    expected["warning", "class-absent", "train"] = ["attic"]
    expected["warning", "class-unscored", "val"] = ["arch"]


def _plant_in_images(data: DataSet, expected: dict[Found, list[int | str]]) -> None:
    data.add_image("train", 301, file=False, file_name="train2.png")
    expected["warning", "image-twice", "train"] = ["train2.png"]
    data.add_image("train", 302, file=False)
    expected["error", "image-missing", "train"] = ["train302.png"]
    data.add_image("train", 303)
    whole = data.path("train", 303).read_bytes()
    data.path("train", 303).write_bytes(whole[: len(whole) // 2])
    data.add_image("train", 304, file=False)
    data.path("train", 304).write_text("<html>404</html>")
    expected["error", "image-unreadable", "train"] = ["train303.png", "train304.png"]
    data.add_image("train", 305, width=HEIGHT + 1)
    expected["error", "image-size-differs", "train"] = ["train305.png"]
    data.add_image("train", 306, file=False)
    shutil.copy(data.path("train", 5), data.path("train", 306))
    expected["warning", "picture-twice", "train"] = ["train/train5.png = train/train306.png"]
    data.add_image("val", 307, file=False)
    shutil.copy(data.path("train", 3), data.path("val", 307))
    expected["error", "leak", "train+val"] = ["train/train3.png = val/val307.png"]
    data.add_image("val", 308, file=False, file_name="val308.jpg")
    picture(4).save(data.folders["val"] / "val308.jpg", quality=40)
    expected["warning", "leak-similar", "train+val"] = ["train/train4.png = val/val308.jpg"]
    picture(5000).save(data.folders["train"] / "spare.png")
    expected["advice", "image-unlisted", "train"] = ["spare.png"]


def _plant_in_settings(data: DataSet, expected: dict[Found, list[int | str]]) -> None:
    for number in range(4):
        part = square(2 + 14 * number, 24, 11)
        data.add("val", 700 + number, 6, 3, 0, 0, bbox=[2 + 14 * number, 24, 11, 11], segmentation=[part])
    expected["warning", "detections-too-few", "val"] = ["val6.png"]
    expected["warning", "learning-rate-high", ""] = []
