"""The checked input of an evaluation: every field that the evaluators need, in one form.

COCO's evaluators read fields that many files lack (`area`, `iscrowd`), take annotation id 0 for
"no match", and crash or hang on a malformed code. All of it is checked and completed here, once.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn_train.data.coco.entries import shown
from maskrcnn_train.evaluation.coco.codes import DAMAGED, code_areas
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.rle import compressed

Coco = dict[str, Any]
IMAGE_ID = {"images": "id", "annotations": "image_id"}  # where each item has it


def of_images(ground_truth: Coco, image_ids: set[int]) -> Coco:
    """A ground truth of these images alone."""
    kept = {key: [item for item in ground_truth[key] if item[name] in image_ids] for key, name in IMAGE_ID.items()}
    return {**ground_truth, **kept}


def complete_ground_truth(ground_truth: Coco, kinds: Sequence[str]) -> Coco:
    """A copy of a COCO dict with ids from 1, and with `area` and `iscrowd` on every annotation."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    annotations = []
    for number, annotation in enumerate(ground_truth["annotations"], start=1):
        if "segm" in kinds and not annotation.get("segmentation"):
            raise UserError(
                f"annotation {annotation.get('id')} has no segmentation; "
                'evaluate boxes only (kinds=["bbox"]), or give every object a mask'
            )
        filled = {**annotation, "id": number, "iscrowd": int(annotation.get("iscrowd") or 0)}
        if annotation.get("area") is None:
            if shape := annotation.get("segmentation"):
                filled["area"] = float(coco_mask.area(compressed(shape, sizes[annotation["image_id"]])))
            else:
                filled["area"] = float(annotation["bbox"][2] * annotation["bbox"][3])
        annotations.append(filled)
    return {"images": ground_truth["images"], "categories": ground_truth["categories"], "annotations": annotations}


def check_results(ground_truth: Coco, results: Sequence[Coco], kinds: Sequence[str]) -> list[float]:
    """Raises UserError for the first result that doesn't belong to this ground truth or is malformed.

    Returns the areas of the masks, square pixels, if `kinds` has segm.
    """
    sizes = {image["id"]: [image["height"], image["width"]] for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    for index, result in enumerate(results):
        if fault := _fault(result, sizes, categories, kinds):
            raise UserError(f"result {index} {fault}")
    return _mask_areas(results) if "segm" in kinds else []


def _fault(result: Coco, sizes: dict[int, list[int]], categories: set[int], kinds: Sequence[str]) -> str | None:
    """What is wrong with one result, as the end of a sentence; None if nothing is."""
    try:
        image_id, category_id, score = result["image_id"], result["category_id"], result["score"]
        size, known = sizes.get(image_id), category_id in categories
    except KeyError as missing:
        return f"has no {missing.args[0]}"
    except TypeError:  # a list or an object
        return f"has image_id {shown(image_id)} and category_id {shown(category_id)}; both are whole numbers"
    if size is None:
        if isinstance(image_id, str) and image_id in map(str, sizes):
            return f"has image_id {shown(image_id)} as text; the ground truth has the number {image_id}"
        return f"has image_id {shown(image_id)}, which the ground truth lacks; were the results made on another split?"
    if not known:
        return f"has category_id {shown(category_id)}; the ground truth has {_shortened(sorted(categories))}"
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        return f"(image {image_id}) has score {shown(score)}; it must be a finite number"
    if "bbox" in kinds and not _is_box(result.get("bbox")):
        expected = "[x, y, width, height], finite, with sides from 0"
        return f"(image {image_id}) has bbox {shown(result.get('bbox'))}; it must be {expected}"
    fault = _segmentation_fault(result.get("segmentation"), size) if "segm" in kinds else None
    return None if fault is None else f"(image {image_id}) {fault}"


def _segmentation_fault(code: Any, size: list[int]) -> str | None:
    if not isinstance(code, dict) or "counts" not in code:
        return "has no RLE segmentation; results carry {'size': [h, w], 'counts': ...}, not polygons"
    given, counts = code.get("size"), code["counts"]
    if given != size or type(given[0]) is float or type(given[1]) is float:  # 40.0 == 40, but no evaluator takes it
        return f"has an RLE of size {shown(given)}; the image is {size} (height, width)"
    if isinstance(counts, list):
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            return "has RLE counts that are not whole numbers from 0"
        if sum(counts) != size[0] * size[1]:
            return f"has RLE counts that add up to {sum(counts)}, not {size[0]} x {size[1]} pixels"
    elif not isinstance(counts, str | bytes):
        return "has RLE counts that are neither a text nor a list"
    return None


def _mask_areas(results: Sequence[Coco], chunk: int = 200) -> list[float]:
    """Area of each mask, read in chunks whose arrays fit a cache. Raises UserError for a damaged one."""
    found: list[float] = []
    for start in range(0, len(results), chunk):
        codes = [result["segmentation"] for result in results[start : start + chunk]]
        areas = np.array([sum(code["counts"][1::2]) if isinstance(code["counts"], list) else 0 for code in codes])
        packed = [index for index, code in enumerate(codes) if not isinstance(code["counts"], list)]
        counts = [codes[index]["counts"] for index in packed]
        texts = [code.decode("latin-1") if isinstance(code, bytes) else code for code in counts]
        areas[packed] = code_areas(texts, [math.prod(codes[index]["size"]) for index in packed])
        if (areas == DAMAGED).any():
            index = int((areas == DAMAGED).argmax())
            height, width = codes[index]["size"]
            raise UserError(
                f"result {start + index} (image {results[start + index]['image_id']}) has RLE counts that don't "
                f"describe {height} x {width} pixels; the file is damaged or not COCO's RLE"
            )
        found += areas.astype(float).tolist()
    return found


def _is_box(box: Any) -> bool:
    try:
        return len(box) == 4 and math.isfinite(sum(box)) and box[2] >= 0 <= box[3]  # a sum is finite only if all are
    except TypeError:
        return False


def _shortened(ids: list[int], most: int = 8) -> str:
    return ", ".join(map(str, ids[:most])) + (f", ... ({len(ids)} in all)" if len(ids) > most else "")


def results_as_ground_truth(
    ground_truth: Coco, results: Sequence[Coco], kind: str, mask_areas: Sequence[float]
) -> Coco:
    """Results as the COCO dict an evaluator compares with, `area` being that of the mask for `segm`.

    pycocotools' own `loadRes` takes the box's area even for masks when a result has both, which moves
    objects between APs, APm and APl; Detectron2 drops the boxes for that reason. So do we.
    """
    if kind == "segm":
        areas = mask_areas
        codes = (result["segmentation"] for result in results)
        extra = [{"bbox": [0, 0, 0, 0], "segmentation": compressed(code, code["size"])} for code in codes]
    else:
        areas = [float(result["bbox"][2] * result["bbox"][3]) for result in results]
        extra = [{"bbox": list(result["bbox"])} for result in results]
    annotations = [
        {
            "id": number,
            "image_id": result["image_id"],
            "category_id": result["category_id"],
            "score": result["score"],
            "iscrowd": 0,
            "area": area,
            **more,
        }
        for number, (result, area, more) in enumerate(zip(results, areas, extra, strict=True), start=1)
    ]
    return {**ground_truth, "annotations": annotations}
