"""Matching and sampling of all images at once: as many rows as may be drawn, with labels that say which count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maskrcnn_train.model.boxes import pairwise_coverage, pairwise_iou
from maskrcnn_train.model.matching import BACKGROUND, IGNORED
from maskrcnn_train.model.outputs import PROPOSAL_CODER
from maskrcnn_train.model.proposals import ANCHOR_CODER
from maskrcnn_train.model.sampling import FILLING, AnchorSamples, Samples, SamplingRules
from maskrcnn_train.structures.batch import Target
from maskrcnn_train.structures.waits import send

PAIRS = 2**26  # IoUs computed at once


@torch.no_grad()
def sample_anchors(anchors: Tensor, targets: list[Target], rules: SamplingRules) -> AnchorSamples:
    """Match anchors [A, 4] to the objects of each image, and draw those that train."""
    gt_boxes, real = _padded([target["boxes"] for target in targets])
    matches = match_padded(gt_boxes, real, anchors, upper=rules.upper, lower=rules.lower, keep_best=True)
    if any("ignored" in target for target in targets):
        matches = ignore_covered(matches, anchors, targets, rules.lower)
    index, labels = draw((matches >= 0).long().masked_fill(matches == IGNORED, FILLING), rules)
    goals = _rows_at(gt_boxes, matches.gather(1, index).clamp(min=0))
    deltas = ANCHOR_CODER.encode(goals, anchors[index]).masked_fill((labels <= 0)[..., None], 0)
    starts = torch.arange(len(targets), device=anchors.device)[:, None] * len(anchors)
    return AnchorSamples((index + starts).flatten(), labels.flatten(), deltas.flatten(0, 1))


@torch.no_grad()
def sample_proposals(proposals: list[Tensor], targets: list[Target], rules: SamplingRules) -> Samples:
    """Match proposals [P, 4] of each image, and its objects among them, to the objects; draw those that train."""
    gt_boxes, real = _padded([target["boxes"] for target in targets])
    gt_labels = F.pad(pad_sequence([target["labels"] for target in targets], batch_first=True), (0, 1))
    boxes, there = _padded([torch.cat((own, target["boxes"])) for own, target in zip(proposals, targets, strict=True)])
    matches = match_padded(gt_boxes, real, boxes, upper=rules.upper, lower=rules.lower, keep_best=False)
    labels = gt_labels.gather(1, matches.clamp(min=0)).masked_fill(matches < 0, 0).masked_fill(~there, FILLING)
    if any("ignored" in target for target in targets):
        labels.masked_fill_(ignore_covered(matches, boxes, targets, rules.lower) == IGNORED, FILLING)
    index, labels = draw(labels, rules)
    boxes, matches = _rows_at(boxes, index), matches.gather(1, index).clamp(min=0)
    deltas = PROPOSAL_CODER.encode(_rows_at(gt_boxes, matches), boxes).masked_fill((labels <= 0)[..., None], 0)
    images = torch.arange(len(targets), device=boxes.device)[:, None].expand_as(labels)
    return Samples(images.flatten(), boxes.flatten(0, 1), matches.flatten(), labels.flatten(), deltas.flatten(0, 1))


def draw(labels: Tensor, rules: SamplingRules) -> tuple[Tensor, Tensor]:
    """Random rows of each image and their labels, int64 [N, S]; positives first, FILLING where there are no more.

    labels: int64 [N, B]; >= 1 positive, 0 negative, < 0 neither. The fraction is a cap: few positives leave room for
    negatives, few negatives are not replaced. Rows are those of the highest random keys, of positives first.
    """
    limit = min(int(rules.batch_size * rules.positive_fraction), labels.shape[1])
    keys = torch.rand(labels.shape, device=labels.device)
    positive = torch.where(labels > 0, keys, -1)
    last = positive.topk(limit, dim=1).values[:, -1:] if limit else positive.new_full((len(labels), 1), 2)
    ranked = torch.where(labels == 0, keys, -1)
    ranked = torch.where((labels > 0) & (positive >= last), keys + 1, ranked)
    best, index = ranked.topk(min(rules.batch_size, labels.shape[1]), dim=1)
    return index, labels.gather(1, index).masked_fill(best < 0, FILLING)


def match_padded(
    gt_boxes: Tensor, real: Tensor, boxes: Tensor, *, upper: float, lower: float, keep_best: bool
) -> Tensor:
    """What `match_boxes` says of each image: int64 [N, B].

    gt_boxes: [N, G, 4], those that count where `real`, bool [N, G]; boxes: [B, 4] or [N, B, 4].
    """
    pieces = boxes.split(max(1, PAIRS // real.numel()), dim=-2)
    highest, nearest, best = [], [], []
    for piece in pieces:
        iou = _ious(gt_boxes, real, piece)
        values, objects = iou.max(dim=1)
        highest.append(values)
        nearest.append(objects)
        best.append(iou.amax(dim=2))
    ious, matches = torch.cat(highest, dim=1), torch.cat(nearest, dim=1)
    result = matches.masked_fill(ious < upper, IGNORED).masked_fill(ious < lower, BACKGROUND)
    if not keep_best:
        return result
    of_object = torch.stack(best).amax(dim=0)
    of_object = of_object.masked_fill(of_object <= 0, torch.inf)[..., None]  # an object that touches none has no best
    if len(pieces) == 1:
        return torch.where((iou == of_object).any(dim=1), matches, result)
    is_best = torch.cat([(_ious(gt_boxes, real, piece) == of_object).any(dim=1) for piece in pieces], dim=1)
    return torch.where(is_best, matches, result)


def ignore_covered(matches: Tensor, boxes: Tensor, targets: list[Target], limit: float) -> Tensor:
    """What `matching.ignore_covered` makes of the matches int64 [N, B] of each image; boxes: [B, 4] or [N, B, 4]."""
    none = torch.zeros((0, 4), device=boxes.device)
    # what fills up the lists of regions has no area, and covers nothing
    regions = pad_sequence([target.get("ignored", none) for target in targets], batch_first=True)
    pieces = boxes.split(max(1, PAIRS // (regions.numel() // 4)), dim=-2)
    shares = [pairwise_coverage(regions, piece).amax(dim=1) for piece in pieces]
    return matches.masked_fill((matches == BACKGROUND) & (torch.cat(shares, dim=1) >= limit), IGNORED)


def _ious(gt_boxes: Tensor, real: Tensor, boxes: Tensor) -> Tensor:
    """IoU [N, G, B], -1 for objects that are not real."""
    return pairwise_iou(gt_boxes, boxes).masked_fill_(~real[..., None], -1)


def _padded(boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes [b_i, 4] of each image as [N, B, 4], and which of them are there: bool [N, B]. One row at least is not."""
    padded = F.pad(pad_sequence(boxes, batch_first=True), (0, 0, 0, 1))
    counts = send([len(each) for each in boxes], padded.device)
    return padded, torch.arange(padded.shape[1], device=padded.device) < counts[:, None]


def _rows_at(boxes: Tensor, index: Tensor) -> Tensor:
    """Boxes [N, B, 4] at rows int64 [N, S]: [N, S, 4]."""
    return boxes.gather(1, index[..., None].expand(-1, -1, 4))
