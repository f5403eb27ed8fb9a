"""Files to score: ground truth as its author wrote it, and COCO results of any program."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from maskrcnn_train.data.coco.index import POLYGON, RLE, AnnotationIndex
from maskrcnn_train.data.coco.reader import open_index
from maskrcnn_train.data.paths import require_file
from maskrcnn_train.settings.errors import UserError

RESULT_KEYS = ("image_id", "category_id", "score")


def read_ground_truth(path: Path) -> dict[str, Any]:
    """A COCO JSON as its author wrote it, without the annotations and polygons that no evaluator could read.

    Boxes are not clipped to the image; ids, areas and the form of masks are those of the index. Raises UserError with
    one line for a fault of the file.
    """
    index = open_index(path)
    names = [index.file_name(row) for row in range(index.num_images)]
    columns = zip(index.image_ids.tolist(), index.image_sizes.tolist(), names, strict=True)
    return {
        "images": [{"id": i, "height": h, "width": w, "file_name": name} for i, (h, w), name in columns],
        "categories": [asdict(category) for category in index.categories],
        "annotations": [_annotation(index, row) for row in range(index.num_annotations)],
    }


def _annotation(index: AnnotationIndex, row: int) -> dict[str, Any]:
    image = int(index.image_rows[row])
    found = {
        "id": int(index.annotation_ids[row]),
        "image_id": int(index.image_ids[image]),
        "category_id": int(index.category_ids[row]),
        "iscrowd": int(index.crowd[row]),
        "area": float(index.areas[row]),
        "bbox": index.written_boxes[row].tolist(),
    }
    if index.kinds[row] == POLYGON:
        found["segmentation"] = [part.tolist() for part in index.parts(row)]
    elif index.kinds[row] == RLE:
        found["segmentation"] = {"size": list(index.size(image)), "counts": index.counts(row).tolist()}
    return found


def read_results(path: Path) -> list[dict[str, Any]]:
    """A COCO results file: a list of detections. Raises UserError with one line for anything else."""
    require_file(path, "give predictions=FILE, COCO results")
    try:
        content = orjson.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, list):
        raise UserError(f"{path} holds a {type(content).__name__}; COCO results are a list of detections")
    for number, result in enumerate(content):
        missing = [key for key in RESULT_KEYS if not isinstance(result, dict) or key not in result]
        if missing:
            raise UserError(f"{path}: result {number} has no {missing[0]}; COCO results need {', '.join(RESULT_KEYS)}")
    return content
