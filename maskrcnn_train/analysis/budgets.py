"""How a model would do with other test-time budgets, from one pass in which backbone, RPN and heads run once.

Combinations of settings share most of their proposals. The heads look once at each proposal that any combination keeps;
then each combination picks its own. The detections are those of a real evaluation with these settings. (A GPU may round
the sums of a smaller batch differently in the last bit.)
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from maskrcnn_train.analysis.trace import Trace, now
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.outputs import (
    Candidates,
    DetectionRules,
    candidates_above,
    decode_proposals,
    keep_best,
    suppress_in_classes,
)
from maskrcnn_train.model.proposals import ProposalBudget, Proposals, select_proposals
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.classes import ClassMap
from maskrcnn_train.structures.detections import Detections
from maskrcnn_train.structures.pasting import MaskPasting

Result = dict[str, Any]
ProposalKey = tuple[int, float, int]  # pre_test, rpn_threshold, post_test
PROPOSAL_COLUMNS = ("boxes", "scores", "levels", "anchors")


@dataclass(frozen=True)
class Setting:
    """One combination; the names are those of the keys, see KEYS."""

    pre_test: int
    post_test: int
    rpn_threshold: float
    score_threshold: float
    nms_threshold: float
    detections_per_image: int
    mask_threshold: float

    @classmethod
    def of(cls, config: TrainConfig) -> Setting:
        """The one that a model is used with."""
        return cls(**{name: reduce(getattr, key.split("."), config) for name, key in KEYS.items()})  # type: ignore[arg-type]

    def overrides(self) -> dict[str, float]:
        """Dotted key -> value."""
        return {KEYS[name]: value for name, value in asdict(self).items()}


KEYS = {
    "pre_test": "rpn.nms.pre_test",
    "post_test": "rpn.nms.post_test",
    "rpn_threshold": "rpn.nms.threshold",
    "score_threshold": "roi_head.score_threshold",
    "nms_threshold": "roi_head.nms_threshold",
    "detections_per_image": "roi_head.detections_per_image",
    "mask_threshold": "mask_head.threshold",
}


def combinations(trained: Setting, options: dict[str, Sequence[float]], *, most: int, seed: int) -> list[Setting]:
    """The trained setting first, then every single change of it, then other combinations, at most `most` in all.

    options: values for the names in KEYS; those of the training are added. Too many combinations are sampled.
    """
    values = {name: sorted({getattr(trained, name), *options.get(name, ())}) for name in KEYS}
    single = [
        replace(trained, **{name: value}) for name in KEYS for value in values[name] if value != getattr(trained, name)
    ]
    chosen = dict.fromkeys([trained, *single])
    total = 1
    for each in values.values():
        total *= len(each)
    if total <= most:
        chosen |= dict.fromkeys(Setting(*each) for each in itertools.product(*values.values()))
    draw = random.Random(seed)
    while len(chosen) < min(most, total):
        chosen.setdefault(Setting(**{name: draw.choice(values[name]) for name in KEYS}))
    return list(chosen)[:most]


@dataclass
class Costs:
    """Seconds over all images: features; proposals by (pre_test, rpn_threshold); box head and mask head, with how many
    proposals and detections they were given."""

    features: float
    proposals: dict[tuple[int, float], float]
    boxes: float
    num_boxes: int
    masks: float
    num_masks: int


@dataclass
class BudgetTracer:
    """Collects, batch by batch, the detections of every combination.

    settings: of `combinations`. pasting: its rule counts, the thresholds are those of the settings.
    """

    model: MaskRCNN
    settings: Sequence[Setting]
    classes: ClassMap
    pasting: MaskPasting

    def __post_init__(self) -> None:
        self.results: list[list[Result]] = [[] for _ in self.settings]
        self.num_proposals = [0] * len(self.settings)
        self.costs = Costs(0.0, defaultdict(float), 0.0, 0, 0.0, 0)
        self.num_images = 0

    def add(self, trace: Trace) -> None:
        """Detect with every combination on one batch."""
        self.costs.features += trace.seconds
        self.num_images += len(trace.image_ids)
        proposals = self._proposals(trace)
        for image in range(len(trace.image_ids)):
            self._add_image(trace, image, {key: each[image] for key, each in proposals.items()})

    def milliseconds(self, number: int) -> float:
        """Milliseconds of an image with this setting, added up from the times of the stages."""
        setting, costs = self.settings[number], self.costs
        seconds = costs.features + costs.proposals[setting.pre_test, setting.rpn_threshold]
        seconds += costs.boxes / max(costs.num_boxes, 1) * self.num_proposals[number]
        seconds += costs.masks / max(costs.num_masks, 1) * len(self.results[number])
        return 1000 * seconds / max(self.num_images, 1)

    def _proposals(self, trace: Trace) -> dict[ProposalKey, list[Proposals]]:
        """Proposals of every image for each distinct (pre_test, rpn_threshold, post_test)."""
        device = trace.predictions.anchors.device
        post_tests: dict[tuple[int, float], set[int]] = defaultdict(set)
        for setting in self.settings:
            post_tests[setting.pre_test, setting.rpn_threshold].add(setting.post_test)
        found: dict[ProposalKey, list[Proposals]] = {}
        for (pre_test, threshold), counts in post_tests.items():
            began = now(device)
            budget = ProposalBudget(pre_test, max(counts), threshold, self.model.rpn.test_budget.min_size)
            most = select_proposals(trace.predictions, trace.inputs.sizes, budget)
            self.costs.proposals[pre_test, threshold] += now(device) - began
            found |= {(pre_test, threshold, count): [each[:count] for each in most] for count in counts}
        return found

    def _add_image(self, trace: Trace, image: int, proposals: dict[ProposalKey, Proposals]) -> None:
        size, features = trace.inputs.sizes[image], [level[image : image + 1] for level in trace.features]
        shared = _union(list(proposals.values()))
        if not len(shared):
            return
        began = now(shared.boxes.device)
        logits, deltas = self.model.roi_heads.predict_boxes(features, [shared.boxes])
        self.costs.boxes += now(shared.boxes.device) - began
        self.costs.num_boxes += len(shared)
        choices = _Choices(proposals, shared, logits.softmax(-1), deltas, size, self.model.roi_heads.rules)
        chosen = []
        for number, setting in enumerate(self.settings):
            self.num_proposals[number] += len(proposals[_proposal_key(setting)])
            chosen.append(choices.detections(setting))
        # a detection is a pair of proposal and class: each is looked at once, whatever settings keep it
        num_classes = logits.shape[1]
        pairs, positions = torch.cat([rows * num_classes + labels for rows, labels in chosen]).unique(
            return_inverse=True
        )
        found = choices.decoded(pairs // num_classes, pairs % num_classes)
        by_threshold = self._results_of(trace, image, features, found)
        for number, own in enumerate(positions.split([len(rows) for rows, _ in chosen])):
            results = by_threshold[self.settings[number].mask_threshold]
            self.results[number] += [results[position] for position in own.tolist()]

    def _results_of(
        self, trace: Trace, image: int, features: list[Tensor], found: Detections
    ) -> dict[float, list[Result]]:
        """COCO results of every detection of an image, for each mask threshold."""
        if self.model.roi_heads.has_masks:
            began = now(found.boxes.device)
            (found,) = self.model.roi_heads.add_masks(features, [found])
            self.costs.masks += now(found.boxes.device) - began
            self.costs.num_masks += len(found)
        found = replace(found.resized(trace.inputs.original_sizes[image]).cpu(), classes=self.classes)
        return {
            threshold: replace(found, pasting=replace(self.pasting, threshold=threshold)).to_coco(
                trace.image_ids[image]
            )
            for threshold in {setting.mask_threshold for setting in self.settings}
        }


class _Choices:
    """The detections of one image for any setting; what settings have in common is computed once.

    proposals: by key; shared: their union, sorted by anchor; scores [N, classes] and deltas [N, classes, 4] of it.
    """

    def __init__(
        self,
        proposals: dict[ProposalKey, Proposals],
        shared: Proposals,
        scores: Tensor,
        deltas: Tensor,
        size: tuple[int, int],
        rules: DetectionRules,
    ) -> None:
        self.rows = {key: torch.searchsorted(shared.anchors, own.anchors) for key, own in proposals.items()}
        self.shared, self.scores, self.deltas = shared, scores, deltas
        self.size, self.rules = size, rules
        self.above: dict[tuple[ProposalKey, float], Candidates] = {}
        self.kept: dict[tuple[ProposalKey, float, float], Candidates] = {}

    def detections(self, setting: Setting) -> tuple[Tensor, Tensor]:
        """Rows of the union [N] and labels [N], highest score first."""
        key = _proposal_key(setting)
        rows, threshold = self.rows[key], setting.score_threshold
        if (key, threshold) not in self.above:
            self.above[key, threshold] = candidates_above(
                self.scores[rows],
                self.deltas[rows],
                self.shared.boxes[rows],
                self.size,
                threshold=threshold,
                min_size=self.rules.min_size,
            )
        if (key, threshold, setting.nms_threshold) not in self.kept:
            self.kept[key, threshold, setting.nms_threshold] = suppress_in_classes(
                self.above[key, threshold], setting.nms_threshold
            )
        best = keep_best(self.kept[key, threshold, setting.nms_threshold], setting.detections_per_image)
        return rows[best.rows], best.labels

    def decoded(self, rows: Tensor, labels: Tensor) -> Detections:
        """These pairs of proposal and class as detections, in their order."""
        boxes = decode_proposals(self.deltas[rows, labels], self.shared.boxes[rows], self.size)
        return Detections(boxes, labels, self.scores[rows, labels], self.size)


def _proposal_key(setting: Setting) -> ProposalKey:
    return setting.pre_test, setting.rpn_threshold, setting.post_test


def _union(parts: Sequence[Proposals]) -> Proposals:
    """Each proposal once, sorted by anchor."""
    joined = Proposals(*(torch.cat([getattr(each, name) for each in parts]) for name in PROPOSAL_COLUMNS))
    order = joined.anchors.argsort(stable=True)
    joined = joined[order]
    first = torch.ones(len(joined), dtype=torch.bool, device=order.device)
    first[1:] = joined.anchors.diff() > 0
    return joined[torch.where(first)[0]]
