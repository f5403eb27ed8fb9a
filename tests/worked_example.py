"""The files that the commands of the docs speak of, small, and the settings that make a command short."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from PIL import Image
from pycocotools import mask as coco_mask

CLASSES = ("door", "window")
SIDE = 64  # pixels
MODEL = ["backbone.fpn_channels=32", "roi_head.conv_dim=32", "roi_head.fc_dim=32", "mask_head.conv_dim=32"]
DATA = [
    "data.min_size=64",
    "data.max_size=64",
    "augmentation.min_sizes=null",
    "augmentation.start_scale=1",
    "weights.source=none",
    "backbone.norm=auto",
    "backbone.norm_eps=1e-5",
]
SHAPES = [f"data.shapes.{key}" for key in ("num_train=4", "num_val=2", "num_test=2", "image_size=64")]
TRAINER = [
    "trainer.max_steps=1",
    "trainer.max_minutes=null",
    "trainer.batch_size=2",
    "trainer.accumulate=1",
    "trainer.num_workers=0",
    "trainer.precision=fp32",
    "evaluation.pictures=1",
    "evaluation.study=false",
]
SMALL = {
    "train": [*MODEL, *DATA, *SHAPES, *TRAINER],
    "tune": [*MODEL, *DATA, *SHAPES, *TRAINER, "trials=2"],
    "labels": [*MODEL, *DATA, *SHAPES, *TRAINER, "folds=2"],
    "check": [*MODEL, *DATA, *SHAPES, "workers=1"],
    "evaluate": ["num_workers=0", "evaluation.bootstrap=100", "evaluation.batch_size=8"],
    "export": ["num_images=1"],
    "analyze": ["num_workers=0", "budgets.most=4", "budgets.timed_images=1"],
}

# by a word of a command: the files of the example that stand for those it names
OTHER_FILES = {
    "data=cvat": ["data.root=CVAT"],
    "data.val.annotations=val.json": [
        "data.train.annotations=[FILE.json,all.json]",
        "data.train.images=[DIR,FOLDER]",
        "data.val.annotations=FILE.json",
        "data.val.images=DIR",
    ],
    "compare=[SEARCH/0/checkpoints/last.pt,SEARCH/7/checkpoints/last.pt]": [
        "compare=[A/checkpoints/last.pt,B/checkpoints/last.pt]"
    ],
}


def example_folder(folder: Path) -> None:
    """Write the data set of the docs: FOLDER in every layout, DIR, FILE.json, all.json, photos, lists, results."""
    rng = random.Random(0)
    everything = coco_json(rng, 24)
    for image in everything["images"]:
        path = folder / "FOLDER" / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = bytes(rng.randrange(256) for _ in range(8 * 8 * 3))
        Image.frombytes("RGB", (8, 8), pixels).resize((SIDE, SIDE)).save(path)
    (folder / "DIR").symlink_to("FOLDER/train")
    (folder / "photos").symlink_to("FOLDER/train")
    for name in ("train2017", "val2017", "valid", "test"):
        (folder / "FOLDER" / name).symlink_to("train")
    (folder / "...").mkdir()
    (folder / "FOLDER/annotations").mkdir()
    write(folder / "all.json", everything)
    bare = {**everything, "images": [{**i, "file_name": Path(i["file_name"]).name} for i in everything["images"]]}
    coco = [f"FOLDER/annotations/instances_{split}2017.json" for split in ("train", "val")]
    for path in ("FOLDER/train/_annotations.coco.json", "FILE.json", "instances_val2017.json", *coco):
        write(folder / path, bare)
    for name in ("train", "val"):
        write(folder / f".../{name}.json", everything)
    results = [as_result(item, rng.random()) for item in everything["annotations"]]
    for path in ("results.json", "a.json", "b.json"):
        write(folder / path, results)
    (folder / "LABELS").mkdir()
    write(folder / "LABELS/doubts.json", {"doubts": [{"annotations": [1], "image": "0_tile1.jpg"}]})
    (folder / "list.txt").write_text("photos/0_tile0.jpg\nphotos/1_tile0.jpg\n")


def coco_json(rng: random.Random, count: int) -> dict[str, Any]:
    images = [
        {
            "id": n,
            "file_name": f"train/{n // 2}_tile{n % 2}.jpg",
            "width": SIDE,
            "height": SIDE,
            "extra": {"name": f"{n // 2}"},
        }
        for n in range(count)
    ]
    return {
        "images": images,
        "annotations": [annotation(rng, number, number % count) for number in range(3 * count)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASSES)],
    }


def annotation(rng: random.Random, number: int, image: int) -> dict[str, Any]:
    x, y, side = rng.randrange(30), rng.randrange(30), rng.randrange(8, 30)
    corners = [x, y, x + side, y, x + side, y + side, x, y + side]
    return {
        "id": number,
        "image_id": image,
        "category_id": number % len(CLASSES),
        "bbox": [x, y, side, side],
        "area": side * side,
        "iscrowd": 0,
        "segmentation": [corners],
    }


def as_result(item: dict[str, Any], score: float) -> dict[str, Any]:
    code = coco_mask.merge(coco_mask.frPyObjects(item["segmentation"], SIDE, SIDE))
    kept = {key: item[key] for key in ("image_id", "category_id", "bbox")}
    return {**kept, "score": score, "segmentation": {"size": [SIDE, SIDE], "counts": code["counts"].decode()}}


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
