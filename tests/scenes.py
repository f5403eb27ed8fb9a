"""A small validation with every kind of error, on two pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn_train.analysis.funnel import STAGES
from maskrcnn_train.analysis.trace import SIZES
from maskrcnn_train.data.pixels import RGB
from maskrcnn_train.evaluation.coco.metrics import evaluate_coco
from maskrcnn_train.evaluation.diagnostics.diagnostics import diagnose
from maskrcnn_train.reporting.pages.gallery import Scene, build_gallery
from maskrcnn_train.reporting.pages.html import write_report
from maskrcnn_train.structures.rle import compress_runs, crop_runs

SIZE = (120, 160)  # height, width
DOOR, WINDOW = 3, 7


def thing(image: int, category: int, x: int, y: int, w: int, h: int, **more: Any) -> dict[str, Any]:
    code = compress_runs([crop_runs(np.ones((h, w), np.uint8), x, y, SIZE)], SIZE)[0]
    return {"image_id": image, "category_id": category, "bbox": [x, y, w, h], "segmentation": code, **more}


def scene(folder: Path) -> Scene:
    """Image 1: two fine windows. Image 2: a door taken for a window, a window half found, one missed, a false alarm; a
    crowd of windows with a detection in it. Image 4: empty, and nothing found."""
    folder.mkdir(parents=True, exist_ok=True)
    objects = [
        thing(1, WINDOW, 10, 10, 30, 40),
        thing(1, WINDOW, 60, 10, 30, 40),
        thing(2, DOOR, 10, 60, 20, 50),
        thing(2, WINDOW, 60, 10, 40, 40),
        thing(2, WINDOW, 110, 10, 30, 30),
        thing(2, WINDOW, 100, 70, 50, 40, iscrowd=1),
    ]
    truth = {
        "images": [
            {"id": number, "height": SIZE[0], "width": SIZE[1], "file_name": f"{number}.png"} for number in (4, 1, 2)
        ],
        "categories": [{"id": DOOR, "name": "door"}, {"id": WINDOW, "name": "win<dow>"}],
        "annotations": [each | {"id": number, "area": 100.0} for number, each in enumerate(objects, start=1)],
    }
    results = [
        thing(1, WINDOW, 10, 10, 30, 40, score=0.9),
        thing(1, WINDOW, 60, 10, 30, 36, score=0.95),
        thing(1, WINDOW, 100, 60, 20, 20, score=0.01),
        thing(2, WINDOW, 10, 60, 20, 48, score=0.92),
        thing(2, WINDOW, 75, 25, 40, 40, score=0.91),
        thing(2, DOOR, 40, 90, 20, 20, score=0.94),
        thing(2, WINDOW, 110, 75, 20, 20, score=0.93),
    ]
    paths = {image["id"]: folder / image["file_name"] for image in truth["images"]}
    for number, path in enumerate(paths.values()):
        Image.new("RGB", SIZE[::-1], (60 * number, 90, 120)).save(path)
    return Scene(truth, results, paths, RGB, "segm", 100)


def full_run(folder: Path) -> Path:
    """A run with everything that a page can show, and its page."""
    found = scene(folder.parent / "images")
    result = evaluate_coco(
        found.ground_truth,
        found.results,
        backend="pycocotools",
        max_detections=[1, 10, 100],
    )
    diagnostics = diagnose(found.ground_truth, found.results, result, num_draws=100, seed=0)
    (folder / "study").mkdir(parents=True)
    (folder / "study" / "study.json").write_text(
        json.dumps({kind: each.to_plain() for kind, each in diagnostics.items()})
    )
    (folder / "metrics.json").write_text(json.dumps(result.metrics))
    split = {"annotations": "a.json", "images": 3, "empty_images": 1, "objects": 5, "crowd": 1}
    faults = [{"reason": "box has no area", "count": 2, "dropped": True, "first": "annotation 7"}]
    split |= {"classes": {"door": 1, "win<dow>": 4}, "not_used": faults}
    (folder / "data.json").write_text(json.dumps({"splits": {"train": split, "val": split}, "notes": ["a note"]}))
    analysis(folder / "analysis")
    return write_report(folder, gallery=build_gallery(found, worst=2, best=1, size=640))


def analysis(folder: Path) -> None:
    """What analyze leaves of two settings and four objects."""
    folder.mkdir(parents=True)
    stages = dict.fromkeys(STAGES, 0)
    rows = [
        {"by": by, "group": group, "objects": 4, "found": 1} | stages | {"post_nms": 3}
        for by, group in (("all", "all"), *(("size", size) for size in SIZES), ("class", "door"))
    ]
    trained = {"pre_test": 1000, "post_test": 400, "rpn_threshold": 0.7, "score_threshold": 0.05}
    trained |= {"nms_threshold": 0.5, "detections_per_image": 100, "mask_threshold": 0.5}
    fast = trained | {"post_test": 50}
    outcomes = [
        {
            "setting": setting,
            "milliseconds": time,
            "proposals": 9.0,
            "detections": 2.0,
            "tuned": ap,
            "reported": ap,
            "front": True,
        }
        for setting, time, ap in ((trained, 900.0, 0.3), (fast, 500.0, 0.29))
    ]
    recalls = [
        {"by": "all", "group": "all", "count": count, "objects": 4, "recall50": count / 200, "average_recall": 0.1}
        for count in (10, 100)
    ]
    plain = {
        "kind": "segm",
        "num_images": 3,
        "setting": trained,
        "recalls": recalls,
        "outcomes": outcomes,
        "winners": {"best": outcomes[0], "fast": outcomes[1]},
        "timed": {"trained": 950.0, "fast": 520.0},
        "funnel": {"kind": "segm", "iou": 0.5, "rows": rows},
    }
    (folder / "analysis.json").write_text(json.dumps(plain))
