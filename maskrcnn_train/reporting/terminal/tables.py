"""Tables as text, for the terminal and the log."""

import io
from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from maskrcnn_train.data.coco.skipped import SkippedTable
from maskrcnn_train.evaluation.coco.evaluators import ABSENT
from maskrcnn_train.evaluation.coco.metrics import KINDS, CocoResult
from maskrcnn_train.evaluation.diagnostics.bootstrap import TOO_FEW_IMAGES, Difference
from maskrcnn_train.evaluation.diagnostics.comparison import Comparison

MAIN_MEASURES = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A plain text table: the first column to the left, numbers to the right, nothing cut or wrapped."""
    grid = Table(title=None, box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = index > 0 and all(_is_number(row[index]) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*map(str, row))
    return f"{title}\n{as_text(grid)}".strip("\n")


def as_text(grid: Table, width: int = 10_000) -> str:
    """A table as plain text, in a notebook too. width: letters of a line; longer cells are wrapped."""
    stream = io.StringIO()
    Console(file=stream, width=width, markup=False, emoji=False, force_terminal=False, force_jupyter=False).print(grid)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def unused_table(skipped: Mapping[str, SkippedTable]) -> str:
    """What is not used of the labels of each split as it stands; empty where all is."""
    rows = [
        (name, each.count, each.reason, "left out" if each.dropped else "repaired", each.examples[0])
        for name, findings in skipped.items()
        for each in findings
    ]
    return table("data not used as it stands", ["split", "count", "reason", "", "first"], rows) if rows else ""


def metrics_table(metrics: Mapping[str, float]) -> str:
    """Rows bbox and segm, columns AP, AP50, ... AR of each number of detections; times 100, one decimal."""
    kinds = [kind for kind in KINDS if f"{kind}/AP" in metrics]
    measures = measures_of(metrics)
    rows = [[kind, *(percent(metrics.get(f"{kind}/{measure}")) for measure in measures)] for kind in kinds]
    return table("COCO metrics, x 100 (- : no such object in this split)", ["", *measures], rows)


def class_table(result: CocoResult) -> str:
    """Each class with its number of objects and its AP for boxes and masks; times 100, one decimal."""
    kinds = list(result.precision)
    rows = [
        [name, result.support[class_id], *(percent(result.metrics[f"{kind}/AP/{name}"]) for kind in kinds)]
        for class_id, name in result.class_names.items()
    ]
    return table("AP of each class, x 100", ["class", "objects", *(f"{kind} AP" for kind in kinds)], rows)


def comparison_table(comparisons: Sequence[Comparison], num_images: int) -> str:
    """Each score of a and b, their difference with its 95 % interval, and what can be said; times 100."""
    rows = [
        (each.name, percent(each.a), percent(each.b), *_words(each.difference), each.verdict) for each in comparisons
    ]
    title = f"b - a on the same {num_images} images, x 100, with 95 % intervals"
    alone = [each.name for each in comparisons if each.difference.low is None]
    note = f"\n\nno interval of {', '.join(alone)}: {TOO_FEW_IMAGES}" if alone else ""
    return table(title, ["", "a", "b", "b - a", "interval", ""], rows) + note


def _words(difference: Difference) -> list[str]:
    """The difference and its interval, times 100."""
    value, *ends = (
        "" if each is None else f"{100 * each:+.1f}" for each in (difference.value, difference.low, difference.high)
    )
    return [value, " to ".join(ends) if all(ends) else "-"]


def measures_of(metrics: Mapping[str, float]) -> list[str]:
    """The columns of a table: what was taken of MAIN_MEASURES, and AR at each number of detections, ascending."""
    found = {key.partition("/")[2] for key in metrics}
    recalls = sorted((key for key in found if key[:2] == "AR" and key[2:].isdigit()), key=lambda key: int(key[2:]))
    return [*(measure for measure in MAIN_MEASURES if measure in found), *recalls]


def percent(value: float | None) -> str:
    """A fraction times 100 with one decimal; a dash where there is no value."""
    return "-" if value is None or value == ABSENT else f"{100 * value:.1f}"


def _is_number(cell: object) -> bool:
    text = str(cell)
    return text == "-" or text.replace(".", "", 1).replace("-", "", 1).isdigit()
