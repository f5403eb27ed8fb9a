"""A torch data set of resized images with boxes, labels and compact masks, and its COCO ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import Dataset

from maskrcnn_train.batch import MaskCrops, Target
from maskrcnn_train.data import masks
from maskrcnn_train.data.classes import ClassMap
from maskrcnn_train.data.images import ImageError, decode
from maskrcnn_train.data.index import NO_MASK, RLE
from maskrcnn_train.data.splitting import Split
from maskrcnn_train.data.transforms import Geometry, Transform

Key = int | tuple[int, int]  # position, or (epoch, position) for random augmentation
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MIN_SIDE = 1.0  # network pixels; smaller objects cannot be told from noise and are left out


@dataclass
class Sample:
    """One image as the loader collects it. faults: messages of images that were unreadable.

    pixels: uint8 [3, h, w], None where the image was unreadable and nothing may stand in for it.
    """

    pixels: Tensor | None
    target: Target
    original_size: tuple[int, int]
    faults: list[str] = field(default_factory=list)


class CocoDataset(Dataset[tuple[Tensor, Target, tuple[int, int]]]):
    """Images of one split, resized and augmented.

    An item is (uint8 [3, h, w], target, (height, width) as decoded). Its key is a position, or
    (epoch, position) for training: augmentation then depends on nothing but seed, epoch and position.
    skip_bad_images: an unreadable training image is replaced by the next; others raise ImageError.
    """

    def __init__(
        self,
        *,
        split: Split,
        classes: ClassMap,
        transform: Transform,
        with_masks: bool = True,
        seed: int = 0,
        keep_empty: bool = True,
        skip_bad_images: bool = False,
    ) -> None:
        self.split = split
        self.classes = classes
        self.transform = transform
        self.with_masks = with_masks
        self.seed = seed
        self.skip_bad_images = skip_bad_images
        self.rows = split.rows if keep_empty else self._rows_with_objects()

    def _rows_with_objects(self) -> Ints:
        index = self.split.index
        counts = np.bincount(index.image_rows[~np.asarray(index.crowd)], minlength=index.num_images)
        return self.split.rows[counts[self.split.rows] > 0]

    def __len__(self) -> int:
        return len(self.rows)

    def is_wide(self) -> NDArray[np.bool_]:
        """Which images are at least as wide as high: bool [n]."""
        sizes = self.split.index.image_sizes[self.rows]
        return np.asarray(sizes[:, 1] >= sizes[:, 0])

    def image_path(self, position: int) -> str:
        return str(self.split.images / self.split.index.file_name(int(self.rows[position])))

    def __getitem__(self, key: Key) -> tuple[Tensor, Target, tuple[int, int]]:
        sample = self._load(key)
        assert sample.pixels is not None
        return sample.pixels, sample.target, sample.original_size

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample]:
        """The samples of one batch; called by torch's DataLoader."""
        return [self._load_or_skip(key) if self.skip_bad_images else self._load(key) for key in keys]

    def _load(self, key: Key) -> Sample:
        epoch, position = key if isinstance(key, tuple) else (None, key)
        index, row = self.split.index, int(self.rows[position])
        rng = None if epoch is None else np.random.default_rng([self.seed, epoch, position])
        size = index.size(row)
        geometry = self.transform.geometry(size, rng)
        image = decode(self.split.images / index.file_name(row), expected=size, smallest=geometry.scaled)
        visible = self.transform.colors(geometry.resize(image), rng)
        pixels = torch.from_numpy(geometry.window(visible, self.transform.fill)).permute(2, 0, 1)
        return Sample(pixels, self._target(row, geometry), size)

    def _load_or_skip(self, key: Key) -> Sample:
        """The sample, or in training the next that can be read; validation images have no stand-in."""
        faults: list[str] = []
        for step in range(len(self)):
            try:
                if isinstance(key, tuple):
                    sample = self._load((key[0], (key[1] + step) % len(self)))
                else:
                    sample = self._load(key)
            except ImageError as error:
                faults.append(str(error))
                if isinstance(key, tuple):
                    continue
                sample = Sample(None, Target(), (0, 0))
            sample.faults = faults
            return sample
        raise ImageError(f"none of the {len(self)} images of {self.split.name} can be read, first: {faults[0]}")

    # ------------------------------------------------------------ targets

    def _target(self, row: int, geometry: Geometry) -> Target:
        index = self.split.index
        own = np.arange(int(index.first[row]), int(index.first[row + 1]))
        own = own[~np.asarray(index.crowd[own])]
        whole = xywh_to_xyxy(index.boxes[own])
        boxes = geometry.boxes(whole)
        kept = np.asarray(((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIDE).all(axis=1))
        target = Target(image_id=int(index.image_ids[row]))
        if self.with_masks:
            crops, crop_boxes = self._crops(own, geometry, kept)
            if geometry.crops:
                kept &= _fit_to_masks(boxes, crops, crop_boxes, kept, geometry, whole)
            target["masks"] = _pack([crops[i] for i in np.flatnonzero(kept).tolist()], crop_boxes[kept], geometry.size)
        target["boxes"] = torch.from_numpy(boxes[kept].astype(np.float32))
        target["labels"] = torch.from_numpy(self.split.labels[own][kept])
        return target

    def _crops(self, own: Ints, geometry: Geometry, wanted: NDArray[np.bool_]) -> tuple[dict[int, masks.Bitmap], Ints]:
        """Masks of annotations `own` that are `wanted`, each inside its box int64 [n, 4] of the window."""
        index = self.split.index
        crop_boxes = _whole_pixels(geometry.boxes(index.extents[own]), geometry.visible)
        if len(own) == 0:
            return {}, crop_boxes
        first_part, last_part = int(index.part_offsets[own[0]]), int(index.part_offsets[own[-1] + 1])
        offsets = index.point_offsets[first_part : last_part + 1]
        points = geometry.points(index.coordinates[offsets[0] : offsets[-1]])
        bounds = (offsets - offsets[0]).tolist()
        parts_from = (index.part_offsets[own] - first_part).tolist()
        parts_to = (index.part_offsets[own + 1] - first_part).tolist()
        crops = {}
        for i in np.flatnonzero(wanted).tolist():
            x0, y0, x1, y1 = crop_boxes[i].tolist()
            if index.kinds[own[i]] == RLE:
                crops[i] = geometry.runs_crop(index.counts(int(own[i])), (x0, y0, x1, y1))
            else:
                parts = [points[bounds[p] : bounds[p + 1]] for p in range(parts_from[i], parts_to[i])]
                crops[i] = masks.polygon_crop(parts, geometry.visible, (x0, y0, x1, y1))
        return crops, crop_boxes

    # ------------------------------------------------------------ ground truth

    def ground_truth(self) -> dict[str, Any]:
        """The split as COCO has it, for an evaluator: image pixels, crowd regions included, checked.

        Category ids are those of the training classes. Segmentations are RLE with `counts` as text; they are
        left out without masks.
        """
        index = self.split.index
        shift = max(0, 1 - int(np.min(index.annotation_ids, initial=1)))  # evaluators read id 0 as "unmatched"
        images, annotations = [], []
        for row in self.rows.tolist():
            height, width = index.size(row)
            image_id = int(index.image_ids[row])
            images.append({"id": image_id, "height": height, "width": width, "file_name": index.file_name(row)})
            own = index.annotations(row)
            for annotation in range(own.start, own.stop):
                item = {
                    "id": int(index.annotation_ids[annotation]) + shift,
                    "image_id": image_id,
                    "category_id": self.classes.id_of(int(self.split.labels[annotation])),
                    "bbox": index.boxes[annotation].tolist(),
                    "area": float(index.areas[annotation]),
                    "iscrowd": int(index.crowd[annotation]),
                }
                if self.with_masks:
                    item["segmentation"] = self._encoded(annotation, (height, width))
                annotations.append(item)
        categories = [{"id": i, "name": name} for i, name in zip(self.classes.ids, self.classes.names, strict=True)]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def _encoded(self, annotation: int, size: tuple[int, int]) -> dict[str, Any]:
        index = self.split.index
        if index.kinds[annotation] == RLE:
            counts = {"counts": index.counts(annotation).tolist(), "size": list(size)}
            encoded = coco_mask.frPyObjects(counts, *size)
        elif index.kinds[annotation] == NO_MASK:  # a crowd region known by its box only
            encoded = coco_mask.frPyObjects(np.array([index.boxes[annotation]]), *size)[0]
        else:
            encoded = coco_mask.merge(coco_mask.frPyObjects(index.parts(annotation), *size))
        return {"size": list(size), "counts": encoded["counts"].decode()}


def xywh_to_xyxy(boxes: Floats) -> Floats:
    """[N, 4] x y width height -> x1 y1 x2 y2."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _whole_pixels(boxes: Floats, size: tuple[int, int]) -> Ints:
    """The pixels that boxes touch, at least one each: int64 [N, 4], x1 and y1 exclusive, inside `size`."""
    limits = np.array(size[::-1])
    low = np.clip(np.floor(boxes[:, :2]), 0, limits - 1)
    high = np.clip(np.ceil(boxes[:, 2:]), low + 1, limits)
    return np.concatenate([low, high], axis=1).astype(np.int64)


def _fit_to_masks(
    boxes: Floats,
    crops: dict[int, masks.Bitmap],
    crop_boxes: Ints,
    kept: NDArray[np.bool_],
    geometry: Geometry,
    whole: Floats,
) -> NDArray[np.bool_]:
    """Shrink the boxes of objects that the window cuts to what it shows of their masks, in place.

    Returns bool [N]: False where nothing worth a pixel is left.
    """
    visible = kept.copy()
    uncut = np.prod(whole[:, 2:] - whole[:, :2], axis=1) * np.prod(geometry.scale)
    cut = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) < uncut * (1 - 1e-6)
    for i in np.flatnonzero(kept & cut).tolist():
        rows, columns = np.flatnonzero(crops[i].any(axis=1)), np.flatnonzero(crops[i].any(axis=0))
        visible[i] = len(rows) > 0
        if visible[i]:
            corner = np.tile(crop_boxes[i, :2], 2)
            boxes[i] = corner + np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return visible


def _pack(crops: list[masks.Bitmap], boxes: Ints, size: tuple[int, int]) -> MaskCrops:
    lengths = [crop.size for crop in crops]
    pixels = np.concatenate([crop.ravel() for crop in crops]) if crops else np.zeros(0, dtype=np.uint8)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return MaskCrops(torch.from_numpy(pixels), torch.from_numpy(boxes), torch.from_numpy(offsets), size)
