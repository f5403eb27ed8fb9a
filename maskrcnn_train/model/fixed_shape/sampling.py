"""Matching and sampling of all images at once: as many rows as may be drawn, with labels that say which count."""

from __future__ import annotations

import torch
from torch import Tensor

from maskrcnn_train.model.fixed_shape.overlaps import pairwise_coverage, pairwise_iou
from maskrcnn_train.model.matching import BACKGROUND, IGNORED
from maskrcnn_train.model.outputs import PROPOSAL_CODER
from maskrcnn_train.model.proposals import ANCHOR_CODER
from maskrcnn_train.model.sampling import FILLING, AnchorSamples, Samples, SamplingRules
from maskrcnn_train.structures.batch import Target

PAIRS = 2**26  # IoUs computed at once


@torch.no_grad()
def sample_anchors(anchors: Tensor, targets: list[Target], rules: SamplingRules) -> AnchorSamples:
    """Match anchors [A, 4] to the objects of each image, and draw those that train."""
    gt_boxes = _padded([[target["boxes"]] for target in targets])
    matches = match_padded(gt_boxes, anchors, upper=rules.upper, lower=rules.lower, keep_best=True)
    if any("ignored" in target for target in targets):
        matches = ignore_covered(matches, anchors, targets, rules.lower)
    index, labels = draw(matches + 1, rules)  # makes BACKGROUND 0 and IGNORED FILLING
    goals = _rows_at(gt_boxes, (labels - 1).clamp_(min=0))
    deltas = ANCHOR_CODER.encode(goals, anchors[index]).masked_fill_((labels <= 0)[..., None], 0)
    images = torch.arange(len(targets), device=anchors.device)[:, None]
    in_batch = index.add(images, alpha=len(anchors))
    return AnchorSamples(in_batch.flatten(), labels.clamp_(max=1).flatten(), deltas.flatten(0, 1))


@torch.no_grad()
def sample_proposals(proposals: list[Tensor], targets: list[Target], rules: SamplingRules) -> Samples:
    """Match proposals [P, 4] of each image, and its objects among them, to the objects; draw those that train."""
    gt_boxes = _padded([[target["boxes"]] for target in targets])
    gt_labels = _padded([[target["labels"]] for target in targets], filling=-IGNORED)
    boxes = _padded([[own, target["boxes"]] for own, target in zip(proposals, targets, strict=True)])
    matches = match_padded(gt_boxes, boxes, upper=rules.upper, lower=rules.lower, keep_best=False)
    images = torch.arange(len(targets), device=boxes.device)[:, None]
    labels = gt_labels[images, matches]  # BACKGROUND and IGNORED, -1 and -2, are rows from the end, which fill up
    labels.masked_fill_(_fills_up(boxes), FILLING)
    if any("ignored" in target for target in targets):
        labels.masked_fill_(ignore_covered(matches, boxes, targets, rules.lower) == IGNORED, FILLING)
    index, labels = draw(labels, rules)
    boxes, matches = _rows_at(boxes, index), matches.gather(1, index).clamp(min=0)
    deltas = PROPOSAL_CODER.encode(_rows_at(gt_boxes, matches), boxes).masked_fill_((labels <= 0)[..., None], 0)
    rois = torch.cat((images.float().expand_as(labels)[..., None], boxes), dim=2)
    return Samples(*(column.flatten(0, 1) for column in (rois, matches, labels, deltas)))


def draw(labels: Tensor, rules: SamplingRules) -> tuple[Tensor, Tensor]:
    """Random rows of each image and their labels, int64 [N, S]; positives first, FILLING where there are no more.

    labels: int64 [N, B]; >= 1 positive, 0 negative, FILLING neither. The fraction is a cap: few positives leave room
    for negatives, few negatives are not replaced. Rows are those of the highest random keys, of positives first.
    """
    limit = min(int(rules.batch_size * rules.positive_fraction), labels.shape[1])
    # positives are above 1, negatives above 0, all others below
    keys = torch.rand(labels.shape, device=labels.device).add_(labels.clamp(max=1))
    first = keys.topk(limit, dim=1)
    keys.masked_fill_(labels > 0, -1).scatter_(1, first.indices, first.values)  # no positives but the first
    best, index = keys.topk(min(rules.batch_size, labels.shape[1]), dim=1)
    return index, labels.gather(1, index).masked_fill_(best < 0, FILLING)


def match_padded(gt_boxes: Tensor, boxes: Tensor, *, upper: float, lower: float, keep_best: bool) -> Tensor:
    """What `match_boxes` says of each image: int64 [N, B].

    gt_boxes: [N, G, 4], filled up; boxes: [B, 4] or [N, B, 4].
    """
    filling = _fills_up(gt_boxes)[..., None]
    pieces = boxes.split(max(1, PAIRS // filling.numel()), dim=-2)
    highest, nearest, best = [], [], []
    for piece in pieces:
        iou = pairwise_iou(gt_boxes, piece).masked_fill_(filling, -1)
        values, objects = iou.max(dim=1)
        highest.append(values)
        nearest.append(objects)
        if keep_best:
            best.append(iou.amax(dim=2, keepdim=True))
    ious, matches = _joined(highest), _joined(nearest)
    if keep_best:
        of_object = _joined(best, dim=2).amax(dim=2, keepdim=True) if len(best) > 1 else best[0]
        of_object.masked_fill_(of_object <= 0, torch.inf)  # an object that touches none has no best
        whole = [iou] if len(pieces) == 1 else (pairwise_iou(gt_boxes, piece) for piece in pieces)
        ious.masked_fill_(_joined([(iou == of_object).any(dim=1) for iou in whole]), torch.inf)
    return matches.masked_fill_(ious < upper, IGNORED).masked_fill_(ious < lower, BACKGROUND)


def ignore_covered(matches: Tensor, boxes: Tensor, targets: list[Target], limit: float) -> Tensor:
    """What `matching.ignore_covered` makes of the matches int64 [N, B] of each image; boxes: [B, 4] or [N, B, 4]."""
    # what fills up the lists of regions has no area, and covers nothing
    regions = _padded([[target.get("ignored", target["boxes"][:0])] for target in targets])
    pieces = boxes.split(max(1, PAIRS // (regions.numel() // 4)), dim=-2)
    shares = [pairwise_coverage(regions, piece).amax(dim=1) for piece in pieces]
    return matches.masked_fill((matches == BACKGROUND) & (_joined(shares) >= limit), IGNORED)


def _padded(images: list[list[Tensor]], filling: int = 1) -> Tensor:
    """Rows of each image, given in pieces [b, ...], as [N, B, ...], filled up with zeros: `filling` rows at least."""
    counts = [sum(map(len, pieces)) for pieces in images]
    longest = max(counts) + filling
    zeros = images[0][0].new_zeros((longest - min(counts), *images[0][0].shape[1:]))
    filled = [row for own, count in zip(images, counts, strict=True) for row in (*own, zeros[: longest - count])]
    return torch.cat(filled).view(len(images), longest, *zeros.shape[1:])


def _fills_up(boxes: Tensor) -> Tensor:
    """bool [...] of boxes [..., 4]: those without width, which no object and no proposal is."""
    return boxes[..., 2] <= boxes[..., 0]


def _joined(pieces: list[Tensor], dim: int = 1) -> Tensor:
    return torch.cat(pieces, dim=dim) if len(pieces) > 1 else pieces[0]


def _rows_at(boxes: Tensor, index: Tensor) -> Tensor:
    """Boxes [N, B, 4] at rows int64 [N, S]: [N, S, 4]."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))
