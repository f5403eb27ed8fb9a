"""Files to score: ground truth as its author wrote it, and COCO results of any program."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from maskrcnn_train.data.coco.index import NO_MASK, POLYGON, AnnotationIndex
from maskrcnn_train.data.paths import require_file
from maskrcnn_train.data.texts import read_json
from maskrcnn_train.settings.errors import UserError

RESULT_KEYS = ("image_id", "category_id", "score")


def coco_content(index: AnnotationIndex) -> dict[str, Any]:
    """The content of an index in COCO's form: a JSON as its author wrote it, without what no evaluator could read.

    Boxes are not clipped to the image; ids, areas and the form of masks are those of the index.
    """
    return {
        "images": [index.image_entry(row) for row in range(index.num_images)],
        "categories": [asdict(category) for category in index.categories],
        "annotations": [_annotation(index, row) for row in range(index.num_annotations)],
    }


def _annotation(index: AnnotationIndex, row: int) -> dict[str, Any]:
    shape = segmentation_of(index, row)
    return index.annotation_entry(row) | ({} if shape is None else {"segmentation": shape})


def segmentation_of(index: AnnotationIndex, row: int) -> Any:
    """The mask of annotation `row` in COCO's form: polygons, or run lengths as a list; None without one."""
    if index.kinds[row] == NO_MASK:
        return None
    if index.kinds[row] == POLYGON:
        return [part.tolist() for part in index.parts(row)]
    return {"size": list(index.size(int(index.image_rows[row]))), "counts": index.counts(row).tolist()}


def read_results(path: Path) -> list[dict[str, Any]]:
    """A COCO results file: a list of detections. Raises UserError with one line for anything else."""
    require_file(path, "give predictions=FILE, COCO results")
    content = read_json(path)
    if not isinstance(content, list):
        raise UserError(f"{path} holds a {type(content).__name__}; COCO results are a list of detections")
    for number, result in enumerate(content):
        missing = [key for key in RESULT_KEYS if not isinstance(result, dict) or key not in result]
        if missing:
            raise UserError(f"{path}: result {number} has no {missing[0]}; COCO results need {', '.join(RESULT_KEYS)}")
    return content
