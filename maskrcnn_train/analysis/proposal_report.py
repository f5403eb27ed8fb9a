"""How good the proposals are: how many objects the first N of them cover, and which anchors become positive in
training under the RPN's thresholds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from maskrcnn_train.analysis.trace import Objects, ObjectsOfImages, Trace
from maskrcnn_train.evaluation.coco.metrics import IOU_THRESHOLDS
from maskrcnn_train.model.boxes import pairwise_iou
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.matching import nearest_objects
from maskrcnn_train.model.proposals import select_proposals
from maskrcnn_train.structures.arrays import Floats


@dataclass
class ProposalRecall:
    """Shares of some objects among the first `count` proposals of their images: at IoU .5, and the mean over .5 to .95
    (average recall). by: all, size, class; group: which size or class, as a class may be called small."""

    by: str
    group: str
    count: int
    objects: int
    recall50: float
    average_recall: float


@dataclass
class AnchorShares:
    """What training with these thresholds makes of the anchors of an image, on average.

    positive, ignored, negative: shares of all anchors. per_object: positive anchors of an object; only_best: share of
    the objects that have no anchor above `upper`, so that only the best-anchor rule gives them one.
    """

    upper: float
    lower: float
    positive: float
    ignored: float
    negative: float
    per_object: float
    only_best: float


@dataclass
class ProposalReporter:
    """Collects, batch by batch, how well proposals and anchors of a model fit the objects.

    counts: values of `rpn.nms.post_test` to try, ascending, with the rest of the model's own test budget.
    thresholds: (upper, lower) pairs of `rpn.iou`.
    """

    model: MaskRCNN
    objects: ObjectsOfImages
    counts: Sequence[int]
    thresholds: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        self.rows: list[int] = []  # of the ground truth
        self.best_ious: list[Floats] = []  # of each object the IoU with the best of the first N proposals, [N]
        self.anchor_counts = np.zeros((len(self.thresholds), 3))  # positive, ignored, negative
        self.only_best = np.zeros(len(self.thresholds))
        self.num_objects = 0

    def add(self, trace: Trace) -> None:
        """Look at one batch."""
        budget = replace(self.model.rpn.test_budget, post_nms=self.counts[-1])
        found = select_proposals(trace.predictions, trace.inputs.sizes, budget)
        for image, proposals in enumerate(found):
            own = self.objects.of(trace, image)
            if own.rows:
                self._add_recall(own, proposals.boxes)
            self._add_anchors(own, trace.predictions.anchors)

    def _add_recall(self, own: Objects, proposals: Tensor) -> None:
        best = torch.zeros((len(own.rows), len(self.counts)))
        if len(proposals):
            running = pairwise_iou(own.boxes, proposals).cummax(dim=1).values.cpu()
            best = running[:, [min(count, len(proposals)) - 1 for count in self.counts]]
        self.rows += own.rows
        self.best_ious.append(best.double().numpy())

    def _add_anchors(self, own: Objects, anchors: Tensor) -> None:
        if not own.rows:
            self.anchor_counts += [0, 0, len(anchors)]
            return
        nearest = nearest_objects(own.boxes, anchors)
        best_rule = torch.zeros(len(anchors), dtype=torch.bool, device=anchors.device)
        best_rule[nearest.best] = True
        for row, (upper, lower) in enumerate(self.thresholds):
            positive = (nearest.ious >= upper) | best_rule
            negative = (nearest.ious < lower) & ~best_rule
            self.anchor_counts[row] += [int(each.sum()) for each in (positive, ~positive & ~negative, negative)]
            self.only_best[row] += int((nearest.object_ious < upper).sum())
        self.num_objects += len(own.rows)

    def recalls(self, groups: Mapping[str, Sequence[str]]) -> list[ProposalRecall]:
        """Recall of all objects and of every group at every count. groups: size, class -> that of each ground-truth
        row."""
        if not self.rows:
            return []
        ious = np.concatenate(self.best_ious)
        rows: list[ProposalRecall] = []
        members = {("all", "all"): np.ones(len(ious), bool)}
        for by, of_row in groups.items():
            own = np.array([of_row[row] for row in self.rows])
            members |= {(by, group): own == group for group in dict.fromkeys(own.tolist())}
        for (by, group), chosen in members.items():
            for column, count in enumerate(self.counts):
                best = ious[chosen, column]
                shares = (best >= 0.5).mean(), np.mean([(best >= iou).mean() for iou in IOU_THRESHOLDS])
                rows.append(ProposalRecall(by, group, count, int(chosen.sum()), *map(float, shares)))
        return rows

    def anchor_shares(self) -> list[AnchorShares]:
        """A row for each pair of thresholds."""
        objects, of_pairs = max(self.num_objects, 1), zip(self.anchor_counts, self.only_best, strict=True)
        numbers = [[*counts / max(counts.sum(), 1), counts[0] / objects, only / objects] for counts, only in of_pairs]
        return [AnchorShares(*pair, *map(float, row)) for pair, row in zip(self.thresholds, numbers, strict=True)]
