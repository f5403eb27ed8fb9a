"""The objects of a split as the network sees them: boxes in network pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from maskrcnn_train.data.splits.splitting import Split
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.arrays import Floats, Ints


@dataclass
class NetworkObjects:
    """N objects of the images of a split, crowd regions aside.

    ids: int64 [N] annotation ids. boxes: float64 [N, 4] x1 y1 x2 y2, network pixels. sizes: int64 [N, 2], (height,
    width) of each object's image, network pixels. per_image: int64 [images], objects of each image. scales: float64
    [images], network pixels for one image pixel.
    """

    ids: Ints
    boxes: Floats
    sizes: Ints
    per_image: Ints
    scales: Floats

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Floats:
        """Width and height of each box: float64 [N, 2]."""
        return np.asarray(self.boxes[:, 2:] - self.boxes[:, :2])

    @property
    def sides(self) -> Floats:
        """Square roots of the box areas."""
        return np.asarray(np.sqrt(self.lengths.prod(axis=1)))


def training_min_size(config: TrainConfig) -> int:
    """The shorter side of training images; of several to choose from, the middle one."""
    sizes = sorted(config.augmentation.min_sizes or [config.data.min_size])
    return sizes[len(sizes) // 2]


def network_objects(split: Split, *, min_size: int, max_size: int) -> NetworkObjects:
    """The objects of a split at the network size, before random scaling and cropping."""
    index = split.index
    single = np.flatnonzero(split.is_object)
    sizes = np.asarray(index.image_sizes)
    resized, scales = resized_sizes(sizes, min_size, max_size)
    rows = index.image_rows[single]
    boxes = np.asarray(index.boxes)[single]
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return NetworkObjects(
        ids=np.asarray(index.annotation_ids[single]),
        boxes=corners * np.tile((resized / sizes)[rows, ::-1], 2),
        sizes=resized[rows],
        per_image=np.bincount(rows, minlength=index.num_images)[split.rows],
        scales=scales[split.rows],
    )


def resized_sizes(sizes: Ints, min_size: int, max_size: int) -> tuple[Ints, Floats]:
    """`data.transforms.resized_size` of many images: int64 [M, 2] height, width, and the scale of each."""
    scales = np.minimum(min_size / sizes.min(axis=1), max_size / sizes.max(axis=1))
    return np.maximum(1, (sizes * scales[:, None] + 1e-6).astype(np.int64)), scales


def largest_size(split: Split, config: TrainConfig) -> tuple[int, int]:
    """(height, width) of the largest padded image of a training split, network pixels."""
    sizes = np.asarray(split.index.image_sizes)[split.rows]
    padded = -(-resized_sizes(sizes, training_min_size(config), config.data.max_size)[0] // 32) * 32
    height, width = padded[int(padded.prod(axis=1).argmax())].tolist()
    return height, width
