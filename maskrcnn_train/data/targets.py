"""The objects of an image after resizing and augmentation: boxes, labels, and each mask inside its own box."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from maskrcnn_train.data.coco import masks
from maskrcnn_train.data.coco.index import POLYGON, RLE, AnnotationIndex
from maskrcnn_train.data.splits.splitting import REGION
from maskrcnn_train.data.tile_layout import shows, visible_shares
from maskrcnn_train.data.transforms import MIN_SIDE, Geometry
from maskrcnn_train.structures.arrays import Flags, Floats, Ints
from maskrcnn_train.structures.batch import MaskCrops, Target
from maskrcnn_train.structures.corners import common_part, xywh_to_xyxy


def build_target(
    index: AnnotationIndex, labels: Ints, row: int, geometry: Geometry, *, with_masks: bool, min_visible: float = 0.0
) -> Target:
    """The objects of image `row`, or of a tile of it, without crowd regions; and the regions to ignore.

    labels: as `Split.labels`. min_visible: as `data.tile.min_visible`.
    """
    own, regions = _objects_and_regions(index, labels, row, geometry, min_visible)
    outlines = _move_outlines(index, own, geometry)
    boxes, extents, cut = _move_boxes(index, own, geometry, outlines)
    kept = np.asarray(((boxes[:, 2:] - boxes[:, :2]) >= MIN_SIDE).all(axis=1))
    target = Target(image_id=int(index.image_ids[row]))
    if with_masks:
        limits = np.array(geometry.visible[::-1])
        low = np.clip(np.floor(extents[:, :2]), 0, limits - 1)
        high = np.clip(np.ceil(extents[:, 2:]), low + 1, limits)  # at least one pixel
        crop_boxes = np.concatenate([low, high], axis=1).astype(np.int64)
        crops = {
            i: _crop(index, int(own[i]), crop_boxes[i].tolist(), geometry, outlines[i])
            for i in np.flatnonzero(kept).tolist()
        }
        if geometry.cuts:
            kept &= fit_to_masks(boxes, crops, crop_boxes, kept & cut)
        target["masks"] = pack([crops[i] for i in np.flatnonzero(kept).tolist()], crop_boxes[kept], geometry.size)
    target["boxes"] = torch.from_numpy(boxes[kept].astype(np.float32))
    target["labels"] = torch.from_numpy(labels[own][kept])
    if len(regions):
        ignored = geometry.boxes(xywh_to_xyxy(index.boxes[regions]))
        ignored = ignored[(ignored[:, :2] < ignored[:, 2:]).all(axis=1)]
        target["ignored"] = torch.from_numpy(ignored.astype(np.float32))
    return target


def _objects_and_regions(
    index: AnnotationIndex, labels: Ints, row: int, geometry: Geometry, min_visible: float
) -> tuple[Ints, Ints]:
    """Rows of the annotations that are objects, and of those whose places are ignored."""
    own = np.arange(int(index.first[row]), int(index.first[row + 1]))
    of_class, regions = ~index.crowd[own] & (labels[own] > 0), labels[own] == REGION
    if geometry.tile is None:
        return own[of_class], own[regions]
    shares = visible_shares(xywh_to_xyxy(index.boxes[own]), np.array(geometry.tile[:1]))[0]
    shown = shows(shares, min_visible)
    return own[of_class & shown], own[(shares > 0) & (regions | (of_class & ~shown))]


def _move_outlines(index: AnnotationIndex, own: Ints, geometry: Geometry) -> list[list[Floats]]:
    """The polygons of each annotation in pixels of the window, not clipped: float64 [2 n] x y x y ..."""
    if len(own) == 0:
        return []
    start = int(index.part_offsets[own[0]])
    offsets = index.point_offsets[start : int(index.part_offsets[own[-1] + 1]) + 1]
    points = geometry.points(index.coordinates[offsets[0] : offsets[-1]])
    parts = [points[begin:end] for begin, end in pairwise((offsets - offsets[0]).tolist())]
    first, last = index.part_offsets[own] - start, index.part_offsets[own + 1] - start
    return [parts[begin:end] for begin, end in zip(first.tolist(), last.tolist(), strict=True)]


def _move_boxes(
    index: AnnotationIndex, own: Ints, geometry: Geometry, outlines: list[list[Floats]]
) -> tuple[Floats, Floats, Flags]:
    """Boxes and mask extents in the window, clipped [n, 4], and whose boxes must be fitted to the mask: bool [n]."""
    whole = xywh_to_xyxy(index.boxes[own])
    extents = geometry.boxes(index.extents[own])
    if not geometry.angle:
        boxes = geometry.boxes(whole)
        uncut = np.prod(whole[:, 2:] - whole[:, :2], axis=1) * np.prod(geometry.scale)
        return boxes, extents, np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) < uncut * (1 - 1e-6)
    # the box around a rotated box is too large: only the rotated outline gives the object's box
    exact = extents.copy()
    for i in np.flatnonzero(index.kinds[own] == POLYGON).tolist():
        points = np.concatenate(outlines[i]).reshape(-1, 2)
        exact[i] = [*points.min(axis=0), *points.max(axis=0)]
    visible = geometry.clip(exact)
    cut = (exact != visible).any(axis=1) | (index.kinds[own] == RLE)
    if geometry.tile is not None:  # what the tile's border cuts off may have been turned into the window
        inside = common_part(index.extents[own], np.array(geometry.tile[:1]))
        visible = common_part(visible, geometry.boxes(inside))
        cut |= (inside != index.extents[own]).any(axis=1)
    return visible.copy(), visible, cut


def _crop(index: AnnotationIndex, row: int, box: masks.Box, geometry: Geometry, outline: list[Floats]) -> masks.Bitmap:
    if index.kinds[row] == RLE:
        return geometry.runs_crop(index.counts(row), box)
    crop = masks.polygon_crop(outline, geometry.visible, box)
    if geometry.angle:  # outlines may leave the image; around a rotated image there is padding
        crop &= masks.polygon_crop([geometry.frame()], geometry.visible, box)
    return crop


def fit_to_masks(
    boxes: NDArray[np.floating], crops: dict[int, masks.Bitmap] | list[masks.Bitmap], crop_boxes: Ints, cut: Flags
) -> Flags:
    """Shrink the boxes of `cut` objects to what is left of their masks, in place.

    Returns bool [N]: False where nothing is left.
    """
    visible = np.ones(len(boxes), dtype=bool)
    for i in np.flatnonzero(cut).tolist():
        extent = masks.bitmap_extent(crops[i])
        visible[i] = extent is not None
        if extent is not None:
            boxes[i] = np.tile(crop_boxes[i, :2], 2) + extent
    return visible


def pack(crops: list[masks.Bitmap], boxes: Ints, size: tuple[int, int]) -> MaskCrops:
    """Bitmaps with their boxes int64 [N, 4], x0 y0 x1 y1 in an image of `size`, as one object."""
    lengths = [crop.size for crop in crops]
    pixels = np.concatenate([crop.ravel() for crop in crops]) if crops else np.zeros(0, dtype=np.uint8)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return MaskCrops(torch.from_numpy(pixels), torch.from_numpy(boxes), torch.from_numpy(offsets), size)
