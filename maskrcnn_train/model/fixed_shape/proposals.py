"""Proposal selection of all images and levels at once. The host waits once, to learn how many are left."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from maskrcnn_train.model.boxes import not_small
from maskrcnn_train.model.fixed_shape.overlaps import pairwise_iou
from maskrcnn_train.model.proposals import ProposalBudget, Proposals, RPNPredictions, decoded, top_of_levels
from maskrcnn_train.structures.waits import read, send

ROUNDS = 12  # of suppression before the host looks whether it has ended; networks need up to 10
PAIRS = 2**26  # IoUs computed at once


@torch.no_grad()
def select_proposals(
    predictions: RPNPredictions, image_sizes: list[tuple[int, int]], budget: ProposalBudget
) -> list[Proposals]:
    """All stages for a batch of images of (height, width), network pixels without the padding."""
    anchors, there = _top_by_level(predictions, budget.pre_nms)
    boxes, all_scores = decoded(predictions, anchors)
    corners = [[(0, 0, 0, 0)] * len(image_sizes), [(width, height, width, height) for height, width in image_sizes]]
    low, high = send(corners, boxes.device, torch.float32)[:, :, None].unbind()
    boxes = boxes.clamp(low, high)
    large = not_small(boxes, budget.min_size).unflatten(1, there.shape)
    suppression = Suppression(boxes.unflatten(1, there.shape), large & there, budget.nms_threshold)
    while True:
        suppression.advance(ROUNDS)
        scores = torch.where(suppression.kept.flatten(1), all_scores, -1)
        if budget.share_in_batch:
            scores = _best_of_batch(scores, budget.post_nms)
        top = scores.topk(min(budget.post_nms, scores.shape[1]), dim=1)
        changing, *numbers = read(torch.cat((suppression.changing[None], (top.values >= 0).sum(dim=1))))
        if not changing:
            break
    index = top.indices
    levels = index.div(there.shape[1], rounding_mode="floor")
    columns = boxes.gather(1, index[..., None].expand(-1, -1, 4)), top.values, levels, anchors.gather(1, index)
    return [Proposals(*(column[image, :number] for column in columns)) for image, number in enumerate(numbers)]


def _top_by_level(predictions: RPNPredictions, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest anchors of each level, int64 [N, L * C], and which are there, bool [L, C]: levels of fewer
    are filled up with their best."""
    tops = top_of_levels(predictions, count)
    counts, sizes = [top.shape[1] for top in tops], predictions.level_sizes
    filled = [rows for top in tops for rows in (top, top[:, :1].expand(-1, max(counts) - top.shape[1]))]
    numbers = send([counts, list(accumulate(sizes[:-1], initial=0))], tops[0].device)[..., None]
    there = torch.arange(max(counts), device=numbers.device) < numbers[0]
    return (torch.cat(filled, dim=1).unflatten(1, there.shape) + numbers[1]).flatten(1), there


def _best_of_batch(scores: Tensor, count: int) -> Tensor:
    """Scores [N, C], those below the `count` highest of all images together set to -1."""
    best = scores.flatten().topk(min(count, scores.numel()))
    return torch.full_like(scores, -1).flatten().scatter(0, best.indices, best.values).view_as(scores)


class Suppression:
    """Non-maximum suppression of many groups at once, as a fixed point.

    A box is kept if no kept box before it overlaps it. That rule, applied to all boxes together again and again, ends
    where the boxes one by one would: after `n` rounds all chains of up to n boxes that suppress each other are right.

    boxes: [..., B, 4], in each group the best first; there: bool [..., B], the others count as none. kept: bool
    [..., B]. changing: int64 [], how many the last round changed.
    """

    def __init__(self, boxes: Tensor, there: Tensor, threshold: float) -> None:
        groups = boxes.flatten(0, -3)
        count = groups.shape[1]
        self.shape = boxes.shape[:-1]
        # as numbers, so that a round is one matrix product; sums above 256 are rounded, but never to zero
        self.over = torch.empty((len(groups), count, count), dtype=torch.bfloat16, device=boxes.device)
        step = max(1, PAIRS // max(count * count, 1))
        for own, over in zip(groups.split(step), self.over.split(step), strict=True):
            torch.gt(pairwise_iou(own, own), threshold, out=over).triu_(1)
        self.there = there.to(torch.bfloat16).view(-1, 1, count)
        self.now = self.before = self.there

    def advance(self, rounds: int) -> None:
        with torch.autocast(self.over.device.type, enabled=False):  # in fp16 every round would convert `over`
            for _ in range(rounds):
                self.before = self.now
                # 0 kept boxes before it overlap it, which is below 1 where one is there
                self.now = torch.bmm(self.before, self.over).lt_(self.there)

    @property
    def kept(self) -> Tensor:
        return (self.now > 0).view(self.shape)

    @property
    def changing(self) -> Tensor:
        return (self.now != self.before).sum()
