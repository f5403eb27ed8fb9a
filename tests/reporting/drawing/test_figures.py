"""Charts: any course can be drawn, and the SVG fits into any page."""

from __future__ import annotations

import re
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from maskrcnn_train.evaluation.diagnostics.calibration import Calibration
from maskrcnn_train.reporting.drawing.diagnostics_figures import calibration_figure
from maskrcnn_train.reporting.drawing.figures import CSS_VARIABLES, line_figure, number, thinned, to_charts, to_image

STEPS = [(step, 3 - step / 100) for step in range(10, 110, 10)]


def svg(figure, name="t") -> str:
    return str(to_charts("page", {name: figure})[0].svg)


@pytest.mark.parametrize(
    "points", [[(1, 0.0), (2, 0.0)], [(0, -3.0), (9, 1e-7)], [(i, 1e6 * i) for i in range(999)], [(1, 5.0), (2, 5.0)]]
)
def test_any_course_gives_a_chart_that_holds_its_points(points) -> None:
    figure = line_figure("t", {"a": points, "none": []})
    axes = figure.axes[0]
    (low, high), ys = axes.get_ylim(), axes.lines[0].get_ydata()
    assert low <= min(ys) <= max(ys) <= high
    assert to_image(figure).width == 918
    assert [chart.title for chart in to_charts("", {"t": figure})] == ["t"]


def test_what_was_taken_once_has_no_chart() -> None:
    assert line_figure("t", {"a": [(5, 1.0)], "none": []}) is None
    assert to_charts("", {"t": None}) == []


def test_lines_and_points_name_themselves() -> None:
    text = svg(line_figure("Loss", {"a <b>": STEPS, "c": STEPS[:2]}))
    root = ElementTree.fromstring(text)
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[:2] == ["a <b> 2", "a <b> 2: 2.9 at 10"]
    assert len(titles) == 2 + 10 + 2
    assert (
        root.get("aria-label")
        == "Loss by step; a <b> 2: from 2.9 at 10 to 2 at 100; c 2.8: from 2.9 at 10 to 2.8 at 20"
    )


def test_names_of_any_letters_are_drawn_as_they_are() -> None:
    names = ["$a$_{", "窓", "<b>&"]
    text = svg(line_figure("t", dict.fromkeys(names, STEPS), last=False))
    labels = [element.text for element in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")]
    assert labels[-3:] == names
    assert to_image(line_figure("t", dict.fromkeys(names, STEPS))).width == 918


def test_an_svg_takes_its_colours_from_the_page_and_is_small() -> None:
    series = {f"series {row}": [(step, row + step % 7) for step in range(3000)] for row in range(6)}
    text = svg(line_figure("t", series))
    assert not [color for color in CSS_VARIABLES if color in text]
    assert "stroke: var(--c1)" in text
    assert "fill: var(--dim)" in text
    assert "<style" not in text
    assert "<metadata" not in text
    assert len(text) < 40_000


def test_two_charts_of_a_page_share_no_id_and_one_drawn_again_is_the_same() -> None:
    one, two, again = (svg(line_figure("t", {"a": STEPS}), name) for name in ("one", "two", "one"))
    ids = [set(re.findall(r'\bid="([^"]*)"', text)) for text in (one, two)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert one == again


def test_many_points_are_averaged_and_numbers_are_short() -> None:
    assert thinned([(1, 1.0), (2, 3.0), (3, 5.0)], most=2) == [(2, 2.0), (3, 5.0)]
    assert [number(v) for v in (0.0125, 3.0, 12345.6, 0.0)] == ["0.0125", "3", "12,346", "0"]


def test_counts_of_a_calibration_stand_clear_of_bars_and_diagonal() -> None:
    calibration = Calibration(0.5, [5] * 10, [0.5] * 10, [1.0] * 10, 0.1)
    axes = calibration_figure(SimpleNamespace(kind="bbox", calibration=calibration)).axes[0]
    assert [text.get_text() for text in axes.texts] == ["5"] * 10
    highest = max(*(bar.get_height() for bar in axes.patches), *axes.lines[0].get_ydata())
    assert all(highest < text.get_position()[1] < axes.get_ylim()[1] for text in axes.texts)


def test_a_chart_of_a_page_leaves_room_for_its_labels() -> None:
    """matplotlib measures the letters; `to_charts` counts them."""
    figure = line_figure("t", {f"series {row}": [(0, 1e-7), (1e6, 2e-7 * row + 1e-7)] for row in range(9)})
    to_charts("", {"t": figure})
    renderer = FigureCanvasAgg(figure).get_renderer()
    whole = figure.bbox
    for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
        box = axis.get_tightbbox(renderer)
        assert box.x0 >= 0
        assert box.y0 >= figure.legends[0].get_window_extent(renderer).y1
        assert box.x1 <= whole.x1
        assert box.y1 <= whole.y1
