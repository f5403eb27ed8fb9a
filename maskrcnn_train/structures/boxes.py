"""Boxes between forms: x1 y1 x2 y2 of one image size or another, and COCO's x y width height."""

import torch
from torch import Tensor

from maskrcnn_train.structures.waits import send


def resize_boxes(boxes: Tensor, size: tuple[int, int], new_size: tuple[int, int]) -> Tensor:
    """Boxes [N, 4] of an image of `size` (height, width) in the pixels of the same image at `new_size`."""
    ratio_y, ratio_x = new_size[0] / size[0], new_size[1] / size[1]
    return boxes * send([ratio_x, ratio_y, ratio_x, ratio_y], boxes.device, boxes.dtype)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Boxes [N, 4] as x y width height."""
    return torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1)
