"""AP after the same minutes from random weights: torchvision's training loop against `experiment=scratch`.

Both train a ResNet-10 with FPN at 384 pixels on the same images. torchvision's side is its reference script on one
device: its Mask R-CNN, SGD with its learning rate, warm-up and drops, flips, 2 images a step, fp32. A row that is in
the table already is not run again, so that an evening can be cut in pieces.

    MASKRCNN_TRAIN_BENCH_DATA=FOLDER python benchmarks/from_scratch.py --minutes 15 --seeds 0 1 2 --table results.csv
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from sides import coco_results, data_root, machine
from torch.utils.data import DataLoader
from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.transforms import v2

SIDE = 384
CLASSES = 11
FIELDS = ["minutes", "side", "seed", "steps", "bbox/AP", "segm/AP", "segm/AP low", "segm/AP high", "machine"]


def train_torchvision(minutes: float, seed: int, folder: Path) -> int:
    """Write predictions.json for `valid`; returns the steps trained."""
    torch.manual_seed(seed)
    backbone = _resnet_fpn_extractor(ResNet(BasicBlock, [1, 1, 1, 1]), trainable_layers=5)
    model = MaskRCNN(backbone, CLASSES, min_size=SIDE, max_size=SIDE)
    flip, plain = [v2.ToImage(), v2.RandomHorizontalFlip(0.5)], [v2.ToImage()]
    loader = DataLoader(_images("train", flip), batch_size=2, shuffle=True, collate_fn=_pairs, num_workers=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02 / 8, momentum=0.9, weight_decay=1e-4)
    warmup, began, step = min(1000, len(loader) - 1), time.monotonic(), 0
    model.train()
    while (share := (time.monotonic() - began) / (60 * minutes)) < 1:
        for images, targets in loader:
            share = (time.monotonic() - began) / (60 * minutes)
            if share >= 1:
                break
            drops = (share > 16 / 26) + (share > 22 / 26)
            optimizer.param_groups[0]["lr"] = 0.02 / 8 * 0.1**drops * min(1.0, 0.001 + step / warmup)
            loss = sum(model(images, targets).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    _predict(model, _images("valid", plain), folder / "predictions.json")
    return step


def _images(split: str, steps: list[Any]) -> Any:
    root = data_root() / split
    transforms = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.SanitizeBoundingBoxes()])
    data = CocoDetection(str(root), str(root / "_annotations.coco.json"), transforms=transforms)
    return wrap_dataset_for_transforms_v2(data, target_keys=["image_id", "boxes", "labels", "masks"])


def _pairs(batch: list[Any]) -> tuple[list[Any], list[Any]]:
    images, targets = zip(*batch, strict=True)
    return list(images), list(targets)


@torch.inference_mode()
def _predict(model: MaskRCNN, images: Any, path: Path) -> None:
    """COCO results of every image; its labels are the category ids."""
    model.eval()
    results = []
    for image, target in images:
        (found,) = model([image])
        results += coco_results(found, int(target["image_id"]), range(1, CLASSES))
    path.write_text(json.dumps(results, default=bytes.decode))


def train_ours(minutes: float, seed: int, folder: Path) -> int:
    settings = ["data=roboflow", f"data.root={data_root()}", f"trainer.max_minutes={minutes}", f"seed={seed}"]
    _command("maskrcnn_train", "experiment=scratch", *settings, f"output_dir={folder}")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return max(int(line["step"]) for line in lines)


def _command(module: str, *settings: str) -> None:
    subprocess.run([sys.executable, "-m", module, *settings], check=True, stdout=subprocess.DEVNULL)


def score(folder: Path) -> dict[str, float]:
    """AP of predictions.json, and the 95 % interval over images."""
    out = folder / "scores"
    annotations = data_root() / "valid/_annotations.coco.json"
    results = f"predictions={folder / 'predictions.json'}"
    _command("maskrcnn_train.evaluate", results, f"annotations={annotations}", f"output_dir={out}")
    metrics: dict[str, float] = json.loads((out / "metrics.json").read_text())
    interval = json.loads((out / "study/study.json").read_text())["segm"]["intervals"]["AP"]
    return metrics | {f"segm/AP {end}": interval[end] for end in ("low", "high")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, nargs="+", default=[15])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sides", nargs="+", default=["maskrcnn_train", "torchvision"])
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/from_scratch"))
    given = parser.parse_args()
    print(machine())
    done = list(csv.DictReader(given.table.open())) if given.table.exists() else []
    had = {(float(row["minutes"]), row["side"], int(row["seed"])) for row in done}
    for minutes, seed, side in ((m, s, side) for m in given.minutes for s in given.seeds for side in given.sides):
        if (minutes, side, seed) in had:
            continue
        folder = given.runs / f"{side}_{minutes:g}_{seed}"
        folder.mkdir(parents=True)
        steps = (train_torchvision if side == "torchvision" else train_ours)(minutes, seed, folder)
        found = score(folder)
        row = {"minutes": minutes, "side": side, "seed": seed, "steps": steps, "machine": machine(), **found}
        print({key: row[key] for key in FIELDS[:-1]})
        with given.table.open("a", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, extrasaction="ignore")
            if not had:
                writer.writeheader()
            writer.writerow(row)
        had.add((minutes, side, seed))


if __name__ == "__main__":
    main()
