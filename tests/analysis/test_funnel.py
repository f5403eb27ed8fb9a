"""The recall funnel: every object in exactly one stage, and each stage found where it was planted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from planted_model import CLASSES, SIZE, PlantedModel, box, planted, trace_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from maskrcnn_train.analysis.funnel import FOUND, STAGES, Funnel, FunnelTracer
from maskrcnn_train.analysis.trace import ObjectsOfImages
from maskrcnn_train.evaluation.coco.metrics import evaluate_coco
from maskrcnn_train.structures.pasting import MaskPasting


def funnel_of(model: PlantedModel, truth: dict[str, Any]) -> Funnel:
    tracer = FunnelTracer(model, ObjectsOfImages(truth, CLASSES), iou=0.5)  # type: ignore[arg-type]
    (found,) = tracer.add(trace_of(model))
    results = replace(found, classes=CLASSES).to_coco(image_id=1)
    return tracer.finish(truth, results, kind="bbox")


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
    tracer = FunnelTracer(model, ObjectsOfImages(truth, CLASSES), iou=0.5)  # type: ignore[arg-type]
    (found,) = tracer.add(trace_of(model))
    masks = torch.ones(2, 1, 28, 28)
    masks[0, :, 10:] = 0  # a third of the object that scores highest
    pasting = MaskPasting(0.5, "continuous")
    results = replace(found, classes=CLASSES, pasting=pasting, probabilities=masks).to_coco(image_id=1)
    funnel = tracer.finish(truth, results, kind="segm")
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
        assert ObjectsOfImages(truth, CLASSES, size_limits=limits).sizes == [size, size]


def test_an_image_without_any_proposal_loses_its_objects_before_the_heads() -> None:
    model, truth = planted(budget={"min_size": 500.0})
    assert funnel_of(model, truth).counts() == {"rpn_box": 2}


def random_boxes(rng: np.random.Generator, count: int) -> list[list[float]]:
    return [[*map(float, rng.integers(0, 50, 2)), *map(float, rng.integers(30, 50, 2))] for _ in range(count)]


@pytest.mark.parametrize("iou", [0.5, 0.7])
def test_found_are_the_objects_that_the_recall_of_the_evaluator_counts(iou: float) -> None:
    """Crowded images, crowd regions among the objects, several detections for an object."""
    rng = np.random.default_rng(0)
    truth: dict[str, Any] = {
        "images": [{"id": image, "height": SIZE[0], "width": SIZE[1]} for image in (1, 2, 3)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": 0, "image_id": image, "category_id": int(rng.integers(1, 3)), "iscrowd": int(rng.random() < 0.2)}
            | {"bbox": place, "area": place[2] * place[3]}
            for image in (1, 2, 3) for place in random_boxes(rng, 15)
        ],
    }  # fmt: skip
    results = [
        {key: each[key] for key in ("image_id", "category_id")} | {"bbox": place, "score": float(rng.random())}
        for each in truth["annotations"][::2]
        for place in (*random_boxes(rng, 1), (np.array(each["bbox"]) + rng.integers(-7, 8, 4)).tolist())
    ]
    tracer = FunnelTracer(planted()[0], ObjectsOfImages(truth, CLASSES), iou=iou)  # type: ignore[arg-type]
    tracer.last_stage = {place: "score" for place, each in enumerate(truth["annotations"]) if not each["iscrowd"]}
    funnel = tracer.finish(truth, results, kind="bbox")
    scored = evaluate_coco(
        truth, results, backend="pycocotools", kinds=["bbox"], max_detections=[1, 100], iou_thresholds=[iou],
    )  # fmt: skip
    for row, name in enumerate("ab"):
        counts = funnel.counts(class_name=name)
        assert counts[FOUND] == pytest.approx(scored.recall["bbox"][0, row, 0, -1] * counts.total())
        assert 0 < counts[FOUND] < counts.total() == scored.support[row + 1]


class Largest(TorchDispatchMode):
    """The numbers in the largest tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        sizes = [each.numel() for each in tree_leaves(made) if isinstance(each, torch.Tensor)]
        self.numbers = max(self.numbers, *sizes, 0)
        return made


def test_objects_and_anchors_are_never_compared_all_at_once() -> None:
    places = [box(x, y) for y in range(160) for x in range(150)]
    model, truth = planted(
        anchors=places, moved=places, objectness=[0.0] * len(places), scores=[[0.1, 0.9, 0.0]] * len(places),
        boxes=[[place] * 3 for place in places], objects=[(1, place) for place in places[::500]],
    )  # fmt: skip
    tracer = FunnelTracer(model, ObjectsOfImages(truth, CLASSES), iou=0.5)  # type: ignore[arg-type]
    with Largest() as largest:
        tracer.add(trace_of(model))
    assert len(tracer.last_stage) == 48
    assert largest.numbers < 48 * len(places) / 2
