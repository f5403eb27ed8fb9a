"""What the benchmarks share: the data, sides run in turn, and one line about the machine."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from pycocotools import mask as coco_mask

DATA = "MASKRCNN_TRAIN_BENCH_DATA"  # a data set as Roboflow exports it: train/, valid/, _annotations.coco.json in each


def data_root() -> Path:
    """The folder that the environment variable names. Ends with one line where it is not set."""
    if DATA not in os.environ or not Path(os.environ[DATA]).is_dir():
        raise SystemExit(
            f"set {DATA} to a data set in Roboflow's COCO layout (train/_annotations.coco.json, valid/...)"
        )
    return Path(os.environ[DATA])


def machine() -> str:
    model = "unknown processor"
    if Path("/proc/cpuinfo").exists():
        names = [
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else model
    return (
        f"{os.cpu_count()} processors ({model}), Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}, {torch.get_num_threads()} threads"
    )


def coco_results(found: dict[str, torch.Tensor], image_id: int, class_ids: Sequence[int]) -> list[dict[str, Any]]:
    """What torchvision's model found on an image, as its reference scripts write it: whole masks, one code at a time.

    class_ids: the category id of each label, from label 1 on.
    """
    results = []
    masks = found["masks"] > 0.5  # pasted into the image by the model
    for box, label, score, mask in zip(
        found["boxes"].tolist(), found["labels"].tolist(), found["scores"].tolist(), masks, strict=True
    ):
        code = coco_mask.encode(np.asfortranarray(mask[0].numpy().astype(np.uint8)))
        x0, y0, x1, y1 = box
        results.append(
            {"image_id": image_id, "category_id": class_ids[label - 1], "score": score}
            | {"bbox": [x0, y0, x1 - x0, y1 - y0], "segmentation": code}
        )
    return results


def in_turn(sides: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of every side in every round; the sides take turns, so that a busy machine slows all of them."""
    for _ in range(warmup):
        for run in sides.values():
            run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def print_ratios(seconds: dict[str, list[float]], ours: str) -> None:
    """Median seconds of each side, and the median of its ratios to ours, round by round."""
    width = max(map(len, seconds))
    for name, times in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(times, seconds[ours], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"{name:{width}}  {statistics.median(times):8.3f} s   {statistics.median(ratios):6.2f} x ours ({spread})")


def peak_mb(script: str, side: str, *options: str) -> float:
    """What `script --memory-of side` prints, run as a process of its own: each side's peak is its own there."""
    command = [sys.executable, script, "--memory-of", side, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])
