"""Samples: the anchors and the proposals that enter the losses, and what they should become.

As many as there are, drawn as torchvision draws them: the same seed gives the same samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from maskrcnn_train.model.matching import IGNORED, ignore_covered, match_boxes, sample_balanced
from maskrcnn_train.model.outputs import PROPOSAL_CODER
from maskrcnn_train.model.proposals import ANCHOR_CODER
from maskrcnn_train.structures.batch import Target

FILLING = -1  # label of a row that only fills up a fixed shape


@dataclass(frozen=True)
class SamplingRules:
    """upper, lower: IoU with an object from which a box is positive, and below which it is negative. batch_size,
    positive_fraction: how many are drawn per image, and the most of them that are positive."""

    upper: float
    lower: float
    batch_size: int
    positive_fraction: float


@dataclass
class AnchorSamples:
    """Sampled anchors of a batch. index: int64 [S], into images x all anchors; labels: int64 [S], 1 object,
    0 background, FILLING neither; deltas: [S, 4], zeros without an object."""

    index: Tensor
    labels: Tensor
    deltas: Tensor


@dataclass
class Samples:
    """Sampled proposals of a batch. rois: float32 [S, 5], image and box; matches: int64 [S], the object among its
    image's, 0 without one; labels: int64 [S], 0 background, FILLING neither; deltas: [S, 4], zeros without an object.
    """

    rois: Tensor
    matches: Tensor
    labels: Tensor
    deltas: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Samples:
        return Samples(*(value[rows] for value in vars(self).values()))

    @property
    def images(self) -> Tensor:
        return self.rois[:, 0].long()

    @property
    def boxes(self) -> Tensor:
        return self.rois[:, 1:]


@torch.no_grad()
def sample_anchors(anchors: Tensor, targets: list[Target], rules: SamplingRules) -> AnchorSamples:
    """Match anchors [A, 4] to the objects of each image, and draw those that train: positives first."""
    positives, negatives, deltas = [], [], []
    for image, target in enumerate(targets):
        gt_boxes = target["boxes"]
        matches = match_boxes(gt_boxes, anchors, upper=rules.upper, lower=rules.lower, keep_best=True)
        if "ignored" in target:
            matches = ignore_covered(matches, anchors, target["ignored"], rules.lower)
        labels = (matches >= 0).to(torch.int8).masked_fill_(matches == IGNORED, -1)
        positive, negative = sample_balanced(labels, rules.batch_size, rules.positive_fraction)
        positives.append(positive + image * len(anchors))
        negatives.append(negative + image * len(anchors))
        deltas.append(ANCHOR_CODER.encode(gt_boxes[matches[positive]], anchors[positive]))
    index, found = torch.cat(positives + negatives), sum(map(len, positives))
    labels = torch.zeros_like(index)
    labels[:found] = 1
    return AnchorSamples(index, labels, F.pad(torch.cat(deltas), (0, 0, 0, len(index) - found)))


@torch.no_grad()
def sample_proposals(proposals: list[Tensor], targets: list[Target], rules: SamplingRules) -> Samples:
    """Match proposals [P, 4] of each image, and its objects among them, to the objects; draw those that train."""
    samples = [_sample_image(image, *each, rules) for image, each in enumerate(zip(proposals, targets, strict=True))]
    return Samples(*(torch.cat(columns) for columns in zip(*(vars(each).values() for each in samples), strict=True)))


def _sample_image(image: int, proposed: Tensor, target: Target, rules: SamplingRules) -> Samples:
    gt_boxes = target["boxes"]
    boxes = torch.cat((proposed, gt_boxes))
    matches = match_boxes(gt_boxes, boxes, upper=rules.upper, lower=rules.lower, keep_best=False)
    labels = torch.zeros_like(matches)
    if "ignored" in target:
        matches = ignore_covered(matches, boxes, target["ignored"], rules.lower)
        labels[matches == IGNORED] = FILLING
    matched = torch.where(matches >= 0)[0]
    labels[matched] = target["labels"][matches[matched]]
    index = torch.cat(sample_balanced(labels, rules.batch_size, rules.positive_fraction)).sort().values
    boxes, matches, labels = boxes[index], matches.clamp(min=0)[index], labels[index]
    deltas = torch.zeros_like(boxes)
    foreground = torch.where(labels > 0)[0]
    deltas[foreground] = PROPOSAL_CODER.encode(gt_boxes[matches[foreground]], boxes[foreground])
    return Samples(F.pad(boxes, (1, 0), value=image), matches, labels, deltas)
