"""Boxes x1 y1 x2 y2 as numpy arrays: without torch, which commands import only once their data is read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskrcnn_train.structures.arrays import Floats

Boxes = NDArray[Any]


def xywh_to_xyxy(boxes: Floats) -> Floats:
    """[N, 4] x y width height -> x1 y1 x2 y2."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def common_part(boxes: Boxes, others: Boxes) -> Boxes:
    """Where boxes [..., 4] and others, broadcast, overlap; where they do not, a side is not above 0.

    >>> common_part(np.array([[0, 0, 4, 4]]), np.array([1, 2, 9, 3])).tolist()
    [[1, 2, 4, 3]]
    """
    low, high = np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])
    return np.concatenate([low, high], axis=-1)


def box_areas(boxes: Boxes) -> Boxes:
    """Of boxes [..., 4]; 0 where a side is not above 0."""
    return np.asarray(np.clip(boxes[..., 2:] - boxes[..., :2], 0, None).prod(axis=-1))
