"""A model whose answers are written down, and two objects that it finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_train.analysis.budgets import Setting
from maskrcnn_train.analysis.trace import Trace
from maskrcnn_train.model.inputs import NetworkInput
from maskrcnn_train.model.outputs import PROPOSAL_CODER, DetectionRules
from maskrcnn_train.model.proposals import ANCHOR_CODER, ProposalBudget, RPNPredictions, select_proposals
from maskrcnn_train.model.sampling import SamplingRules
from maskrcnn_train.structures.classes import ClassMap

SIZE = (200, 200)
CLASSES = ClassMap(names=["a", "b"], ids=[1, 2])
BUDGET = ProposalBudget(pre_nms=50, post_nms=50, nms_threshold=0.7, min_size=0.0)
SETTING = Setting(
    pre_test=200,
    post_test=100,
    rpn_threshold=0.7,
    score_threshold=0.05,
    nms_threshold=0.5,
    detections_per_image=100,
    mask_threshold=0.5,
)
RULES = DetectionRules(score_threshold=0.05, nms_threshold=0.5, count=50, min_size=0.0)


class PlantedModel:
    """The parts of a model that an analysis asks, with answers that are written down.

    anchors: [A, 4]; moved: where the RPN moves each [A, 4]; objectness [A]; scores [A, 3] and boxes [A, 3, 4]: what the
    box head says of the proposal of each anchor.
    """

    def __init__(self, anchors: Tensor, moved: Tensor, objectness: Tensor, scores: Tensor, boxes: Tensor) -> None:
        self.rpn, self.roi_heads = nn.Module(), nn.Module()
        self.rpn.test_budget, self.roi_heads.rules = BUDGET, RULES
        self.rpn.sampling = SamplingRules(upper=0.7, lower=0.3, batch_size=256, positive_fraction=0.5)
        self.anchors, self.moved, self.boxes = anchors.float(), moved.float(), boxes.float()
        self.objectness, self.scores = objectness, scores
        self.rpn.propose = self._propose
        self.roi_heads.predict_boxes = self._predict_boxes

    def _propose(self, predictions: RPNPredictions, sizes: list[tuple[int, int]]) -> Any:
        found = select_proposals(predictions, sizes, self.rpn.test_budget)
        self.proposed = found[0]
        return found

    def _predict_boxes(self, features: Any, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        rows = self.proposed.anchors
        wanted = self.boxes[rows]
        deltas = PROPOSAL_CODER.encode(
            wanted.reshape(-1, 4), self.proposed.boxes.repeat_interleave(wanted.shape[1], dim=0)
        )
        return self.scores[rows].clamp(1e-6).log(), deltas.reshape(wanted.shape)


def trace_of(model: PlantedModel, image_id: int = 1) -> Trace:
    deltas = ANCHOR_CODER.encode(model.moved, model.anchors)[None]
    predictions = RPNPredictions([], model.objectness[None], deltas, model.anchors, [len(model.anchors)])
    inputs = NetworkInput(torch.zeros(1, 3, *SIZE), [SIZE], [SIZE])
    return Trace([image_id], inputs, [], predictions, 0.0)


def box(x: float, y: float, side: float = 40) -> list[float]:
    return [x, y, x + side, y + side]


def planted(**change: Any) -> tuple[PlantedModel, dict[str, Any]]:
    """One object of class 1 at (20, 20), found; a second one far away, found too. `change` plants the fault."""
    values = {
        "anchors": [box(20, 20), box(120, 120)],
        "moved": [box(20, 20), box(120, 120)],
        "objectness": [2.0, 1.0],
        "scores": [[0.1, 0.9, 0.0], [0.1, 0.0, 0.9]],
        "boxes": [[box(20, 20)] * 3, [box(120, 120)] * 3],
    } | {key: value for key, value in change.items() if key not in ("budget", "rules", "objects")}
    model = PlantedModel(*(torch.tensor(values[key]) for key in ("anchors", "moved", "objectness", "scores", "boxes")))
    model.rpn.test_budget = replace(BUDGET, **change.get("budget", {}))
    model.roi_heads.rules = replace(RULES, **change.get("rules", {}))
    objects = change.get("objects", [(1, box(20, 20)), (2, box(120, 120))])
    truth = {
        "images": [{"id": 1, "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": label, "iscrowd": 0, "area": 1600.0}
            | {"bbox": [x1, y1, x2 - x1, y2 - y1]}
            for n, (label, (x1, y1, x2, y2)) in enumerate(objects, start=1)
        ],
    }
    return model, truth
