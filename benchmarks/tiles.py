"""Small objects in large images: AP of a model trained on tiles against models of whole images, after the same time.

    python benchmarks/tiles.py --runs FOLDER [--minutes 20] [--side "tiles of 512"] [KEY=VALUE ...]

draws images of 2000 x 2000 pixels with about 60 shapes of 14 to 40 pixels, trains each side for the same minutes from
random weights, and scores all of them on whole images. A side whose run is in the folder already is only read.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from sides import machine

from maskrcnn_train.data import shapes
from maskrcnn_train.structures.rle import compress_runs, crop_runs

SIDE, OBJECTS, DIAMETERS = 2000, 60, (14.0, 40.0)  # pixels of an image, shapes on it, and their circles
ANCHORS = (14, 20, 28, 40, 56)  # image pixels
SETTINGS = ["experiment=scratch", "data=custom", "augmentation.min_sizes=null", "seed=0"]
SETTINGS += ["trainer.checkpoint_every=0", "trainer.log_every=50", "evaluation.study=false", "evaluation.batch_size=2"]
SETTINGS += ["roi_head.detections_per_image=200"]


@dataclass
class Side:
    """network: side of a square image or tile as the model sees it, network pixels; batch: of these in a step, for
    about a million pixels; tile: image pixels, None: whole."""

    network: int
    batch: int
    tile: int | None = None

    @property
    def settings(self) -> list[str]:
        scale = self.network / (self.tile or SIDE)
        sizes = ",".join(f"{size * scale:.3g}" for size in ANCHORS)
        tile = [] if self.tile is None else [f"data.tile.size={self.tile}"]
        size = [f"data.min_size={self.network}", f"data.max_size={self.network}", f"rpn.anchors.sizes=[{sizes}]"]
        return [*size, *tile, f"trainer.batch_size={self.batch}"]


SIDES = {"whole images at 800": Side(800, 2), "whole images at 1600": Side(1600, 1), "tiles of 512": Side(512, 4, 512)}


def draw_image(rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Pixels uint8 [SIDE, SIDE, 3], and its objects as COCO has them, without ids."""
    objects: list[dict[str, Any]] = []
    canvas, centers = shapes.background(rng, SIDE), np.zeros((0, 2))
    for _ in range(6):
        shapes.paint(canvas, shapes.clutter_coverage(rng, SIDE), rng.uniform(0, 255, 3).astype(np.float32))
    while len(objects) < OBJECTS:
        diameter = math.exp(rng.uniform(*np.log(DIAMETERS)))
        center = rng.uniform(diameter / 2 + 2, SIDE - diameter / 2 - 2, 2)
        if len(centers) and np.abs(centers - center).max(axis=1).min() < DIAMETERS[1]:
            continue
        centers = np.concatenate((centers, center[None]))
        objects.append(draw_object(canvas, rng, diameter, center))
    canvas += rng.uniform(1, 7) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8), objects


def draw_object(canvas: np.ndarray, rng: np.random.Generator, diameter: float, center: np.ndarray) -> dict[str, Any]:
    """Draw one shape, and tell what was drawn."""
    category = int(rng.choice(list(shapes.CATEGORIES)))
    angle = rng.uniform(-shapes.TILT, shapes.TILT)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    corner, side = np.floor(center - diameter / 2 - 2).astype(int).clip(0), math.ceil(diameter) + 5
    to_patch = diameter / 2 * np.diag([1.0, rng.uniform(0.7, 1.0)]) @ turn
    outlines = [unit @ to_patch + center - corner for unit in shapes.unit_outlines(shapes.CATEGORIES[category])]
    patch = canvas[corner[1] : corner[1] + side, corner[0] : corner[0] + side]
    box = (0, 0, patch.shape[1], patch.shape[0])
    first, second = shapes.contrasting_colors(rng, patch)
    fill = first + shapes.texture(rng, side)[: patch.shape[0], : patch.shape[1]] * (second - first)
    shapes.paint(patch, shapes.coverage(outlines, side, box), fill)
    mask = shapes.rasterize(outlines, side, box)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    crop = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    x, y = int(corner[0] + columns[0]), int(corner[1] + rows[0])
    (code,) = compress_runs([crop_runs(crop, x, y, (SIDE, SIDE))], (SIDE, SIDE))
    extent = [float(value) for value in (x, y, crop.shape[1], crop.shape[0])]
    return {"category_id": category, "iscrowd": 0, "bbox": extent, "area": int(crop.sum()), "segmentation": code}


def write_images(folder: Path, split: str, count: int) -> list[str]:
    """Draw the images of a split unless they are there; returns the settings that lead to them."""
    labels, images = folder / f"{split}.json", folder / split
    if not labels.is_file():
        images.mkdir(parents=True, exist_ok=True)
        coco: dict[str, Any] = {"images": [], "annotations": []}
        coco["categories"] = [{"id": number, "name": name} for number, name in shapes.CATEGORIES.items()]
        for number in range(1, count + 1):
            pixels, objects = draw_image(np.random.default_rng([0, split == "val", number]))
            name = f"{number:04d}.jpg"
            Image.fromarray(pixels).save(images / name, quality=95, subsampling=0)
            coco["images"].append({"id": number, "file_name": name, "width": SIDE, "height": SIDE})
            for each in objects:
                coco["annotations"].append({"id": len(coco["annotations"]) + 1, "image_id": number, **each})
        labels.write_text(json.dumps(coco))
    return [f"data.{split}.annotations={labels}", f"data.{split}.images={images}"]


def train(name: str, settings: list[str], runs: Path) -> dict[str, Any]:
    """The scores of a side, and how many steps it took, which it trains first unless that was done."""
    run = runs / name.replace(" ", "_")
    if not (run / "metrics.json").is_file():
        subprocess.run([sys.executable, "-m", "maskrcnn_train", *settings, f"output_dir={run}"], check=True)
    import torch

    step = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["position"]["step"]
    return {**json.loads((run / "metrics.json").read_text()), "step": step}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=Path, default=Path("runs/tiles"))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--side", action="append", choices=[*SIDES], help="one of them; all without it")
    parser.add_argument("settings", nargs="*")
    given = parser.parse_intermixed_args()
    data = write_images(given.runs, "train", given.images) + write_images(given.runs, "val", max(1, given.images // 3))
    print(machine())
    print(f"{given.minutes:g} minutes each, {given.images} training images")
    print("| side | steps | bbox AP | bbox AP50 | segm AP | segm AP50 |\n|---|---|---|---|---|---|")
    for name in given.side or SIDES:
        own = [*SETTINGS, *data, *SIDES[name].settings, f"trainer.max_minutes={given.minutes}", *given.settings]
        found = train(name, own, given.runs)
        scores = (f"{100 * found[key]:.1f}" for key in ("bbox/AP", "bbox/AP50", "segm/AP", "segm/AP50"))
        print(f"| {name} | {found['step']} | {' | '.join(scores)} |", flush=True)


if __name__ == "__main__":
    main()
