"""The box regression loss: of deltas, or of the boxes that they give."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn_train.model.boxes import BoxCoder, sizes_and_centers

EPSILON = 1e-7  # of torchvision's losses: no division by an area of 0


@dataclass(frozen=True)
class BoxLoss:
    """kind: smooth_l1 compares deltas; giou, diou and ciou, from 0 to 2 for a box, compare the boxes that `coder` makes
    of them. beta: of smooth_l1. Detectron2's BBOX_REG_LOSS_TYPE and SMOOTH_L1_BETA."""

    kind: str
    beta: float
    coder: BoxCoder

    def __call__(self, deltas: Tensor, targets: Tensor, positive: Tensor, references: Callable[[], Tensor]) -> Tensor:
        """Sum over the positive rows. deltas, targets: [S, 4]; positive: bool [S]; references: gives the anchors or
        proposals [S, 4], network pixels."""
        deltas = torch.where(positive[:, None], deltas, targets)
        if self.kind == "smooth_l1":
            return F.smooth_l1_loss(deltas, targets, beta=self.beta, reduction="sum")
        boxes, gt_boxes = (self.coder.decode(each, references()) for each in (deltas, targets))
        return torch.where(positive, iou_loss(boxes, gt_boxes, self.kind), 0).sum()


def iou_loss(boxes: Tensor, gt_boxes: Tensor, kind: str) -> Tensor:
    """1 - GIoU (Rezatofighi et al. 2019), DIoU or CIoU (Zheng et al. 2020) of each pair: [S, 4], [S, 4] -> [S].

    torchvision's losses give the same, but wait for the GPU at each of their masks.
    """
    (sizes, centers), (gt_sizes, gt_centers) = sizes_and_centers(boxes), sizes_and_centers(gt_boxes)
    inside = torch.minimum(boxes[:, 2:], gt_boxes[:, 2:]) - torch.maximum(boxes[:, :2], gt_boxes[:, :2])
    around = torch.maximum(boxes[:, 2:], gt_boxes[:, 2:]) - torch.minimum(boxes[:, :2], gt_boxes[:, :2])
    intersections = inside.clamp(min=0).prod(1)
    unions = sizes.prod(1) + gt_sizes.prod(1) - intersections
    iou = intersections / (unions + EPSILON)
    if kind == "giou":
        enclosing = around.prod(1)
        return 1 - iou + (enclosing - unions) / (enclosing + EPSILON)
    loss = 1 - iou + (centers - gt_centers).square().sum(1) / (around.square().sum(1) + EPSILON)
    if kind == "diou":
        return loss
    angles = torch.atan2(*gt_sizes.clamp(min=EPSILON).unbind(1)) - torch.atan2(*sizes.clamp(min=EPSILON).unbind(1))
    aspect = 4 / math.pi**2 * angles.square()
    with torch.no_grad():
        share = aspect / (1 - iou + aspect + EPSILON)
    return loss + share * aspect
