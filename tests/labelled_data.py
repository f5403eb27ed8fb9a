"""Data sets of every format, written from the built-in shapes, and what is compared of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from maskrcnn_train.data.formats.labelled import DataSet, LabelledImage
from maskrcnn_train.data.formats.masks import bitmap_of
from maskrcnn_train.data.formats.writing import labelled_images, write_labels
from maskrcnn_train.data.splits.splitting import Split, read_parts
from maskrcnn_train.settings.compose import default_config
from maskrcnn_train.settings.schema import ShapesConfig
from maskrcnn_train.structures.classes import ClassMap
from maskrcnn_train.structures.rle import compressed

Parts = tuple[dict[str, Split], ClassMap]
Objects = dict[tuple[str, str], list[tuple[str, NDArray[np.float64], dict]]]


def parts_of(name: str, root: Path, **more: object) -> Parts:
    data = replace(default_config().data, name=name, root=str(root), **more)
    parts, classes, _ = read_parts(data, with_images=False)
    return parts, classes


def few_shapes(root: Path) -> Parts:
    """Some pictures of 96 pixels: polygons, run lengths, rings with a hole, hidden and cut shapes, empty images."""
    shapes = ShapesConfig(num_train=14, num_val=3, num_test=2, image_size=96, seed=0)
    return parts_of("shapes", root, shapes=shapes)


def images_of(parts: Parts) -> dict[str, Iterable[LabelledImage]]:
    splits, classes = parts
    return {name: labelled_images(s.index, s.rows, s.labels, classes, s.images) for name, s in splits.items()}


def write(parts: Parts, format_: str, folder: Path, *, tolerance: float) -> Path:
    write_labels(folder, format_, DataSet(parts[1].name_of_id, images_of(parts)), tolerance=tolerance)
    return folder


def areas(image: LabelledImage) -> list[int]:
    crops = [bitmap_of(each, image.size) for each in image.objects]
    return [0 if crop is None else int(crop[2].sum()) for crop in crops]


def objects_of(parts: Parts) -> Objects:
    """Class, box x y width height of the pixels, and mask of every object, by part and name of the image."""
    found: Objects = {}
    for name, images in images_of(parts).items():
        for image in images:
            assert all(each.segmentation for each in image.objects), "only masks are compared: a box has none"
            codes = [compressed(each.segmentation, image.size) for each in image.objects]
            boxes = [coco_mask.toBbox(code) for code in codes]
            own = zip([each.name for each in image.objects], boxes, codes, strict=True)
            found[name, Path(image.file_name).stem.removeprefix(f"{name}_")] = sorted(
                own, key=lambda item: (item[0], *item[1].tolist())
            )
    return found


def differences(first: Objects, second: Objects) -> tuple[float, float]:
    """The smallest IoU of the masks, and the largest difference of the boxes, of the same objects in the same order."""
    assert {key: [name for name, *_ in own] for key, own in first.items()} == {
        key: [name for name, *_ in own] for key, own in second.items()
    }
    ious, boxes = [1.0], [0.0]
    for key, own in first.items():
        for (_, box, code), (_, other_box, other) in zip(own, second[key], strict=True):
            ious.append(float(coco_mask.iou([code], [other], [0])[0, 0]))
            boxes.append(float(np.abs(box - other_box).max()))
    return min(ious), max(boxes)
