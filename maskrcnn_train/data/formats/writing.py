"""Writes checked labels as a data set of any format."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from maskrcnn_train.data.coco.index import AnnotationIndex
from maskrcnn_train.data.coco.results import segmentation_of
from maskrcnn_train.data.formats.labelled import DataSet, LabelledImage, LabelledObject
from maskrcnn_train.data.formats.masks import has_pixels
from maskrcnn_train.data.formats.registry import FORMATS
from maskrcnn_train.data.sources import SUFFIXES
from maskrcnn_train.structures.arrays import Ints
from maskrcnn_train.structures.classes import ClassMap

ENDING = "images cannot be found beside their labels by the ending of their names (save them as PNG)"
EMPTY = "objects without a pixel were left out"
logger = logging.getLogger("maskrcnn_train")


def labelled_images(
    index: AnnotationIndex, rows: Ints, labels: Ints, classes: ClassMap, images: Path
) -> Iterator[LabelledImage]:
    """Some images of an index with the objects that have a class.

    labels: of each annotation of the index, 0 for none. images: the folder that file names are relative to.
    """
    for row in rows.tolist():
        name = index.file_name(row)
        image = LabelledImage(name, index.size(row), path=images / name, id=int(index.image_ids[row]))
        own = index.annotations(row)
        for each in range(own.start, own.stop):
            if labels[each]:
                shape, box = segmentation_of(index, each), index.written_boxes[each].tolist()
                class_name = classes.name_of(int(labels[each]))
                crowd, area = bool(index.crowd[each]), float(index.areas[each])
                image.objects.append(LabelledObject(class_name, shape, box, crowd, area=area))
        yield image


def tell_left_out(count: int) -> None:
    """Of crowd regions, for whoever asked for another format than COCO's."""
    if count:
        logger.warning("%d crowd regions were left out: only COCO has them", count)


def write_labels(folder: Path, format_: str, data: DataSet, *, tolerance: float) -> int:
    """Write a data set; returns how many crowd regions were left out, which only COCO has.

    tolerance: pixels by which the outlines of bitmaps may be off; 0: they stay bitmaps where the format has them.
    """
    chosen, left_out = FORMATS[format_], 0

    def storable(images: Iterable[LabelledImage]) -> Iterator[LabelledImage]:
        nonlocal left_out
        for image in images:
            if chosen.by_ending and not image.file_name.lower().endswith(SUFFIXES):
                data.remarks[ENDING].append(image.file_name)
            objects = [each for each in image.objects if format_ == "coco" or not each.crowd]
            left_out += len(image.objects) - len(objects)
            image.objects = [each for each in objects if has_pixels(each)]
            data.remarks[EMPTY] += [image.file_name] * (len(objects) - len(image.objects))
            yield image

    parts = {part: storable(own) for part, own in data.parts.items()}
    chosen.write(folder, replace(data, parts=parts), tolerance=tolerance)
    for what, names in data.remarks.items():
        if names:
            logger.warning("%s: %d %s; first: %s", format_, len(names), what, names[0])
    return left_out
