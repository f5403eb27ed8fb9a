"""Proposal selection of all images and levels at once. The host waits once, to learn how many are left."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn_train.model.boxes import not_small, pairwise_iou
from maskrcnn_train.model.proposals import ProposalBudget, Proposals, RPNPredictions, top_of_batch
from maskrcnn_train.structures.waits import read, send

ROUNDS = 12  # of suppression before the host looks whether it has ended; networks need up to 10
PAIRS = 2**26  # IoUs computed at once


@torch.no_grad()
def select_proposals(
    predictions: RPNPredictions, image_sizes: list[tuple[int, int]], budget: ProposalBudget
) -> list[Proposals]:
    """All stages for a batch of images of (height, width), network pixels without the padding."""
    candidates = top_of_batch(predictions, budget.pre_nms)
    limits = send([(width, height, width, height) for height, width in image_sizes], candidates.boxes.device)
    boxes = torch.minimum(candidates.boxes.clamp(min=0), limits[:, None])
    large = not_small(boxes, budget.min_size)
    counts = [min(budget.pre_nms, size) for size in predictions.level_sizes]
    levels = _by_level(boxes.masked_fill(~large[..., None], 0), counts)  # a box without extent overlaps none
    suppression = Suppression(levels, budget.nms_threshold)
    while True:
        suppression.advance(ROUNDS)
        kept = torch.cat([own[:, :count] for own, count in zip(suppression.kept.unbind(1), counts, strict=True)], dim=1)
        scores = torch.where(kept & large, candidates.scores, -1)
        if budget.share_in_batch:
            scores = _best_of_batch(scores, budget.post_nms)
        top = scores.topk(min(budget.post_nms, scores.shape[1]), dim=1)
        changing, *numbers = read(torch.cat((suppression.changing[None], (top.values >= 0).sum(dim=1))))
        if not changing:
            break
    index = top.indices
    chosen = boxes.gather(1, index[..., None].expand(-1, -1, 4)), top.values, candidates.levels[index]
    columns = *chosen, candidates.anchors.gather(1, index)
    return [Proposals(*(column[image, :number] for column in columns)) for image, number in enumerate(numbers)]


def _by_level(boxes: Tensor, counts: list[int]) -> Tensor:
    """Boxes [N, sum of counts, 4] as [N, L, largest count, 4], filled up with zeros."""
    own = [F.pad(level, (0, 0, 0, max(counts) - level.shape[1])) for level in boxes.split(counts, dim=1)]
    return torch.stack(own, dim=1)


def _best_of_batch(scores: Tensor, count: int) -> Tensor:
    """Scores [N, C], those below the `count` highest of all images together set to -1."""
    best = scores.flatten().topk(min(count, scores.numel()))
    return torch.full_like(scores, -1).flatten().scatter(0, best.indices, best.values).view_as(scores)


class Suppression:
    """Non-maximum suppression of many groups at once, as a fixed point.

    A box is kept if no kept box before it overlaps it. That rule, applied to all boxes together again and again, ends
    where the boxes one by one would: after `n` rounds all chains of up to n boxes that suppress each other are right.

    boxes: [..., B, 4], in each group the best first. kept: bool [..., B]. changing: int64 [], whether the last round
    changed any.
    """

    def __init__(self, boxes: Tensor, threshold: float) -> None:
        groups = boxes.flatten(0, -3)
        count = groups.shape[1]
        self.shape = boxes.shape[:-1]
        # as numbers, so that a round is one matrix product; sums above 256 are rounded, but never to zero
        self.over = torch.empty((len(groups), count, count), dtype=torch.bfloat16, device=boxes.device)
        step = max(1, PAIRS // max(count * count, 1))
        for own, over in zip(groups.split(step), self.over.split(step), strict=True):
            over.copy_((pairwise_iou(own, own) > threshold).triu_(1))
        self.ones = torch.ones((len(groups), 1, count), dtype=torch.bfloat16, device=boxes.device)
        self.now = self.before = self.ones

    def advance(self, rounds: int) -> None:
        for _ in range(rounds):
            self.before = self.now
            self.now = torch.baddbmm(self.ones, self.before, self.over, alpha=-1).clamp_(min=0)

    @property
    def kept(self) -> Tensor:
        return (self.now > 0).view(self.shape)

    @property
    def changing(self) -> Tensor:
        return (self.now != self.before).any().long()
