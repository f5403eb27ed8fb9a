"""The diagnostics of an evaluation as a page shows them: with their charts, and the classes most often mixed up."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from maskrcnn_train.evaluation.coco.metrics import KIND_WORDS
from maskrcnn_train.evaluation.diagnostics.diagnostics import Diagnostics
from maskrcnn_train.reporting.drawing.diagnostics_figures import curve_figures, most_frequent
from maskrcnn_train.reporting.drawing.figures import to_charts
from maskrcnn_train.settings.errors import UserError

MOST_MISTAKES = 10


def diagnostics_pages(diagnostics: Mapping[str, Diagnostics]) -> list[dict[str, Any]]:
    """What `diagnostics.html.j2` shows of each kind, masks first."""
    return [_page(diagnostics[kind]) for kind in ("segm", "bbox") if kind in diagnostics]


def _page(found: Diagnostics) -> dict[str, Any]:
    if len(found.confusion) != len(found.class_names) + 1:
        raise UserError(
            f"study.json, {found.kind}: there must be one row of the confusion for each class, and one more"
        )
    for curves in (found.precision_recall, found.confidence):
        if len({len(each) for curve in curves for each in vars(curve).values() if isinstance(each, list)}) > 1:
            raise UserError(f"study.json, {found.kind}: the lists of all curves of a chart must be equally long")
    matrix, names = most_frequent(found)
    return {
        "word": KIND_WORDS[found.kind],
        "found": found,
        "charts": to_charts(found.kind, curve_figures(found)),
        "confusion": matrix.tolist(),
        "names": names[:-1],
        "mistakes": _mistakes(found),
    }


def _mistakes(found: Diagnostics) -> list[tuple[str, str, int]]:
    """(is, taken for, count) of classes, most frequent first; misses and false alarms are in the table's borders."""
    names, counts = found.class_names, found.confusion[:-1, :-1].copy()
    np.fill_diagonal(counts, 0)
    mistakes = [(names[row], names[column], int(counts[row, column])) for row, column in np.argwhere(counts)]
    return sorted(mistakes, key=lambda each: -each[2])[:MOST_MISTAKES]
