"""Box and mask mAP of 500 images, 80 classes, 20 detections an image: pycocotools against our default evaluator.

python benchmarks/coco_map.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sides import in_turn, machine, print_ratios

from maskrcnn_train.evaluation.coco.metrics import evaluate_coco
from maskrcnn_train.settings.compose import load_config
from maskrcnn_train.settings.schema import EvaluationConfig
from maskrcnn_train.structures.rle import compress_runs, crop_runs

IMAGES, CLASSES, OBJECTS, DETECTIONS = 500, 80, 7, 20
SIZE = (480, 640)  # height, width
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def ellipse(rng: np.random.Generator, around: list[float] | None = None) -> tuple[list[float], dict[str, Any], int]:
    """A box x y width height, the code of an ellipse inside it, and its area; near a box where one is given."""
    if around is None:
        width, height = (8 + 250 * rng.random(2) ** 2).astype(int)
        x, y = rng.integers(0, SIZE[1] - width), rng.integers(0, SIZE[0] - height)
    else:
        width, height = (max(4, int(side * rng.uniform(0.8, 1.2))) for side in around[2:])
        width, height = min(width, SIZE[1]), min(height, SIZE[0])
        x = int(np.clip(around[0] + rng.integers(-4, 5), 0, SIZE[1] - width))
        y = int(np.clip(around[1] + rng.integers(-4, 5), 0, SIZE[0] - height))
    ys, xs = (np.linspace(-1, 1, int(side)) for side in (height, width))
    bitmap = (ys[:, None] ** 2 + xs**2 <= 1).astype(np.uint8)
    return (
        [float(x), float(y), float(width), float(height)],
        compress_runs([crop_runs(bitmap, int(x), int(y), SIZE)], SIZE)[0],
        int(bitmap.sum()),
    )


def data() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rng = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id in range(1, IMAGES + 1):
        images.append({"id": image_id, "height": SIZE[0], "width": SIZE[1], "file_name": f"{image_id}.jpg"})
        objects = []
        for _ in range(OBJECTS):
            box, code, area = ellipse(rng)
            category = int(rng.integers(1, CLASSES + 1))
            objects.append((box, category))
            annotation = {"id": len(annotations) + 1, "image_id": image_id, "category_id": category, "iscrowd": 0}
            annotations.append(annotation | {"bbox": box, "segmentation": code, "area": area})
        for number in range(DETECTIONS):
            near, category = objects[number % OBJECTS]
            box, code, _ = ellipse(rng, near if rng.random() < 0.7 else None)
            if rng.random() < 0.2:
                category = int(rng.integers(1, CLASSES + 1))
            result = {"image_id": image_id, "category_id": category, "score": float(rng.random())}
            results.append(result | {"bbox": box, "segmentation": code})
    categories = [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, results


def theirs(truth: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, float]:
    numbers: dict[str, float] = {}
    for kind in ("bbox", "segm"):
        with contextlib.redirect_stdout(io.StringIO()):
            reference = COCO()
            reference.dataset = copy.deepcopy(truth)
            reference.createIndex()
            # with a box beside the mask pycocotools takes the box's area as the mask's
            plain = [{key: value for key, value in each.items() if kind == "bbox" or key != "bbox"} for each in results]
            evaluation = COCOeval(reference, reference.loadRes(plain), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        numbers |= {f"{kind}/{name}": float(value) for name, value in zip(NAMES, evaluation.stats, strict=True)}
    return numbers


def ours(truth: dict[str, Any], results: list[dict[str, Any]], section: EvaluationConfig) -> dict[str, float]:
    return evaluate_coco(truth, results, backend=section.backend, max_detections=section.max_detections).metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(machine())
    section = load_config().evaluation
    truth, results = data()
    expected, found = theirs(truth, results), ours(truth, results, section)
    print(
        f"largest difference of the 24 numbers: {max(abs(found[name] - value) for name, value in expected.items()):.1g}"
    )
    sides = {"pycocotools": lambda: theirs(truth, results), "ours": lambda: ours(truth, results, section)}
    print_ratios(in_turn(sides, rounds, warmup=0), "ours")


if __name__ == "__main__":
    main()
