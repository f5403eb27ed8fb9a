"""The tiles of a split: where they lie, which objects each shows, how often each comes in an epoch. Without torch.

Without `data.tile.size` every image is one tile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from maskrcnn_train.data.splits.splitting import Split
from maskrcnn_train.data.splits.stratifying import count_objects
from maskrcnn_train.settings.schema import DataConfig, TrainTileConfig
from maskrcnn_train.structures.arrays import Flags, Floats, Ints
from maskrcnn_train.structures.corners import box_areas, common_part, xywh_to_xyxy
from maskrcnn_train.structures.tiles import Tile, Tiles


@dataclass(frozen=True, eq=False)
class TileLayout:
    """T tiles, those of an image one after another, row by row.

    split: the images that they cover. rows: int64 [T], the image of each in the index. windows: int64 [T, 4]
    x0 y0 x1 y1, image pixels. tiles, objects: int64 [P], which tile shows which annotation; tiles ascend. section: what
    it follows from.
    """

    split: Split
    rows: Ints
    windows: Ints
    tiles: Ints
    objects: Ints
    section: TrainTileConfig

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sizes(self) -> Ints:
        """(height, width) of each: int64 [T, 2]."""
        return np.asarray((self.windows[:, 2:] - self.windows[:, :2])[:, ::-1])

    @property
    def num_objects(self) -> Ints:
        """How many objects each shows: int64 [T]."""
        return np.bincount(self.tiles, minlength=len(self))

    @property
    def presence(self) -> Flags:
        """Which classes each tile with objects shows: bool [tiles with objects, K]."""
        labels, shows = self.split.labels[self.objects], self.num_objects > 0
        presence = np.zeros((len(self), int(labels.max(initial=0))), dtype=bool)
        presence[self.tiles, labels - 1] = True
        return np.asarray(presence[shows])

    def tile(self, number: int) -> Tile:
        x0, y0, x1, y1 = self.windows[number].tolist()
        return (x0, y0, x1, y1), self.split.index.size(int(self.rows[number]))

    def repeats(self, threshold: float) -> Floats:
        """How often each tile comes in an epoch on average: float [T].

        threshold: as `data.repeat_threshold`, for the shares of classes among the tiles that show objects. Those
        without objects are `empty_share` of the epoch, or all of them where they are fewer.
        """
        empty, repeats, empty_share = self.num_objects == 0, np.zeros(len(self)), self.section.empty_share
        if not empty.all():
            repeats[~empty] = repeat_factors(self.presence, threshold)
        wanted = math.inf if empty_share == 1 else float(repeats.sum()) * empty_share / (1 - empty_share)
        repeats[empty] = min(1.0, wanted / max(1, int(empty.sum())))
        return repeats


def lay_out(split: Split, section: TrainTileConfig) -> TileLayout:
    """The tiles of all images of a split."""
    index, is_object, boxes = split.index, split.is_object, xywh_to_xyxy(np.asarray(split.index.boxes))
    if section.size is None:
        objects = np.flatnonzero(is_object)
        sizes = np.asarray(index.image_sizes)[split.rows]
        windows = np.concatenate((np.zeros_like(sizes), sizes[:, ::-1]), axis=1)
        tiles = np.searchsorted(split.rows, index.image_rows[objects])
        return TileLayout(split, split.rows, windows, tiles, objects, section)
    grid = Tiles(section.size, section.overlap)
    windows_of = cache(lambda size: np.array(grid.windows(size), dtype=np.int64))
    rows: list[int] = []
    covering, pairs = [np.zeros((0, 4), dtype=np.int64)], [np.zeros((0, 2), dtype=np.int64)]
    for row in split.rows.tolist():
        covering.append(windows_of(index.size(row)))
        own = index.annotations(row)
        objects = own.start + np.flatnonzero(is_object[own])
        tile, which = np.nonzero(shows(visible_shares(boxes[objects], covering[-1]), section.min_visible))
        pairs.append(np.stack((len(rows) + tile, objects[which]), axis=1))
        rows += [row] * len(covering[-1])
    numbers, objects = np.concatenate(pairs).T
    return TileLayout(split, np.array(rows, dtype=np.int64), np.concatenate(covering), numbers, objects, section)


def visible_shares(boxes: Floats, windows: Ints) -> Floats:
    """The share of each box float64 [A, 4] that lies in each window int64 [W, 4], both x1 y1 x2 y2: float64 [W, A]."""
    shared = box_areas(common_part(boxes, windows[:, None]))
    return np.asarray(shared / np.maximum(box_areas(boxes), np.finfo(float).tiny))


def shows(shares: Floats, min_visible: float) -> Flags:
    """Whether so much of an object makes it one of the tile's."""
    return np.asarray((shares > 0) & (shares >= min_visible))


def repeat_factors(presence: Flags, threshold: float) -> Floats:
    """How often each image should come: float [M].

    max(1, sqrt(threshold / f)), f being the share of images with the image's rarest class: LVIS (Gupta et al. 2019),
    section 5. presence: bool [M, K], which classes each image shows.
    """
    shares = presence.mean(axis=0)
    factors = np.sqrt(np.maximum(1.0, threshold / np.maximum(shares, 1e-12)))
    return np.asarray(np.where(presence, factors, 1.0).max(axis=1, initial=1.0))


def image_repeats(split: Split, threshold: float) -> Floats:
    """How often each whole image comes in an epoch on average: float [n]. threshold: as `data.repeat_threshold`."""
    presence = count_objects(split.index, split.labels, int(split.labels.max(initial=0))) > 0
    return repeat_factors(presence[split.rows], threshold)


def epoch_length(split: Split, data: DataConfig) -> int:
    """Images, or tiles, of an epoch of training, repeats included."""
    used = split if data.keep_empty else split.with_objects()
    if data.tile.size is None:
        repeats = image_repeats(used, data.repeat_threshold)
    else:
        repeats = lay_out(used, data.tile).repeats(data.repeat_threshold)
    return round(float(repeats.sum()))
