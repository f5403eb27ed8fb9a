"""The checked input of an evaluation: what the evaluators need, whole and in one form.

COCO's evaluators read fields that many files lack (`area`, `iscrowd`), take annotation id 0 for
"no match", and crash or hang on a malformed code. Everything is settled here, once, for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pycocotools import mask as coco_mask

from maskrcnn_train.evaluation.rle import find_bad_counts

Coco = dict[str, Any]
CODES_A_CALL = 200  # under numpy 2 pycocotools 2.0.11 takes at most 255


def complete_ground_truth(ground_truth: Coco, kinds: Sequence[str]) -> Coco:
    """A copy of a COCO dict with ids from 1, and with `area` and `iscrowd` on every annotation."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    annotations = []
    for number, annotation in enumerate(ground_truth["annotations"], start=1):
        if "segm" in kinds and not annotation.get("segmentation"):
            raise ValueError(
                f"annotation {annotation.get('id')} has no segmentation; "
                'evaluate boxes only (kinds=["bbox"]), or give every object a mask'
            )
        filled = {**annotation, "id": number, "iscrowd": int(annotation.get("iscrowd") or 0)}
        if annotation.get("area") is None:
            filled["area"] = _area(annotation, *sizes[annotation["image_id"]])
        annotations.append(filled)
    return {"images": ground_truth["images"], "categories": ground_truth["categories"], "annotations": annotations}


def _area(annotation: Coco, height: int, width: int) -> float:
    """Square pixels of the mask, or of the box where there is none."""
    shape = annotation.get("segmentation")
    if not shape:
        return float(annotation["bbox"][2] * annotation["bbox"][3])
    if isinstance(shape, list):
        shape = coco_mask.merge(coco_mask.frPyObjects(shape, height, width))
    elif isinstance(shape["counts"], list):
        shape = coco_mask.frPyObjects(shape, height, width)
    return float(coco_mask.area(shape))


def check_results(ground_truth: Coco, results: Sequence[Coco], kinds: Sequence[str]) -> None:
    """Raise ValueError for the first result that doesn't belong to this ground truth or is malformed."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    categories = {category["id"] for category in ground_truth["categories"]}
    for index, result in enumerate(results):
        fault = _fault(result, sizes, categories, kinds)
        if fault:
            raise ValueError(f"result {index} {fault}")
    if "segm" in kinds:
        _check_codes(results)


def _fault(result: Coco, sizes: dict[int, tuple[int, int]], categories: set[int], kinds: Sequence[str]) -> str | None:
    """What is wrong with one result, as the end of a sentence; None if nothing is."""
    missing = [key for key in ("image_id", "category_id", "score") if key not in result]
    if missing:
        return f"has no {missing[0]}"
    image_id, category_id, score = result["image_id"], result["category_id"], result["score"]
    if image_id not in sizes:
        return f"has image_id {image_id}, which the ground truth lacks; were the results made on another split?"
    if category_id not in categories:
        return f"has category_id {category_id}; the ground truth has {_shortened(sorted(categories))}"
    if not isinstance(score, int | float) or not math.isfinite(score):
        return f"(image {image_id}) has score {score}; it must be a finite number"
    if "bbox" in kinds and not _is_box(result.get("bbox")):
        return f"(image {image_id}) has bbox {result.get('bbox')}; it must be [x, y, width, height], finite"
    return _segmentation_fault(result, sizes[image_id]) if "segm" in kinds else None


def _segmentation_fault(result: Coco, size: tuple[int, int]) -> str | None:
    code = result.get("segmentation")
    where = f"(image {result['image_id']})"
    if not isinstance(code, dict) or "counts" not in code:
        return f"{where} has no RLE segmentation; results carry {{'size': [h, w], 'counts': ...}}, not polygons"
    if tuple(code.get("size", ())) != size:
        return f"{where} has an RLE of size {code.get('size')}; the image is {list(size)} (height, width)"
    if isinstance(code["counts"], list) and sum(code["counts"]) != size[0] * size[1]:
        return f"{where} has RLE counts that add up to {sum(code['counts'])}, not {size[0]} x {size[1]} pixels"
    return None


def _check_codes(results: Sequence[Coco], chunk: int = 5000) -> None:
    """Check that compressed counts cover their images, some thousands at a time to bound the memory."""
    codes = [(i, r["segmentation"]) for i, r in enumerate(results) if not isinstance(r["segmentation"]["counts"], list)]
    for start in range(0, len(codes), chunk):
        part = codes[start : start + chunk]
        counts = [_text(code["counts"]) for _, code in part]
        bad = find_bad_counts(counts, [code["size"][0] * code["size"][1] for _, code in part])
        if bad is not None:
            index, code = part[bad]
            raise ValueError(
                f"result {index} (image {results[index]['image_id']}) has RLE counts that don't "
                f"describe {code['size'][0]} x {code['size'][1]} pixels; the file is damaged or not COCO's RLE"
            )


def _text(counts: str | bytes) -> str:
    return counts.decode("latin-1") if isinstance(counts, bytes) else counts


def _is_box(box: Any) -> bool:
    return isinstance(box, Sequence) and len(box) == 4 and all(math.isfinite(number) for number in box)


def _shortened(ids: list[int], most: int = 8) -> str:
    return ", ".join(map(str, ids[:most])) + (f", ... ({len(ids)} in all)" if len(ids) > most else "")


def results_as_ground_truth(ground_truth: Coco, results: Sequence[Coco], kind: str) -> Coco:
    """Results as the COCO dict an evaluator compares with, `area` being that of the mask for `segm`.

    pycocotools' own `loadRes` takes the box's area even for masks when a result has both, which moves
    objects between APs, APm and APl; Detectron2 drops the boxes for that reason. So do we.
    """
    codes = [_code(result["segmentation"]) for result in results] if kind == "segm" else []
    if kind == "segm":
        areas = [
            area for start in range(0, len(codes), CODES_A_CALL) for area in _areas(codes[start : start + CODES_A_CALL])
        ]
    else:
        areas = [result["bbox"][2] * result["bbox"][3] for result in results]
    annotations = []
    for number, (result, area) in enumerate(zip(results, areas, strict=True), start=1):
        annotation = {key: result[key] for key in ("image_id", "category_id", "score")}
        annotation |= {"id": number, "iscrowd": 0, "area": float(area)}
        annotation["bbox"] = list(result["bbox"]) if kind == "bbox" else [0, 0, 0, 0]
        if kind == "segm":
            annotation["segmentation"] = codes[number - 1]
        annotations.append(annotation)
    return {**ground_truth, "annotations": annotations}


def _areas(codes: list[Coco]) -> list[float]:
    areas: list[float] = coco_mask.area(codes).astype(float).tolist()
    return areas


def _code(code: Coco) -> Coco:
    """Compressed counts, also where a file has them as a list."""
    return coco_mask.frPyObjects(code, *code["size"]) if isinstance(code["counts"], list) else code
