"""Settings and scores of many jobs in one chart."""

from __future__ import annotations

import pytest

from maskrcnn_train.reporting.drawing.figures import to_charts
from maskrcnn_train.reporting.drawing.parallel_figure import parallel_figure, place_values

JOBS = [(f"job {index}", [f"{0.1 / 10**index:g}", name], 40.0 - index) for index, name in enumerate("aabab")]


@pytest.mark.parametrize(
    ("values", "heights", "written"),
    [
        (["4", "0", "1"], [1, 0, 0.5], [(0, "0"), (0.5, "1"), (1, "4")]),  # few numbers at equal distances
        (["resnet50", "timm", "resnet50"], [0, 1, 0], [(0, "resnet50"), (1, "timm")]),
        (["0", "10", "20", "30", "40", "50", "100"], [0, 0.1, 0.2, 0.3, 0.4, 0.5, 1], [(0, "0"), (1, "100")]),
        (["1", "10", "100", "1e3", "1e4", "1e5", "1e6"], [i / 6 for i in range(7)], [(0, "1"), (1, "1,000,000")]),
        (["2", "2"], [0, 0], [(0, "2")]),
        (["1", "nan"], [0, 1], [(0, "1"), (1, "nan")]),
    ],
)
def test_each_value_has_its_height(values: list[str], heights: list[float], written: list[tuple[float, str]]) -> None:
    found, ticks = place_values(values)
    assert found == pytest.approx(heights)
    assert ticks == written


def test_each_job_is_a_line_that_names_itself_and_the_best_quarter_is_in_colour() -> None:
    figure = parallel_figure(["optimizer.lr", "backbone"], JOBS, score="segm/AP, x 100")
    assert figure is not None
    (chart,) = to_charts("jobs", {"settings": figure})
    assert chart.title == "Settings and score of 5 jobs, the best 2 in colour"
    for name, _, score in JOBS:
        assert f"<title>{name}: segm/AP, x 100 {score:g}</title>" in chart.svg
    assert chart.svg.count("var(--c1)") == 2


@pytest.mark.parametrize(
    ("settings", "jobs"),
    [(["a"], JOBS), ([*"abcdefg"], JOBS), (["a", "b"], JOBS[:2])],
)
def test_one_setting_too_many_settings_and_two_jobs_need_no_chart(settings: list[str], jobs: list[object]) -> None:
    assert parallel_figure(settings, jobs, score="segm/AP") is None  # type: ignore[arg-type]
