"""How a model would do with other test-time budgets, from one pass in which backbone, RPN and heads run once.

Combinations of settings share most of their proposals. The heads look once at each proposal that any combination keeps;
then each combination picks its own. The detections are those of a real evaluation with these settings. (A GPU may round
the sums of a smaller batch differently in the last bit.)
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor

from maskrcnn_train.analysis.trace import Trace, now
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.modes import evaluating
from maskrcnn_train.model.outputs import (
    Candidates,
    DetectionRules,
    candidates_above,
    decode_proposals,
    keep_best,
    suppress_in_classes,
)
from maskrcnn_train.model.proposals import ProposalBudget, Proposals, select_proposals
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.batch import ImageBatch, Target
from maskrcnn_train.structures.classes import ClassMap
from maskrcnn_train.structures.detections import Detections
from maskrcnn_train.structures.pasting import MaskPasting

Result = dict[str, Any]
ProposalKey = tuple[int, float, int]  # pre_test, rpn_threshold, post_test
ProposalsByKey = dict[ProposalKey, Proposals]


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

    def budget(self, own: ProposalBudget) -> ProposalBudget:
        """A model's own budget with the values of this setting."""
        return replace(own, pre_nms=self.pre_test, post_nms=self.post_test, nms_threshold=self.rpn_threshold)

    def rules(self, own: DetectionRules) -> DetectionRules:
        """A model's own rules with the values of this setting."""
        values = self.score_threshold, self.nms_threshold, self.detections_per_image
        return DetectionRules(*values, min_size=own.min_size)


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
    single = [replace(trained, **{name: value}) for name in KEYS for value in values[name]]
    chosen, total = dict.fromkeys([trained, *single]), math.prod(map(len, values.values()))
    if total <= most:
        chosen |= dict.fromkeys(Setting(*each) for each in itertools.product(*values.values()))
    draw = random.Random(seed)
    while len(chosen) < min(most, total):
        chosen.setdefault(Setting(**{name: draw.choice(values[name]) for name in KEYS}))
    return list(chosen)[:most]


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
        self.num_images = self.num_boxes = self.num_masks = 0  # boxes and masks: that the heads were given
        # of all images: features, boxes, masks, and proposals by (pre_test, rpn_threshold)
        self.seconds: dict[str | tuple[int, float], float] = defaultdict(float)

    def add(self, trace: Trace) -> None:
        """Detect with every combination on one batch."""
        self.seconds["features"] += trace.seconds
        self.num_images += len(trace.image_ids)
        proposals = self._proposals(trace)
        for image in range(len(trace.image_ids)):
            self._add_image(trace, image, {key: each[image] for key, each in proposals.items()})

    def milliseconds(self, number: int) -> float:
        """Milliseconds of an image with this setting, added up from the times of the stages."""
        setting = self.settings[number]
        seconds = self.seconds["features"] + self.seconds[setting.pre_test, setting.rpn_threshold]
        seconds += self.seconds["boxes"] / max(self.num_boxes, 1) * self.num_proposals[number]
        seconds += self.seconds["masks"] / max(self.num_masks, 1) * len(self.results[number])
        return 1000 * seconds / max(self.num_images, 1)

    def _proposals(self, trace: Trace) -> dict[ProposalKey, list[Proposals]]:
        """Proposals of every image for each distinct (pre_test, rpn_threshold, post_test)."""
        found: dict[ProposalKey, list[Proposals]] = {}
        largest_first = sorted(set(map(_proposal_key, self.settings)), reverse=True)
        for (pre_test, threshold), keys in itertools.groupby(largest_first, key=lambda key: key[:2]):
            counts = [key[2] for key in keys]
            began = now(trace.device)
            own = self.model.rpn.test_budget
            budget = replace(own, pre_nms=pre_test, post_nms=counts[0], nms_threshold=threshold)
            most = select_proposals(trace.predictions, trace.inputs.sizes, budget)
            self.seconds[pre_test, threshold] += now(trace.device) - began
            found |= {(pre_test, threshold, count): [each[:count] for each in most] for count in counts}
        return found

    def _add_image(self, trace: Trace, image: int, proposals: ProposalsByKey) -> None:
        size, features = trace.inputs.sizes[image], Pyramid(level[image : image + 1] for level in trace.features)
        shared = _union(list(proposals.values()))
        if not len(shared):
            return
        began = now(trace.device)
        logits, deltas = self.model.roi_heads.predict_boxes(features, [shared.boxes])
        self.seconds["boxes"] += now(trace.device) - began
        self.num_boxes += len(shared)
        scores, num_classes = logits.softmax(-1), logits.shape[1]
        chosen = self._choose(proposals, shared, scores, deltas, size)
        # a detection is a pair of proposal and class: each is looked at once, whatever settings keep it
        every = torch.cat([rows * num_classes + labels for rows, labels in chosen])
        pairs, positions = every.unique(return_inverse=True)
        rows, labels = pairs // num_classes, pairs % num_classes
        boxes = decode_proposals(deltas[rows, labels], shared.boxes[rows], size)
        by_threshold = self._results_of(trace, image, features, Detections(boxes, labels, scores[rows, labels], size))
        for number, own in enumerate(positions.split([len(rows) for rows, _ in chosen])):
            results = by_threshold[self.settings[number].mask_threshold]
            self.results[number] += [results[position] for position in own.tolist()]

    def _choose(
        self,
        proposals: ProposalsByKey,
        shared: Proposals,
        scores: Tensor,
        deltas: Tensor,
        size: tuple[int, int],
    ) -> list[tuple[Tensor, Tensor]]:
        """What each setting detects on an image, highest score first: rows of `shared` [N] and labels [N].

        What settings have in common is computed once. scores [P, classes], deltas [P, classes, 4]: of `shared`.
        """
        rows_of = {key: torch.searchsorted(shared.anchors, own.anchors) for key, own in proposals.items()}

        @cache
        def above(key: ProposalKey, score_threshold: float) -> Candidates:
            rows, rules = rows_of[key], replace(self.model.roi_heads.rules, score_threshold=score_threshold)
            return candidates_above(scores[rows], deltas[rows], shared.boxes[rows], size, rules)

        @cache
        def kept(key: ProposalKey, score_threshold: float, nms_threshold: float) -> Candidates:
            return suppress_in_classes(above(key, score_threshold), nms_threshold)

        chosen = []
        for number, setting in enumerate(self.settings):
            key = _proposal_key(setting)
            self.num_proposals[number] += len(rows_of[key])
            best = keep_best(kept(key, setting.score_threshold, setting.nms_threshold), setting.detections_per_image)
            chosen.append((rows_of[key][best.rows], best.labels))
        return chosen

    def _results_of(self, trace: Trace, image: int, features: Pyramid, found: Detections) -> dict[float, list[Result]]:
        """COCO results of every detection of an image, for each mask threshold."""
        if self.model.roi_heads.has_masks:
            began = now(trace.device)
            (found,) = self.model.roi_heads.add_masks(features, [found])
            self.seconds["masks"] += now(trace.device) - began
            self.num_masks += len(found)
        found = replace(found.resized(trace.inputs.original_sizes[image]).cpu(), classes=self.classes)
        results = {}
        for threshold in {setting.mask_threshold for setting in self.settings}:
            pasting = replace(self.pasting, threshold=threshold)
            results[threshold] = replace(found, pasting=pasting).to_coco(trace.image_ids[image])
        return results


def _proposal_key(setting: Setting) -> ProposalKey:
    return setting.pre_test, setting.rpn_threshold, setting.post_test


def _union(parts: Sequence[Proposals]) -> Proposals:
    """Each proposal once, sorted by anchor."""
    joined = Proposals(**{name: torch.cat([getattr(each, name) for each in parts]) for name in vars(parts[0])})
    joined = joined[joined.anchors.argsort(stable=True)]
    first = torch.ones_like(joined.anchors, dtype=torch.bool)
    first[1:] = joined.anchors.diff() > 0
    return joined[torch.where(first)[0]]


def time_settings(
    model: MaskRCNN,
    settings: Mapping[str, Setting],
    loader: Iterable[tuple[ImageBatch, list[Target]]],
    num_images: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> dict[str, float]:
    """Median milliseconds of an image with each of the named settings, taken in turn on the first `num_images`."""
    seconds: dict[Setting, list[float]] = {setting: [] for setting in settings.values()}
    left = num_images
    with evaluating(model), torch.inference_mode(), autocast():
        for images, _ in loader if num_images else ():
            batch = images.to(device)
            model.detect(batch)  # untimed: the first pass over an image size costs more
            for setting, own in seconds.items():
                budget, rules = setting.budget(model.rpn.test_budget), setting.rules(model.roi_heads.rules)
                began = now(device)
                model.detect(batch, budget=budget, rules=rules)
                own.append((now(device) - began) / len(batch))
            left -= len(batch)
            if left <= 0:
                break
    return {name: 1000 * statistics.median(seconds[each]) for name, each in settings.items() if seconds[each]}
