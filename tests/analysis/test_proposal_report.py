"""Recall of proposals and shares of anchors, where both can be counted by hand."""

from __future__ import annotations

from typing import Any

import pytest
from planted_model import CLASSES, box, planted, trace_of

from maskrcnn_train.analysis.proposal_report import ProposalReporter
from maskrcnn_train.analysis.trace import ObjectsOfImages

COUNTS = [1, 2, 3, 2000]
THRESHOLDS = [(0.7, 0.3), (0.8, 0.3), (0.35, 0.2)]
NEAR = [26, 20, 66, 60]  # IoU .74 with box(20, 20)
VALUES: dict[str, Any] = {
    # IoU with their objects: 1, .74, none, .4
    "anchors": [box(20, 20), NEAR, box(100, 20), [120, 120, 160, 145]],
    # by falling score: nothing there; the first object; again, so that NMS removes it; the second object by 2/3
    "moved": [box(150, 20), box(20, 20), [22, 20, 62, 60], box(124, 120, 20)],
    "objectness": [4.0, 3.0, 2.5, 2.0],
    "scores": [[0.1, 0.9, 0.0]] * 4,
    "boxes": [[box(20, 20)] * 3] * 4,
    "objects": [(1, box(20, 20)), (2, box(120, 120, 20))],
}


def reporter_of(budget: dict[str, Any] | None = None) -> tuple[ProposalReporter, list[str]]:
    """After the planted image and one without objects; and the size of each object."""
    model, truth = planted(**VALUES, budget=budget or {})
    truth["images"].append(truth["images"][0] | {"id": 2})
    truth["annotations"][1]["area"] = 400.0
    objects = ObjectsOfImages(truth, CLASSES)
    reporter = ProposalReporter(model, objects, counts=COUNTS, thresholds=THRESHOLDS)  # type: ignore[arg-type]
    for image_id in (1, 2):
        reporter.add(trace_of(model, image_id))
    return reporter, objects.sizes


def test_objects_are_covered_by_as_many_proposals_as_planted() -> None:
    reporter, sizes = reporter_of()
    found = {(each.by, each.group, each.count): each for each in reporter.recalls({"size": sizes})}
    rows = {"all": ("all", 2), "medium": ("size", 1), "small": ("size", 1)}
    assert {key[:2] for key in found} == {(by, group) for group, (by, _) in rows.items()}
    covered = {"all": [0, 0.5, 1, 1], "medium": [0, 1, 1, 1], "small": [0, 0, 1, 1]}
    averages = {"all": [0, 0.5, 0.7, 0.7], "medium": [0, 1, 1, 1], "small": [0, 0, 0.4, 0.4]}  # 2/3: .5, .55, .6, .65
    for group, (by, objects) in rows.items():
        own = [found[by, group, count] for count in COUNTS]
        assert [each.objects for each in own] == [objects] * len(COUNTS)
        assert [each.recall50 for each in own] == covered[group]
        assert [each.average_recall for each in own] == pytest.approx(averages[group])


@pytest.mark.parametrize(("pre_nms", "covered"), [(1, [0, 0, 0, 0]), (2, [0, 0.5, 0.5, 0.5]), (4, [0, 0.5, 1, 1])])
def test_proposals_are_those_of_the_given_budget_before_nms(pre_nms: int, covered: list[float]) -> None:
    reporter, _ = reporter_of({"pre_nms": pre_nms, "post_nms": 1})
    assert [each.recall50 for each in reporter.recalls({})] == covered


def test_anchors_are_shared_out_as_planted() -> None:
    reporter, _ = reporter_of()
    # of four anchors with objects near and four without: the .4 is an object by the best-anchor rule
    expected = [(3 / 8, 0, 5 / 8, 1.5, 0.5), (2 / 8, 1 / 8, 5 / 8, 1.0, 0.5), (3 / 8, 0, 5 / 8, 1.5, 0.0)]
    for each, (upper, lower), numbers in zip(reporter.anchor_shares(), THRESHOLDS, expected, strict=True):
        assert (each.upper, each.lower) == (upper, lower)
        assert (each.positive, each.ignored, each.negative, each.per_object, each.only_best) == pytest.approx(numbers)


def test_a_class_called_small_is_not_the_small_objects() -> None:
    reporter, sizes = reporter_of()
    assert sizes == ["medium", "small"]
    rows = reporter.recalls({"size": sizes, "class": ["small", "all"]})
    found = {(each.by, each.group): each.recall50 for each in rows if each.count == 2}
    assert found == {
        ("all", "all"): 0.5, ("size", "medium"): 1, ("size", "small"): 0, ("class", "small"): 1, ("class", "all"): 0
    }  # fmt: skip
