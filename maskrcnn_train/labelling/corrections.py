"""The labels with every doubt resolved as the model would: for import in an annotation tool, to be looked through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from maskrcnn_train.data.coco.index import Category
from maskrcnn_train.data.coco.results import coco_content
from maskrcnn_train.data.formats.coco import object_entry
from maskrcnn_train.data.formats.labelled import LabelledObject
from maskrcnn_train.data.formats.masks import has_pixels
from maskrcnn_train.data.splits.splitting import Split
from maskrcnn_train.evaluation.coco.ground_truth import Coco, of_images
from maskrcnn_train.labelling.suspicion import Doubt

TOLERANCE = 0.5  # pixels that the outline of a mask may be off
REMOVED = ("spurious", "doubled")


def corrected(
    split: Split,
    doubts: Sequence[Doubt],
    ground_truth: Coco,
    results: Sequence[Coco],
    categories: Mapping[int, Category],
) -> Coco:
    """The COCO JSON of a split with the proposed corrections.

    categories: those of the labels by the id of the class, see `categories_in`; one that they lack is added where it is
    proposed. Ids stay; objects that are added have ids above. Each annotation that was changed or added says so in its
    `attributes`, doubt and suspicion. What is not in doubt stays as it was, labels of no chosen class included.
    """
    content = of_images(coco_content(split.index), {image["id"] for image in ground_truth["images"]})
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    by_id = {ground_truth["annotations"][each.label]["id"]: each for each in doubts if each.label is not None}
    annotations = []
    for annotation in content["annotations"]:
        doubt = by_id.get(annotation["id"])
        if doubt is None:
            annotations.append(annotation)
        elif doubt.kind == "wrong class":
            annotations.append(annotation | _category(doubt, categories) | _attributes(doubt))
        elif doubt.kind not in REMOVED:
            annotations.append(_changed(annotation, doubt, results, sizes[doubt.image_id]) | _attributes(doubt))
    number = max((each["id"] for each in content["annotations"]), default=0)
    for doubt in doubts:
        if doubt.label is None and doubt.found is not None:
            number += 1
            own = {"id": number, "image_id": doubt.image_id} | _category(doubt, categories)
            annotations.append(own | _detected(results[doubt.found], sizes[doubt.image_id]) | _attributes(doubt))
    known, used = {each["id"] for each in content["categories"]}, {each["category_id"] for each in annotations}
    added = [asdict(each) for each in categories.values() if each.id in used - known]
    return content | {"annotations": annotations, "categories": content["categories"] + added}


def _changed(annotation: Coco, doubt: Doubt, results: Sequence[Coco], size: tuple[int, int]) -> Coco:
    """An annotation with box or mask as the model has it; without a mask where that would belong to another box."""
    if doubt.found is None:
        return annotation
    found = _detected(results[doubt.found], size)
    if doubt.kind == "poor mask":
        return annotation | {key: found[key] for key in ("area", "segmentation") if key in found}
    bare = {key: value for key, value in annotation.items() if key != "segmentation"}
    return bare | {key: found[key] for key in ("bbox", "area", "segmentation") if key in found}


def _detected(result: Coco, size: tuple[int, int]) -> Coco:
    """A detection as an annotation has it."""
    box = [round(float(value), 2) for value in result["bbox"]]
    found = LabelledObject("", result.get("segmentation"), box)
    return object_entry(found if has_pixels(found) else LabelledObject("", None, box), size, TOLERANCE)


def _category(doubt: Doubt, categories: Mapping[int, Category]) -> Coco:
    assert doubt.proposed is not None
    return {"category_id": categories[doubt.proposed].id}


def _attributes(doubt: Doubt) -> Coco:
    return {"attributes": {"doubt": doubt.kind, "suspicion": round(doubt.suspicion, 4)}}
