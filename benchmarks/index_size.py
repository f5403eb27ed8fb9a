"""A JSON as large as COCO's (118,000 images, 860,000 polygons): first start, later start, memory of workers.

Sides: ours (`open_index`) and pycocotools' `COCO`. The file is generated in a temporary folder from a seed and removed
at the end. Every measure is a process of its own; the memory of workers is what two forked processes that read every
annotation add to the proportional set size (PSS) of all processes together.

    python benchmarks/index_size.py [--images 118000] [--annotations 860000] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDES = ("ours", "pycocotools")
WORKERS = 2
CHUNK = 20_000  # annotations that are written at once


def write_annotations(path: Path, images: int, annotations: int) -> None:
    """A COCO JSON with star-shaped polygons of 5 to 200 points, two decimals, 80 classes; 2 % in several parts."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        file.write('{"info": {"description": "generated"}, "licenses": [], "images": [')
        for number in range(1, images + 1):
            name = f"{number:012d}.jpg"
            file.write(
                f'{"," if number > 1 else ""}{{"license": 3, "file_name": "{name}", '
                f'"coco_url": "http://images.cocodataset.org/train2017/{name}", "height": 480, "width": 640, '
                f'"date_captured": "2013-11-14 16:28:13", "id": {number}}}'
            )
        file.write('], "annotations": [')
        for start in range(0, annotations, CHUNK):
            file.write(("," if start else "") + _some_annotations(rng, start, min(CHUNK, annotations - start), images))
        categories = ",".join(f'{{"supercategory": "thing", "id": {i}, "name": "class {i}"}}' for i in range(1, 81))
        file.write(f'], "categories": [{categories}]}}')


def _some_annotations(rng: np.random.Generator, start: int, count: int, images: int) -> str:
    points = np.clip(rng.lognormal(2.85, 0.6, count), 5, 200).astype(int)
    owners = np.repeat(np.arange(count), points)
    centres, reach = rng.uniform((60, 60), (580, 420), (count, 2)), rng.uniform(5, 60, count)
    place = np.arange(len(owners)) - np.repeat(np.cumsum(points) - points, points)
    angles = 2 * np.pi * place / points[owners]
    radius = reach[owners] * rng.uniform(0.6, 1.0, len(owners))
    outline = centres[owners] + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outline = np.round(outline, 2)
    ends = np.cumsum(points)
    low, high = (edge.reduceat(outline, ends - points, axis=0) for edge in (np.minimum, np.maximum))
    texts = np.char.mod("%.2f", outline.ravel()).tolist()
    items = []
    for i, (end, length) in enumerate(zip((2 * ends).tolist(), (2 * points).tolist(), strict=True)):
        part = f"[{', '.join(texts[end - length : end])}]"
        parts = f"{part}, {part}" if i % 50 == 0 else part
        (x, y), (width, height) = low[i].tolist(), (high[i] - low[i]).tolist()
        items.append(
            f'{{"segmentation": [{parts}], "area": {0.7 * width * height:.4f}, "iscrowd": 0, '
            f'"image_id": {rng.integers(1, images + 1)}, "bbox": [{x:.2f}, {y:.2f}, {width:.2f}, {height:.2f}], '
            f'"category_id": {rng.integers(1, 81)}, "id": {start + i + 1}}}'
        )
    return ",".join(items)


# ---------------------------------------------------------------- one process


def open_ours(path: Path) -> Any:
    from maskrcnn_train.data.coco.reader import open_index

    return open_index(path)


def open_theirs(path: Path) -> Any:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def read_ours(index: Any) -> float:
    """What a loader process touches in an epoch: all masks and boxes of every image."""
    total = 0.0
    for row in range(index.num_images):
        for annotation in range(int(index.first[row]), int(index.first[row + 1])):
            total += sum(float(part[0]) for part in index.parts(annotation)) + float(index.boxes[annotation, 0])
    return total


def read_theirs(coco: Any) -> float:
    total = 0.0
    for image in coco.getImgIds():
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image)):
            total += sum(part[0] for part in annotation["segmentation"]) + annotation["bbox"][0]
    return total


OPEN: dict[str, Callable[[Path], Any]] = {"ours": open_ours, "pycocotools": open_theirs}
READ: dict[str, Callable[[Any], float]] = {"ours": read_ours, "pycocotools": read_theirs}


def pss_mb(process: int) -> float:
    """Proportional set size: pages that several processes map are shared out among them."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def measure(side: str, path: Path, *, workers: bool) -> None:
    began = time.perf_counter()
    data = OPEN[side](path)
    print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if workers:
        print(_added_by_workers(lambda: READ[side](data)))


def _added_by_workers(work: Callable[[], object]) -> float:
    """MB that forked processes add, after they and this process have done `work` once."""
    work()
    gc.collect()
    alone = pss_mb(os.getpid())
    children, pipes = [], []
    for _ in range(WORKERS):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            work()
            os.write(writing, b"x")
            time.sleep(3600)
        children.append(child)
        pipes.append(reading)
    for pipe in pipes:
        os.read(pipe, 1)
    together = sum(pss_mb(process) for process in [os.getpid(), *children])
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return together - alone


# ---------------------------------------------------------------- all of them


def run(side: str, path: Path, cache: Path, *, workers: bool = False) -> list[float]:
    command = [sys.executable, __file__, "--measure", side, "--file", str(path), *(["--workers"] if workers else [])]
    environment = {**os.environ, "MASKRCNN_TRAIN_CACHE": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--annotations", type=int, default=860_000)
    parser.add_argument("--folder", help="where the temporary folder is made; default: the system's")
    parser.add_argument("--measure", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workers", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.file, workers=arguments.workers)
        return
    from sides import machine  # imports torch, which the measured processes must not

    print(machine())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path, cache = Path(folder) / "instances.json", Path(folder) / "cache"
        write_annotations(path, arguments.images, arguments.annotations)
        size = path.stat().st_size / 2**20
        print(f"{arguments.images:,} images, {arguments.annotations:,} annotations, {size:.0f} MB of JSON")
        seconds, peak = run("ours", path, cache)
        print(f"ours, first start: {seconds:.1f} s, {peak:.0f} MB at the peak")
        seconds, peak, added = run("ours", path, cache, workers=True)
        print(f"ours, later start: {seconds:.2f} s, {peak:.0f} MB at the peak; {WORKERS} workers add {added:.0f} MB")
        seconds, peak, added = run("pycocotools", path, cache, workers=True)
        print(f"pycocotools, every start: {seconds:.1f} s, {peak:.0f} MB; {WORKERS} workers add {added:.0f} MB")


if __name__ == "__main__":
    main()
