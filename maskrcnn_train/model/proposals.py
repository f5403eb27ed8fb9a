"""Proposal selection: from scored anchors to the few boxes that the ROI heads see.

Each stage is a function of its own, so that an analysis can look between them:
`top_candidates` -> `clip_and_filter` -> `suppress_overlaps`, and `keep_per_batch` if images share a budget.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from maskrcnn_train.model.boxes import BoxCoder, clip_boxes, not_small
from maskrcnn_train.model.modes import is_tracing
from maskrcnn_train.model.pyramid import Pyramid

ANCHOR_CODER = BoxCoder(shift_weight=1.0, scale_weight=1.0)
NUM_LEVELS = 5  # P2..P6


@dataclass
class RPNPredictions:
    """What the head says of every anchor: objectness [N, A] (logits), deltas [N, A, 4], without gradient; anchors
    [A, 4] float32; level_sizes: anchors per level, sum A; hidden: what its last conv saw, for the losses."""

    hidden: Pyramid
    objectness: Tensor
    deltas: Tensor
    anchors: Tensor
    level_sizes: list[int]


@dataclass
class Proposals:
    """Proposals of one image. boxes: float32 [P, 4], network pixels; scores: [P], objectness 0..1;
    levels: int64 [P], 0 for P2; anchors: int64 [P], the anchor that each comes from."""

    boxes: Tensor
    scores: Tensor
    levels: Tensor
    anchors: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: Tensor | slice) -> Proposals:
        return Proposals(self.boxes[index], self.scores[index], self.levels[index], self.anchors[index])


@dataclass(frozen=True)
class ProposalBudget:
    """How many proposals survive. pre_nms: per image and level; post_nms: over all levels, per image, or for
    all images of the batch together with `share_in_batch`; min_size: network pixels."""

    pre_nms: int
    post_nms: int
    nms_threshold: float
    min_size: float
    share_in_batch: bool = False


@torch.no_grad()
def select_proposals(
    predictions: RPNPredictions, image_sizes: list[tuple[int, int]], budget: ProposalBudget
) -> list[Proposals]:
    """All stages for a batch of images of (height, width), network pixels without the padding."""
    kept = [
        suppress_overlaps(clip_and_filter(candidates, size, budget.min_size), budget.nms_threshold)
        for candidates, size in zip(top_candidates(predictions, budget.pre_nms), image_sizes, strict=True)
    ]
    if budget.share_in_batch:
        return keep_per_batch(kept, budget.post_nms)
    return [proposals[: budget.post_nms] for proposals in kept]


def top_candidates(predictions: RPNPredictions, count: int) -> list[Proposals]:
    """The `count` highest of each level of each image, decoded; only these are decoded."""
    indices, levels, start = [], [], 0
    for level, top in enumerate(top_of_levels(predictions, count)):
        indices.append(top + start)
        levels.append(torch.full((top.shape[1],), level, dtype=torch.int64, device=top.device))
        start += predictions.level_sizes[level]
    anchors, level_of = torch.cat(indices, dim=1), torch.cat(levels)
    columns = (column.unbind() for column in (*decoded(predictions, anchors), anchors))
    return [Proposals(boxes, scores, level_of, own) for boxes, scores, own in zip(*columns, strict=True)]


def top_of_levels(predictions: RPNPredictions, count: int) -> list[Tensor]:
    """The `count` highest anchors of each level, int64 [N, c], counted from the first of the level."""
    levels = predictions.objectness.float().split(predictions.level_sizes, dim=1)
    if is_tracing():
        return [logits.sort(dim=1, descending=True).indices[:, :count] for logits in levels]
    return [logits.topk(min(count, logits.shape[1]), dim=1).indices for logits in levels]


def decoded(predictions: RPNPredictions, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes [N, C, 4] and scores [N, C] of these anchors, int64 [N, C]."""
    deltas = predictions.deltas.gather(1, anchors[..., None].expand(-1, -1, 4))
    logits = predictions.objectness.gather(1, anchors)
    # in float32: the sigmoid of bfloat16 would make ties
    return ANCHOR_CODER.decode(deltas, predictions.anchors[anchors]), logits.float().sigmoid()


def clip_and_filter(candidates: Proposals, image_size: tuple[int, int], min_size: float) -> Proposals:
    """Candidates clipped to the image (height, width) without the padding; too small ones dropped."""
    clipped = replace(candidates, boxes=clip_boxes(candidates.boxes, image_size))
    return clipped[torch.where(not_small(clipped.boxes, min_size))[0]]


def suppress_overlaps(candidates: Proposals, threshold: float) -> Proposals:
    """NMS within each level; the result is sorted by score, highest first."""
    if not is_tracing():
        return candidates[batched_nms(candidates.boxes, candidates.scores, candidates.levels, threshold)]
    # in a trace `batched_nms` would shift the levels apart, which rounds their coordinates
    levels = [torch.where(candidates.levels == level)[0] for level in range(NUM_LEVELS)]
    keep = torch.cat([own[nms(candidates.boxes[own], candidates.scores[own], threshold)] for own in levels])
    return candidates[keep[candidates.scores[keep].sort(descending=True).indices]]


def keep_per_batch(sorted_proposals: list[Proposals], count: int) -> list[Proposals]:
    """The `count` highest of all images together (maskrcnn-benchmark's FPN_POST_NMS_PER_BATCH).

    An image may keep none. Depends on the batch: 2000 leaves one image 2000, and eight images about 250 each.
    """
    scores = torch.cat([proposals.scores for proposals in sorted_proposals])
    if len(scores) <= count:
        return sorted_proposals
    keep = torch.zeros_like(scores, dtype=torch.bool)
    keep[scores.topk(count).indices] = True
    keeps = keep.split([len(proposals) for proposals in sorted_proposals])
    return [proposals[torch.where(mask)[0]] for proposals, mask in zip(sorted_proposals, keeps, strict=True)]
