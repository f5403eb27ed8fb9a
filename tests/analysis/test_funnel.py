"""The recall funnel: every object in exactly one stage, and each stage found where it was planted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskrcnn_train.analysis.funnel import FOUND, STAGES, Funnel, FunnelTracer
from maskrcnn_train.analysis.trace import ObjectsOfImages, Trace
from maskrcnn_train.evaluation.inference import to_results
from maskrcnn_train.model.inputs import NetworkInput
from maskrcnn_train.model.outputs import DetectionRules
from maskrcnn_train.model.proposals import ANCHOR_CODER, ProposalBudget
from maskrcnn_train.model.roi_heads import PROPOSAL_CODER
from maskrcnn_train.model.rpn import RPNPredictions

SIZE = (200, 200)
BUDGET = ProposalBudget(pre_nms=50, post_nms=50, nms_threshold=0.7, min_size=0.0)
RULES = DetectionRules(score_threshold=0.05, nms_threshold=0.5, count=50, min_size=0.0)


class PlantedModel:
    """The parts of a model that the funnel asks, with answers that are written down.

    anchors: [A, 4]; moved: where the RPN moves each [A, 4]; objectness [A]; scores [A, 3] and boxes [A, 3, 4]: what the
    box head says of the proposal of each anchor.
    """

    def __init__(self, anchors: Tensor, moved: Tensor, objectness: Tensor, scores: Tensor, boxes: Tensor) -> None:
        self.rpn, self.roi_heads = nn.Module(), nn.Module()
        self.rpn.test_budget, self.rpn.upper, self.roi_heads.rules = BUDGET, 0.7, RULES
        self.anchors, self.moved, self.objectness, self.scores, self.boxes = anchors, moved, objectness, scores, boxes
        self.rpn.propose = self._propose
        self.roi_heads.predict_boxes = self._predict_boxes

    def _propose(self, predictions: RPNPredictions, sizes: list[tuple[int, int]]) -> Any:
        from maskrcnn_train.model.proposals import select_proposals

        found = select_proposals(
            predictions.objectness,
            predictions.deltas,
            predictions.anchors,
            predictions.level_sizes,
            sizes,
            self.rpn.test_budget,
        )
        self.proposed = found[0]
        return found

    def _predict_boxes(self, features: Any, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        rows = self.proposed.anchors
        wanted = self.boxes[rows]
        deltas = PROPOSAL_CODER.encode(
            wanted.reshape(-1, 4), self.proposed.boxes.repeat_interleave(wanted.shape[1], dim=0)
        )
        return self.scores[rows].clamp(1e-6).log(), deltas.reshape(wanted.shape)


def trace_of(model: PlantedModel) -> Trace:
    deltas = ANCHOR_CODER.encode(model.moved, model.anchors)[None]
    predictions = RPNPredictions([], model.objectness[None], deltas, model.anchors, [len(model.anchors)])
    inputs = NetworkInput(torch.zeros(1, 3, *SIZE), [SIZE], [SIZE])
    return Trace([1], inputs, [], predictions, 0.0)


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
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": label, "iscrowd": 0, "area": 1600.0}
            | {"bbox": [x1, y1, x2 - x1, y2 - y1]}
            for n, (label, (x1, y1, x2, y2)) in enumerate(objects, start=1)
        ],
    }
    return model, truth


def funnel_of(model: PlantedModel, truth: dict[str, Any]) -> Funnel:
    tracer = FunnelTracer(model, ObjectsOfImages(truth, {1: 1, 2: 2}), iou=0.5)  # type: ignore[arg-type]
    (found,) = tracer.add(trace_of(model))
    output = {"boxes": found.boxes, "labels": found.labels, "scores": found.scores}
    results = to_results(output, 1, SIZE, threshold=0.5, rule="integer", class_ids=[-1, 1, 2])
    return tracer.finish(truth, results, kind="bbox", class_names={1: "a", 2: "b"})


AWAY = box(70, 20)
CASES: dict[str, dict[str, Any]] = {
    "anchor": {"anchors": [box(26, 26, 20), box(120, 120)], "moved": [box(26, 26, 20), box(120, 120)],
               "boxes": [[box(26, 26, 20)] * 3, [box(120, 120)] * 3]},
    "rpn_box": {"moved": [AWAY, box(120, 120)], "boxes": [[AWAY] * 3, [box(120, 120)] * 3]},
    "pre_nms": {"objectness": [1.0, 2.0], "budget": {"pre_nms": 1}},
    "post_nms": {"objectness": [1.0, 2.0], "budget": {"post_nms": 1}},
    "box": {"boxes": [[AWAY] * 3, [box(120, 120)] * 3]},
    "score": {"scores": [[0.97, 0.03, 0.0], [0.1, 0.0, 0.9]]},
    "wrong_class": {"scores": [[0.1, 0.03, 0.87], [0.1, 0.0, 0.9]]},
    "detections": {"scores": [[0.4, 0.6, 0.0], [0.1, 0.0, 0.9]], "rules": {"count": 1}},
}  # fmt: skip


@pytest.mark.parametrize("stage", CASES)
def test_a_planted_loss_is_found_at_its_stage(stage: str) -> None:
    assert funnel_of(*planted()).counts() == {FOUND: 2}
    funnel = funnel_of(*planted(**CASES[stage]))
    assert {each.annotation_id: each.stage for each in funnel.objects} == {1: stage, 2: FOUND}
    assert stage in STAGES


NEAR = [26, 20, 66, 60]  # overlaps box(20, 20) by .74


def test_losses_beside_better_boxes_are_told_from_the_others() -> None:
    three = {
        "anchors": [box(20, 20), NEAR, box(120, 120)],
        "moved": [box(20, 20), [34, 20, 74, 60], box(120, 120)],  # IoU .48 with the first
        "objectness": [2.0, 1.0, 1.5],
        "scores": [[0.1, 0.9, 0.0], [0.2, 0.8, 0.0], [0.1, 0.0, 0.9]],
        "boxes": [[box(20, 20)] * 3, [[34, 20, 74, 60]] * 3, [box(120, 120)] * 3],
        "objects": [(1, box(20, 20)), (1, [38, 20, 78, 60]), (2, box(120, 120))],
    }
    assert funnel_of(*planted(**three)).counts() == {FOUND: 3}
    tight = planted(**three, budget={"nms_threshold": 0.4})
    assert {e.annotation_id: e.stage for e in funnel_of(*tight).objects} == {1: FOUND, 2: "rpn_nms", 3: FOUND}
    tight = planted(**three, rules={"nms_threshold": 0.4})
    assert {e.annotation_id: e.stage for e in funnel_of(*tight).objects} == {1: FOUND, 2: "class_nms", 3: FOUND}


def test_one_detection_over_two_objects_finds_one_and_loses_its_neighbour() -> None:
    objects = [(1, box(20, 20)), (1, NEAR), (2, box(120, 120))]
    funnel = funnel_of(*planted(objects=objects))
    assert {each.annotation_id: each.stage for each in funnel.objects} == {1: FOUND, 2: "neighbour", 3: FOUND}


def test_a_right_box_with_a_wrong_mask_is_lost_at_the_mask() -> None:
    model, truth = planted()
    for annotation in truth["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    tracer = FunnelTracer(model, ObjectsOfImages(truth, {1: 1, 2: 2}), iou=0.5)  # type: ignore[arg-type]
    (found,) = tracer.add(trace_of(model))
    masks = torch.ones(2, 1, 28, 28)
    masks[0, :, 10:] = 0  # a third of the object that scores highest
    output = {"boxes": found.boxes, "labels": found.labels, "scores": found.scores, "masks": masks}
    results = to_results(output, 1, SIZE, threshold=0.5, rule="continuous", class_ids=[-1, 1, 2])
    funnel = tracer.finish(truth, results, kind="segm", class_names={1: "a", 2: "b"})
    lost = int(found.labels[0])
    assert {each.annotation_id: each.stage for each in funnel.objects} == {lost: "mask", 3 - lost: FOUND}
    assert funnel.counts(class_name="ab"[lost - 1]) == {"mask": 1}


def test_a_lower_budget_moves_objects_to_its_stage() -> None:
    many = 8
    places = [box(20 * n, 20 * n, 18) for n in range(many)]
    values = {
        "anchors": places, "moved": places, "objectness": [float(many - n) for n in range(many)],
        "scores": [[0.1, 0.9 - 0.05 * n, 0.0] for n in range(many)], "boxes": [[each] * 3 for each in places],
        "objects": [(1, each) for each in places],
    }  # fmt: skip
    for key, stage in (("pre_nms", "pre_nms"), ("post_nms", "post_nms")):
        for budget in (many, 5, 1):
            counts = funnel_of(*planted(**values, budget={key: budget})).counts()
            assert (counts[FOUND], counts[stage]) == (budget, many - budget)
            assert counts.total() == many
    counts = funnel_of(*planted(**values, rules={"count": 3})).counts()
    assert (counts[FOUND], counts["detections"]) == (3, 5)


def test_sizes_follow_the_limits_of_the_evaluation() -> None:
    _, truth = planted()  # areas of 40^2
    for limits, size in (((32, 96), "medium"), ((40, 50), "medium"), ((41, 50), "small"), ((10, 40), "large")):
        assert ObjectsOfImages(truth, {1: 1, 2: 2}, size_limits=limits).sizes == [size, size]


def test_an_image_without_any_proposal_loses_its_objects_before_the_heads() -> None:
    model, truth = planted(budget={"min_size": 500.0})
    assert funnel_of(model, truth).counts() == {"rpn_box": 2}
