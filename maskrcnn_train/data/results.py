"""Files of other programs, to be scored: the ground truth as it stands, and COCO results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from maskrcnn_train.data.coco import open_index, parse_json

RESULT_KEYS = ("image_id", "category_id", "score")


def read_ground_truth(path: Path) -> dict[str, Any]:
    """A COCO JSON as its author wrote it, without the annotations that no evaluator could read.

    Raises ValueError with one line for a fault of the file.
    """
    index = open_index(path)
    dropped = {item for finding in index.skipped if finding.dropped for item in finding.ids}
    content = parse_json(path)
    kept = [each for each in content["annotations"] if each.get("id") not in dropped]
    return {"images": content["images"], "categories": content["categories"], "annotations": kept}


def read_results(path: Path) -> list[dict[str, Any]]:
    """A COCO results file: a list of detections. Raises ValueError with one line for anything else."""
    if not path.is_file():
        raise ValueError(f"predictions={path} does not exist")
    try:
        content = orjson.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, list):
        raise ValueError(f"{path} holds a {type(content).__name__}; COCO results are a list of detections")
    for number, result in enumerate(content):
        missing = [key for key in RESULT_KEYS if not isinstance(result, dict) or key not in result]
        if missing:
            raise ValueError(f"{path}: result {number} has no {missing[0]}; COCO results need {', '.join(RESULT_KEYS)}")
    return content
