"""Boxes: coding, overlap, size. All are float32 [..., 4], x1 y1 x2 y2, pixels of the resized image."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

# no predicted side may exceed 1000/16 times its reference's, else exp() overflows (Faster R-CNN code)
MAX_LOG_RATIO = math.log(1000.0 / 16)


@dataclass(frozen=True)
class BoxCoder:
    """Boxes relative to reference boxes: shift of the centre and log of the size ratio, each times a weight.

    Faster R-CNN's weights are 1 and 1 for anchors, 10 and 5 for proposals.
    """

    shift_weight: float
    scale_weight: float

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Deltas [..., 4] that turn `references` [..., 4] into `boxes` [..., 4]."""
        sizes, centers = sizes_and_centers(boxes)
        reference_sizes, reference_centers = sizes_and_centers(references)
        shifts = _times(self.shift_weight, centers - reference_centers) / reference_sizes
        scales = _times(self.scale_weight, torch.log(sizes / reference_sizes))
        return torch.cat((shifts, scales), dim=-1)

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """Boxes [..., 4] from deltas [..., 4] and the boxes [..., 4] they refer to, in float32."""
        sizes, centers = sizes_and_centers(references)
        shifts, scales = deltas.float().split(2, dim=-1)
        centers = _over(self.shift_weight, shifts) * sizes + centers
        sizes = torch.exp(_over(self.scale_weight, scales).clamp(max=MAX_LOG_RATIO)) * sizes
        return torch.cat((centers.sub(sizes, alpha=0.5), centers.add(sizes, alpha=0.5)), dim=-1)


def sizes_and_centers(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height, and centre, [..., 2] each."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return sizes, boxes[..., :2].add(sizes, alpha=0.5)


def _times(weight: float, values: Tensor) -> Tensor:
    return values if weight == 1 else weight * values  # a launch less for anchors


def _over(weight: float, values: Tensor) -> Tensor:
    return values if weight == 1 else values / weight


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU [..., N, M] of boxes [..., N, 4] and [..., M, 4]."""
    intersections, areas, others = _intersections(first, second)
    return intersections.div_((areas + others).sub_(intersections))


def pairwise_coverage(first: Tensor, second: Tensor) -> Tensor:
    """The share [..., N, M] of each box of `second` [..., M, 4] that each of `first` [..., N, 4] covers."""
    intersections, _, areas = _intersections(first, second)
    return intersections.div_(areas)


def _intersections(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Areas common to boxes [..., N, 4] and [..., M, 4], [..., N, M], and of the boxes, [..., N, 1] and [..., 1, M];
    coordinate by coordinate: no [..., N, M, 2] is made."""
    x1, y1, x2, y2 = first.unsqueeze(-1).unbind(-2)
    u1, v1, u2, v2 = second.unsqueeze(-3).unbind(-1)
    widths = torch.minimum(x2, u2).sub_(torch.maximum(x1, u1)).clamp_(min=0)
    heights = torch.minimum(y2, v2).sub_(torch.maximum(y1, v1)).clamp_(min=0)
    return widths.mul_(heights), (x2 - x1) * (y2 - y1), (u2 - u1) * (v2 - v1)


def not_small(boxes: Tensor, min_size: float) -> Tensor:
    """bool [...] of boxes [..., 4]: both sides at least `min_size` and above zero (with 0, Detectron2's `nonempty`)."""
    sizes = boxes[..., 2:] - boxes[..., :2]
    return (sizes >= min_size if min_size > 0 else sizes > 0).all(dim=-1)


def clip_boxes(boxes: Tensor, size: tuple[int, int] | Tensor) -> Tensor:
    """Boxes [N, 4] cut at the borders of an image of `size` (height, width): float32 [2] where a trace follows it."""
    if isinstance(size, Tensor):
        width_height = size.flip(0)
        return torch.minimum(boxes.clamp(min=0), torch.cat((width_height, width_height)))
    clipped: Tensor = clip_boxes_to_image(boxes, size)
    return clipped
