"""Planted label errors, and how many of them `labels` ranks first: 5 % each of five kinds in 400 images of shapes.

    OMP_NUM_THREADS=1 python benchmarks/planted_labels.py --runs FOLDER [--seed 0] [KEY=VALUE ...]

trains five folds one after the other, with any settings of a training. The same command with the same folder goes on
where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn_train.data.shapes import CATEGORIES, SPLITS, ensure_shapes
from maskrcnn_train.settings.schema import ShapesConfig
from maskrcnn_train.structures.arrays import Flags
from maskrcnn_train.structures.rle import compressed, decode_crop

SHARE = 0.05  # of the objects, of each kind
KINDS = ("missing", "spurious", "wrong class", "loose box", "poor mask")
SHIFT = (0.2, 0.4)  # of each side of the box: IoU .22 to .47 with where it was
SIDES = (16, 40)  # pixels of a spurious object
EMPTY = 0.1  # largest IoU of a spurious object with one that is there
SETTINGS = ["experiment=shapes", "data=custom", "data.min_size=96", "data.max_size=96", "trainer.max_steps=1200"]
SETTINGS += ["trainer.max_minutes=null", "augmentation.vertical_flip=0.5", "augmentation.copy_paste=0.5"]
SETTINGS += ["roi_head.num_convs=1", "mask_head.num_convs=1", "optimizer.lr=1.5e-3"]  # lighter heads: more steps
FOUND = 0.5  # IoU of a doubt with the missing object that it names

Coco = dict[str, Any]


def plant(coco: Coco, seed: int) -> tuple[Coco, list[Coco]]:
    """A copy with errors, each in another object, and what was planted: kind, image_id, id, bbox of the object."""
    rng = np.random.default_rng(seed)
    annotations = {each["id"]: dict(each) for each in coco["annotations"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in coco["images"]}
    for each in annotations.values():
        each["mask"] = _bitmap(each["segmentation"], sizes[each["image_id"]])
    number = round(SHARE * len(annotations))
    drawn = rng.permutation(sorted(annotations))[: 4 * number].reshape(4, number).tolist()
    planted = []
    for kind, ids in zip((kind for kind in KINDS if kind != "spurious"), drawn, strict=True):
        for id_ in ids:
            planted.append({"kind": kind, "image_id": annotations[id_]["image_id"], "id": id_}
                           | {"bbox": annotations[id_]["bbox"]})  # fmt: skip
            _spoil(annotations, id_, kind, rng)
    for _ in range(number):
        new = _spurious(annotations, sizes, rng)
        annotations[new["id"]] = new
        planted.append({"kind": "spurious", "image_id": new["image_id"], "id": new["id"], "bbox": new["bbox"]})
    return coco | {"annotations": [_entry(each) for each in annotations.values()]}, planted


def _spoil(annotations: dict[int, Coco], id_: int, kind: str, rng: np.random.Generator) -> None:
    each = annotations[id_]
    if kind == "missing":
        del annotations[id_]
    elif kind == "wrong class":
        each["category_id"] = int(rng.choice([number for number in CATEGORIES if number != each["category_id"]]))
    elif kind == "loose box":
        each["mask"] = _shifted(each, rng)
        each["bbox"] = _box(each["mask"])
    else:  # half of the mask, along a slope that leaves most of its extent; the box stays
        x, y, width, height = each["bbox"]
        ys, xs = np.indices(each["mask"].shape)
        sides = rng.choice([-1, 1], 2)
        each["mask"] &= sides[0] * (xs - x - width / 2) / width + sides[1] * (ys - y - height / 2) / height > 0


def _shifted(each: Coco, rng: np.random.Generator) -> Flags:
    """The mask moved along both axes, into the image rather than out of it."""
    height, width = each["mask"].shape
    x, y, w, h = each["bbox"]
    step = [round(share * side) for share, side in zip(rng.uniform(*SHIFT, 2), (w, h), strict=True)]
    right, down = (step[0] if x + w / 2 < width / 2 else -step[0]), (step[1] if y + h / 2 < height / 2 else -step[1])
    moved: Flags = np.zeros_like(each["mask"])
    ys, xs = np.nonzero(each["mask"])
    inside = (ys + down >= 0) & (ys + down < height) & (xs + right >= 0) & (xs + right < width)
    moved[ys[inside] + down, xs[inside] + right] = True
    return moved


def _spurious(annotations: dict[int, Coco], sizes: dict[int, tuple[int, int]], rng: np.random.Generator) -> Coco:
    """An ellipse where no object is, of a random class."""
    while True:
        image_id = int(rng.choice(sorted(sizes)))
        height, width = sizes[image_id]
        w, h = rng.uniform(*SIDES, 2)
        x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
        ys, xs = np.indices((height, width)) + 0.5
        mask = ((xs - x - w / 2) / (w / 2)) ** 2 + ((ys - y - h / 2) / (h / 2)) ** 2 < 1
        others = [each["bbox"] for each in annotations.values() if each["image_id"] == image_id]
        if not others or coco_mask.iou(np.array([_box(mask)]), np.array(others), [0] * len(others)).max() < EMPTY:
            return {"id": max(annotations) + 1, "image_id": image_id, "category_id": int(rng.choice([*CATEGORIES]))} | {
                "iscrowd": 0, "mask": mask, "bbox": _box(mask)}  # fmt: skip


def _bitmap(shape: Any, size: tuple[int, int]) -> Flags:
    x0, y0, bitmap = decode_crop(compressed(shape, size))
    full = np.zeros(size, bool)
    full[y0 : y0 + bitmap.shape[0], x0 : x0 + bitmap.shape[1]] = bitmap > 0
    return full


def _box(mask: np.ndarray) -> list[float]:
    return [float(value) for value in coco_mask.toBbox(coco_mask.encode(np.asfortranarray(mask, np.uint8)))]


def _entry(each: Coco) -> Coco:
    code = coco_mask.encode(np.asfortranarray(each["mask"], np.uint8))
    shape = {"size": code["size"], "counts": code["counts"].decode()}
    kept = {key: each[key] for key in ("id", "image_id", "category_id", "iscrowd", "bbox")}
    return kept | {"area": int(coco_mask.area(code)), "segmentation": shape}


def prepare(folder: Path, images: int, side: int, seed: int) -> tuple[Path, Path]:
    """Draw the shapes, plant, and write planted.json beside the JSON; returns the JSON and the folder of images."""
    section = ShapesConfig(num_train=images, num_val=1, num_test=1, image_size=side, seed=seed)
    shapes = ensure_shapes(section, folder / "shapes")
    coco, planted = plant(json.loads((shapes / f"annotations/{SPLITS[0]}.json").read_text()), seed)
    (folder / "planted.json").write_text(json.dumps(planted))
    (folder / "labels.json").write_text(json.dumps(coco))
    return folder / "labels.json", shapes / SPLITS[0]


def matched(doubts: list[Coco], planted: list[Coco]) -> list[Coco | None]:
    """What each doubt has found of the planted errors, each of them once."""
    by_label = {each["id"]: each for each in planted if each["kind"] != "missing"}
    missing = [each for each in planted if each["kind"] == "missing"]
    hits: list[Coco | None] = []
    for doubt in doubts:
        hit = by_label.get(doubt["annotations"][0]) if doubt["annotations"] else None
        for each in missing if doubt["kind"] == "missing" else []:
            boxes = np.array([doubt["box"]]), np.array([each["bbox"]])
            if each["image_id"] == doubt["image_id"] and coco_mask.iou(*boxes, [0])[0, 0] >= FOUND:
                hit = each
        hits.append(None if hit is None or any(hit is other for other in hits) else hit)
    return hits


def report(doubts: list[Coco], planted: list[Coco]) -> str:
    """Of the first as many doubts as were planted: how many are planted, and how many of each kind are among them."""
    top = doubts[: len(planted)]
    hits = matched(top, planted)
    found = [hit for hit in hits if hit is not None]
    lines = [
        f"{len(planted)} planted; of the {len(top)} most suspicious {len(found)} are ({len(found) / len(top):.0%})"
    ]
    lines.append(f"the last of them has a suspicion of {top[-1]['suspicion']:.2f}")
    for kind in KINDS:
        number = sum(each["kind"] == kind for each in planted)
        own = sum(hit["kind"] == kind for hit in found)
        named = sum(
            hit is not None and hit["kind"] == kind == each["kind"] for hit, each in zip(hits, top, strict=True)
        )
        false = sum(hit is None and each["kind"] == kind for hit, each in zip(hits, top, strict=True))
        lines.append(f"{kind:12} {own:3} of {number} ({own / number:.0%}), {named} by their kind; {false} false alarms")
    return "\n".join(lines)


def main() -> None:
    from sides import machine

    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, default=Path("runs/planted_labels"))
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("settings", nargs="*")
    given = parser.parse_args()
    labels, images = prepare(given.runs, given.images, given.side, given.seed)
    folder = given.runs / "labels"
    data = [f"data.train.annotations={labels}", f"data.train.images={images}"]
    command = [*SETTINGS, *data, "suspicion=0", f"output_dir={folder}", *given.settings]
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "maskrcnn_train.labels", *command], check=True)
    print(f"{machine()}; {(time.monotonic() - began) / 60:.0f} minutes")
    doubts = json.loads((folder / "doubts.json").read_text())["doubts"]
    print(report(doubts, json.loads((given.runs / "planted.json").read_text())))


if __name__ == "__main__":
    main()
