"""How detections and objects of each image overlap, whatever their classes: where all diagnostics begin."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from maskrcnn_train.evaluation.coco.ground_truth import Coco
from maskrcnn_train.structures.arrays import Flags, Floats, Ints
from maskrcnn_train.structures.rle import compressed


@dataclass
class ImageOverlaps:
    """Detections (highest score first, D of them) and objects (G, crowd regions last) of one image.

    found: rows of the list of results [D]; scores [D]; found_classes [D] and object_classes [G]: 0..K-1, by id;
    found_areas [D], object_areas [G]: square pixels; objects: rows of the ground truth's annotations [G];
    crowd: bool [G]; ious: [D, G], of boxes or of masks; with a crowd region the share of the detection that lies in it.
    """

    image_id: int
    found: Ints
    scores: Floats
    found_classes: Ints
    found_areas: Floats
    objects: Ints
    object_classes: Ints
    object_areas: Floats
    crowd: Flags
    ious: Floats

    def first(self, count: int) -> ImageOverlaps:
        """With the `count` highest detections only."""
        names = ("found", "scores", "found_classes", "found_areas", "ious")
        return replace(self, **{name: getattr(self, name)[:count] for name in names})


def image_overlaps(
    ground_truth: Coco, results: Sequence[Coco], *, kind: str, max_detections: int
) -> list[ImageOverlaps]:
    """Overlaps in every image, by image id as COCO's evaluators go. kind: bbox, segm.

    ground_truth: as `complete_ground_truth` makes it; results: checked. max_detections: kept per image and class, as
    COCO does.
    """
    classes = {number: row for row, number in enumerate(sorted(c["id"] for c in ground_truth["categories"]))}
    objects_of, found_of = defaultdict(list), defaultdict(list)
    for row, annotation in enumerate(ground_truth["annotations"]):
        objects_of[annotation["image_id"]].append(row)
    for row, result in enumerate(results):
        found_of[result["image_id"]].append(row)
    overlaps = []
    for image in sorted(ground_truth["images"], key=lambda image: image["id"]):
        objects = sorted(objects_of[image["id"]], key=lambda row: ground_truth["annotations"][row]["iscrowd"])
        found = _best_of_each_class(found_of[image["id"]], results, max_detections)
        ours = [results[row] for row in found]
        theirs = [ground_truth["annotations"][row] for row in objects]
        crowd = [annotation["iscrowd"] for annotation in theirs]
        size = (image["height"], image["width"])
        shapes = _shapes(ours, kind, size), _shapes(theirs, kind, size)
        overlaps.append(
            ImageOverlaps(
                image_id=image["id"],
                found=np.array(found, np.int64),
                scores=np.array([result["score"] for result in ours], np.float64),
                found_classes=np.array([classes[result["category_id"]] for result in ours], np.int64),
                found_areas=_areas(shapes[0]),
                objects=np.array(objects, np.int64),
                object_classes=np.array([classes[annotation["category_id"]] for annotation in theirs], np.int64),
                object_areas=np.array([annotation["area"] for annotation in theirs], np.float64),
                crowd=np.array(crowd, bool),
                ious=overlap_ious(*shapes, crowd),
            )
        )
    return overlaps


def _best_of_each_class(rows: list[int], results: Sequence[Coco], most: int) -> list[int]:
    """Rows of the results, highest score first, at most `most` of each class; equal scores keep their order."""
    kept = []
    counts: dict[int, int] = defaultdict(int)
    for row in sorted(rows, key=lambda row: -results[row]["score"]):
        category = results[row]["category_id"]
        counts[category] += 1
        if counts[category] <= most:
            kept.append(row)
    return kept


def _shapes(items: Sequence[Coco], kind: str, size: tuple[int, int]) -> Floats | list[Coco]:
    """Boxes [N, 4] or codes, as pycocotools compares them."""
    if kind == "bbox":
        return np.array([item["bbox"] for item in items], np.float64).reshape(-1, 4)
    return [compressed(item["segmentation"], size) for item in items]


def _areas(shapes: Floats | list[Coco]) -> Floats:
    if isinstance(shapes, np.ndarray):
        return shapes[:, 2] * shapes[:, 3]
    return np.array([coco_mask.area(code) for code in shapes], np.float64)


def overlap_ious(found: Any, objects: Any, crowd: list[int]) -> Floats:
    if len(found) == 0 or len(objects) == 0:
        return np.zeros((len(found), len(objects)))
    with warnings.catch_warnings():  # its arrays have the signature of numpy 1
        warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
        return np.asarray(coco_mask.iou(found, objects, crowd), np.float64)
