"""Parallel coordinates: an axis for each setting that varies and one for the score, a line for each job."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from maskrcnn_train.reporting.drawing.figures import INK, MUTED, SERIES, TEXT, new_axes, number

FEWEST, MOST = 2, 6  # settings: fewer need no such chart, more have no room
FEW_VALUES = 6  # each is written at its axis; of more values the lowest and the highest are
WIDE = 50  # highest over lowest from which an axis is logarithmic
LETTERS = 12  # of a setting or a value in a line


def parallel_figure(
    settings: Sequence[str], jobs: Sequence[tuple[str, Sequence[str], float]], *, score: str
) -> Figure | None:
    """jobs: name, value of each setting as text, and score, the best first: the best quarter is in colour.

    None where a chart would say nothing: for one setting, for too many, or for few jobs.
    """
    if not FEWEST <= len(settings) <= MOST or len(jobs) <= FEWEST:
        return None
    best = math.ceil(len(jobs) / 4)
    figure, axes = new_axes(f"Settings and score of {len(jobs)} jobs, the best {best} in colour", "")
    columns = [place_values([values[index] for _, values, _ in jobs]) for index in range(len(settings))]
    columns.append(place_values([number(each) for _, _, each in jobs], written=2))
    for row in reversed(range(len(jobs))):
        name, _, value = jobs[row]
        heights = [heights[row] for heights, _ in columns]
        color, width, alpha = (SERIES[0], 1.8, 1.0) if row < best else (MUTED, 0.9, 0.5)
        told = f"_{name}: {score} {number(value)}"
        axes.plot(range(len(columns)), heights, color=color, linewidth=width, alpha=alpha, label=told)
    _draw_axes(axes, [*(each.rpartition(".")[2] for each in settings), score], [ticks for _, ticks in columns])
    return figure


def place_values(texts: Sequence[str], written: int = FEW_VALUES) -> tuple[list[float], list[tuple[float, str]]]:
    """The height 0..1 of each value on its axis, and what is written there: heights and texts. Few values, and words,
    stand at equal distances; many numbers at their own, or those of their logarithms."""
    numbers = [_number(text) for text in texts]
    if any(each is None for each in numbers):
        words = list(dict.fromkeys(texts))
        places = {text: index / max(len(words) - 1, 1) for index, text in enumerate(words)}
        return [places[text] for text in texts], [(place, text) for text, place in places.items()][:FEW_VALUES]
    values = [each for each in numbers if each is not None]
    ordered = sorted(set(values))
    if written == FEW_VALUES and len(ordered) <= FEW_VALUES:
        heights = {value: index / max(len(ordered) - 1, 1) for index, value in enumerate(ordered)}
        return [heights[value] for value in values], [(place, number(value)) for value, place in heights.items()]
    low, high = ordered[0], ordered[-1]
    scaled = [math.log(value / low) if low > 0 and high / low > WIDE else value - low for value in values]
    span = max(scaled) or 1.0
    return [each / span for each in scaled], [(0.0, number(low)), (1.0, number(high))]


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _draw_axes(axes: Axes, names: Sequence[str], ticks: Sequence[Sequence[tuple[float, str]]]) -> None:
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    for column, written in enumerate(ticks):
        axes.axvline(column, color=MUTED, linewidth=0.8, label="_axis")
        last = column == len(ticks) - 1
        for height, text in written:
            short = text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"
            x, side = (column - 0.04, "right") if last else (column + 0.04, "left")
            axes.text(x, height, short, color=INK, fontsize=TEXT - 2, ha=side, va="center")
    axes.set_xticks(range(len(names)), [textwrap.fill(name, LETTERS) for name in names])
    axes.set(yticks=[], ylim=(-0.06, 1.06), xlim=(-0.35, len(names) - 0.65))
