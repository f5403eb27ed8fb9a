"""The diagnostics of an evaluation as a page shows them: charts, and what its tables need beside the numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maskrcnn_train.evaluation.coco.metrics import KIND_WORDS
from maskrcnn_train.evaluation.diagnostics.diagnostics import Diagnostics
from maskrcnn_train.evaluation.diagnostics.sizes import SizeBucket
from maskrcnn_train.reporting.drawing.diagnostics_figures import curve_figures
from maskrcnn_train.reporting.drawing.figures import Chart, to_chart

MOST_MISTAKES = 10


@dataclass
class Cell:
    """Of the confusion matrix. share: of its row; right: on the diagonal."""

    count: int
    share: float
    right: bool


@dataclass
class Bar:
    """A row with a count and shares 0 to 1. text: its name; note: what it means."""

    text: str
    note: str
    count: int
    shares: list[float]


@dataclass
class DiagnosticsPage:
    """One kind. confusion: a row for each class, last: background. mistakes: (is, taken for, count), most frequent
    first. errors: share: AP it costs; sizes: shares found, and found above the threshold."""

    word: str
    found: Diagnostics
    charts: list[Chart]
    confusion: list[list[Cell]]
    mistakes: list[tuple[str, str, int]]
    errors: list[Bar]
    sizes: list[Bar]

    @property
    def most_gain(self) -> float:
        """The longest bar of `errors`."""
        return max(0.001, *(each.shares[0] for each in self.errors))


def diagnostics_pages(plain: Mapping[str, Any]) -> list[DiagnosticsPage]:
    """From what study.json holds; masks first."""
    return [_page(Diagnostics.from_plain(kind, plain[kind])) for kind in ("segm", "bbox") if kind in plain]


def _page(found: Diagnostics) -> DiagnosticsPage:
    charts = [to_chart(figure, f"{found.kind}/{name}") for name, figure in curve_figures(found).items()]
    matrix = found.confusion.tolist()
    return DiagnosticsPage(
        word=KIND_WORDS[found.kind],
        found=found,
        charts=[chart for chart in charts if chart],
        confusion=_cells(matrix),
        mistakes=_mistakes(matrix, found.class_names),
        errors=[Bar(each.name, each.meaning, each.count, [each.ap_gain]) for each in found.errors.kinds],
        sizes=[Bar(_size(each), "", each.objects, [each.found, each.found_above_threshold]) for each in found.sizes],
    )


def _size(bucket: SizeBucket) -> str:
    words = f"from {bucket.low:g}" if bucket.high is None else f"{bucket.low:g} to {bucket.high:g}"
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def _cells(matrix: list[list[int]]) -> list[list[Cell]]:
    last = len(matrix) - 1
    return [
        [Cell(count, count / max(sum(row), 1), column == number < last) for column, count in enumerate(row)]
        for number, row in enumerate(matrix)
    ]


def _mistakes(matrix: list[list[int]], names: list[str]) -> list[tuple[str, str, int]]:
    """Between classes: misses and false alarms are in the table's last column and row."""
    found = [
        (names[row], names[column], matrix[row][column])
        for row in range(len(names))
        for column in range(len(names))
        if row != column and matrix[row][column]
    ]
    return sorted(found, key=lambda each: -each[2])[:MOST_MISTAKES]
