"""Small COCO data sets made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn_train.data.coco.index import AnnotationIndex
from maskrcnn_train.settings.schema import TrainConfig

FACADE = Path(__file__).parents[1] / ".." / "shared" / "data" / "facade"

Coco = dict[str, Any]


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def annotation(number: int, image: int, category: int, x: float, y: float, side: float, **more: Any) -> Coco:
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, side, side],
        "area": side * side,
        "iscrowd": 0,
        "segmentation": [square(x, y, side)],
        **more,
    }


def small_coco(num_images: int = 4) -> Coco:
    """Images 1..n of 60 x 40 or 40 x 60 pixels, two squares each, categories 3 (door) and 7 (window)."""
    images, annotations = [], []
    for number in range(1, num_images + 1):
        width, height = (60, 40) if number % 2 else (40, 60)
        images.append({"id": number, "file_name": f"{number}.png", "width": width, "height": height})
        annotations.append(annotation(2 * number - 1, number, 3, 2 + number % 5, 4, 12))
        annotations.append(annotation(2 * number, number, 7, 20, 20 - number % 3, 10))
    categories = [{"id": 3, "name": "door"}, {"id": 7, "name": "window"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_json(path: Path, coco: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(coco))
    return path


def write_images(folder: Path, coco: Coco, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    for image in coco["images"]:
        path = folder / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)).save(path)
    return folder


def assert_equal(first: AnnotationIndex, second: AnnotationIndex) -> None:
    """The same columns, classes and findings, wherever they are kept."""
    for item in fields(AnnotationIndex):
        if item.name not in ("folder", "skipped"):
            np.testing.assert_array_equal(getattr(first, item.name), getattr(second, item.name))
    assert first.skipped == second.skipped


def roboflow(root: Path, train: Coco, val: Coco | None = None) -> Path:
    for name, coco in (("train", train), ("valid", val if val is not None else train)):
        write_json(root / name / "_annotations.coco.json", coco)
        write_images(root / name, coco)
    return root


Configure = Callable[..., TrainConfig]
