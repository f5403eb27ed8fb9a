"""Which settings win, and that none does where there is nothing to choose by."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from planted_model import SETTING

from maskrcnn_train.analysis.pareto import Outcome, halves, mark_front, outcomes, winners
from maskrcnn_train.evaluation.coco.evaluators import ABSENT


def found(*rows: tuple[float, float]) -> list[Outcome]:
    """Of (milliseconds, AP), the trained one first."""
    outcomes = [Outcome(SETTING, milliseconds, 9.0, 9.0, tuned) for milliseconds, tuned in rows]
    mark_front(outcomes)
    return outcomes


@pytest.mark.parametrize(("tolerance", "fast"), [(0.0, 2), (0.01, 2), (0.05, 1)])
def test_best_has_the_highest_ap_and_fast_the_least_time_within_the_tolerance(tolerance: float, fast: int) -> None:
    rows = found((9.0, 0.5), (3.0, 0.46), (7.0, 0.52), (8.0, 0.51), (10.0, 0.52))
    chosen = winners(rows, tolerance)
    assert chosen["best"] is rows[2]
    assert chosen["fast"] is rows[fast]
    assert [row.front for row in rows] == [False, True, True, False, False]


def test_nothing_wins_where_the_images_to_choose_on_have_no_objects() -> None:
    ids = [1, 2, 3, 4]
    tuning, reporting = halves(ids, seed=0)
    truth: dict[str, Any] = {
        "images": [{"id": number} for number in ids],
        "annotations": [{"image_id": number} for number in reporting],
    }
    tracer: Any = SimpleNamespace(
        settings=[SETTING] * 2,
        results=[[{"image_id": number} for number in ids]] * 2,
        num_proposals=[8, 4],
        num_images=4,
        milliseconds=lambda number: 9.0 - number,
    )

    def score(results: list[dict[str, Any]], half: dict[str, Any]) -> float:
        assert {each["image_id"] for each in results} == {each["id"] for each in half["images"]}
        return 0.5 if half["annotations"] else ABSENT

    rows = outcomes(tracer, truth, score, seed=0)
    assert [(row.tuned, row.reported, row.front) for row in rows] == [(ABSENT, 0.5, False), (ABSENT, None, False)]
    assert winners(rows, tolerance=0.002) == {}
    truth["annotations"] = [{"image_id": number} for number in tuning]
    assert set(winners(outcomes(tracer, truth, score, seed=0), tolerance=0.002)) == {"best", "fast"}
