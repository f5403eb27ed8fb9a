"""Random ground truth and results in COCO's form."""

from __future__ import annotations

import numpy as np
from pycocotools import mask as coco_mask

NAMES = {3: "window", 7: "door", 40: "shop", 41: "never"}
HEIGHT, WIDTH = 150, 170


def rle(box):
    x, y, w, h = (round(v) for v in box)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    mask[y : y + h // 3, x : x + w // 3] = 0
    code = coco_mask.encode(mask)
    return {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}


def random_box(rng):
    w, h = np.exp(rng.uniform(np.log(4), np.log(140), 2))
    return [float(rng.uniform(0, WIDTH - w)), float(rng.uniform(0, HEIGHT - h)), float(w), float(h)]


def random_data(seed, num_images=6):
    """Ground truth with crowds, images without objects, polygons; results with ties and strangers."""
    rng = np.random.default_rng(seed)
    truth = {
        "images": [{"id": i * 5, "height": HEIGHT, "width": WIDTH} for i in range(num_images)],
        "categories": [{"id": i, "name": n} for i, n in NAMES.items()],
        "annotations": [],
    }
    results = []
    for image in truth["images"]:
        for _ in range(int(rng.integers(0, 7))):
            box, crowd = random_box(rng), int(rng.random() < 0.15)
            x, y, w, h = box
            polygon = not crowd and rng.random() < 0.4
            shape = [[x, y, x + w, y, x + w, y + h, x, y + h]] if polygon else rle(box)
            area = w * h if polygon else float(coco_mask.area(shape))
            category = int(rng.choice([3, 7, 40]))
            truth["annotations"].append(
                {"id": len(truth["annotations"]), "image_id": image["id"], "category_id": category, "bbox": box}
                | {"area": area, "iscrowd": crowd, "segmentation": shape}
            )
            for _ in range(int(rng.integers(0, 4))):
                near = [max(0.0, v + rng.normal(0, 2)) for v in box]
                near[2], near[3] = max(near[2], 3.0), max(near[3], 3.0)
                results.append({"image_id": image["id"], "category_id": category, "bbox": near})
        for _ in range(int(rng.integers(0, 4))):
            results.append({"image_id": image["id"], "category_id": int(rng.choice(list(NAMES)))})
            results[-1]["bbox"] = random_box(rng)
    for result in results:
        result |= {"score": float(np.round(rng.random(), 1)), "segmentation": rle(result["bbox"])}
    return truth, results
