"""The diagnostics of an evaluation as a page shows them: with their charts, and the classes most often mixed up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maskrcnn_train.evaluation.coco.metrics import KIND_WORDS
from maskrcnn_train.evaluation.diagnostics.diagnostics import Diagnostics
from maskrcnn_train.reporting.drawing.diagnostics_figures import curve_figures
from maskrcnn_train.reporting.drawing.figures import Chart, to_chart

MOST_MISTAKES = 10


@dataclass
class DiagnosticsPage:
    """One kind. mistakes: (is, taken for, count), most frequent first."""

    word: str
    found: Diagnostics
    charts: list[Chart]
    mistakes: list[tuple[str, str, int]]


def diagnostics_pages(plain: Mapping[str, Any]) -> list[DiagnosticsPage]:
    """From what study.json holds; masks first."""
    return [_page(Diagnostics.from_plain(kind, plain[kind])) for kind in ("segm", "bbox") if kind in plain]


def _page(found: Diagnostics) -> DiagnosticsPage:
    charts = [to_chart(figure, f"{found.kind}/{name}") for name, figure in curve_figures(found).items()]
    return DiagnosticsPage(KIND_WORDS[found.kind], found, [chart for chart in charts if chart], _mistakes(found))


def _mistakes(found: Diagnostics) -> list[tuple[str, str, int]]:
    """Between classes: misses and false alarms are in the table's last column and row."""
    names = found.class_names
    mistakes = [
        (names[row], names[column], int(found.confusion[row, column]))
        for row in range(len(names))
        for column in range(len(names))
        if row != column and found.confusion[row, column]
    ]
    return sorted(mistakes, key=lambda each: -each[2])[:MOST_MISTAKES]
