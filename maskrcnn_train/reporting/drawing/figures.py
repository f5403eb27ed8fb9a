"""Pictures of numbers: the curves, matrices and bars of an evaluation, drawn by matplotlib without a display.

Every function returns a `matplotlib.figure.Figure` of its own; nothing global is touched (no pyplot).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from maskrcnn_train.evaluation.diagnostics.calibration import Calibration
from maskrcnn_train.evaluation.diagnostics.curves import best_cut
from maskrcnn_train.evaluation.diagnostics.diagnostics import Study
from maskrcnn_train.reporting.terminal.tables import KIND_WORDS

MOST_CLASSES = 10  # drawn in colours of their own; of more, only the mean is
MOST_CELLS = 25  # classes in a confusion matrix that can still be read
INK, MUTED, FILL = "#222222", "#8a8f98", "#3b6fb6"


def draw_study(study: Study) -> dict[str, Figure]:
    """All pictures of a study by name."""
    calibration = {"calibration": calibration_figure(study.kind, study.calibration)} if study.calibration else {}
    return {
        "precision_recall": precision_recall_figure(study),
        "confidence": confidence_figure(study),
        "confusion": confusion_figure(study),
        "errors": errors_figure(study),
        **calibration,
        "sizes": sizes_figure(study),
    }


def precision_recall_figure(study: Study) -> Figure:
    """Precision over recall at IoU .5: every class, and their mean."""
    title = f"Precision and recall of {KIND_WORDS[study.kind]} at IoU 0.5"
    figure, axes = empty_axes(title, "recall", "precision", size=(8.6, 4.8))
    curves = [curve for curve in study.precision_recall if round(curve.iou, 6) == 0.5]
    if curves:
        lines = [(curve.class_name, curve.precision) for curve in curves]
        _class_lines(axes, curves[0].recall, lines, [float(np.mean(curve.precision)) for curve in curves])
        figure.legend(frameon=False, fontsize=9, loc="outside right upper")
    return figure


def confidence_figure(study: Study) -> Figure:
    """F1, precision and recall of what scores at least x; the best threshold is marked."""
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    figure.suptitle(f"{KIND_WORDS[study.kind].capitalize()} by score threshold, IoU 0.5", color=INK)
    best, best_f1 = best_cut(study.confidence)
    for number, name in enumerate(("f1", "precision", "recall"), start=1):
        axes = figure.add_subplot(1, 3, number)
        _prepare(axes, "score threshold", "F1" if name == "f1" else name)
        if not study.confidence:
            continue
        lines = [(curve.class_name, getattr(curve, name)) for curve in study.confidence]
        cuts = study.confidence[0].cuts
        axes.set_xlim(cuts[0], cuts[-1])
        _class_lines(axes, cuts, lines, None)
        if name == "f1":
            figure.legend(frameon=False, fontsize=9, loc="outside right upper")
            axes.axvline(best, color=MUTED, linestyle=":")
            side = "left" if best < (cuts[0] + cuts[-1]) / 2 else "right"
            text = f" best {best:.2f}: F1 {best_f1:.2f} "
            axes.annotate(text, (best, 1.0), color=INK, ha=side, va="top", fontsize=9)
    return figure


def confusion_figure(study: Study) -> Figure:
    """Rows: what it is; columns: what it was taken for. Shares of the row as colour, counts as text.

    Of many classes those with most objects have a row of their own, the others share one.
    """
    matrix, names = _most_frequent(study)
    side = 3.2 + 0.42 * len(names)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    shares[-1] = matrix[-1] / max(matrix[-1].max(), 1) * 0.6  # false alarms have no total of their own
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), [*names[:-1], "missed"], rotation=45, ha="right")
    axes.set_yticks(range(len(names)), [*names[:-1], "nothing there"])
    axes.set_xlabel("taken for", color=MUTED)
    axes.set_ylabel("is", color=MUTED)
    axes.set_title(
        f"Confusion of {KIND_WORDS[study.kind]} scored at least {study.threshold:.2f}, IoU 0.5", color=INK, fontsize=11
    )
    for row, column in zip(*np.nonzero(matrix), strict=True):
        color = "white" if shares[row, column] > 0.5 else INK
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _most_frequent(study: Study) -> tuple[np.ndarray[Any, Any], list[str]]:
    """The matrix with the rarer classes added up, and the names of its rows with the background last."""
    matrix, names = study.confusion, study.class_names
    if len(names) <= MOST_CELLS:
        return matrix, [*names, ""]
    order = np.argsort(-matrix[:-1].sum(axis=1), kind="stable")
    own, rare = sorted(order[: MOST_CELLS - 1].tolist()), order[MOST_CELLS - 1 :].tolist()
    groups: list[list[int]] = [*([row] for row in own), rare, [len(names)]]
    summed = np.array([[matrix[np.ix_(rows, columns)].sum() for columns in groups] for rows in groups])
    return summed, [*(names[row] for row in own), f"{len(rare)} others", ""]


def errors_figure(study: Study) -> Figure:
    """How much AP each kind of error costs, and how many there are."""
    errors = study.errors
    title = f"What the AP of {KIND_WORDS[study.kind]} is lost to, IoU {errors.iou:g} (AP now: {100 * errors.ap:.1f})"
    figure, axes = empty_axes(title, "AP x 100 that mending this alone would add", "", size=(8.5, 3.8), unit=False)
    kinds = errors.kinds[::-1]
    bars = axes.barh([kind.name for kind in kinds], [100 * kind.ap_gain for kind in kinds], color=FILL)
    axes.bar_label(
        bars, [f" {100 * kind.ap_gain:.1f}   ({kind.count:,})" for kind in kinds], color=INK, fontsize=9, padding=2
    )
    axes.margins(x=0.18)
    return figure


def calibration_figure(kind: str, calibration: Calibration) -> Figure:
    """The share of right detections in each bin of scores, beside the line where score and share are equal."""
    figure, axes = empty_axes(
        f"Do the scores of {KIND_WORDS[kind]} mean what they say? (mean gap {calibration.error:.3f})",
        "score",
        "share that is right",
    )
    edges = np.linspace(0, 1, len(calibration.counts) + 1)
    shares = [share or 0 for share in calibration.precision]
    bars = axes.bar(edges[:-1], shares, width=np.diff(edges) * 0.92, align="edge", color=FILL)
    axes.bar_label(bars, [f"{count:,}" if count else "" for count in calibration.counts], color=MUTED, fontsize=8)
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":")
    return figure


def sizes_figure(study: Study) -> Figure:
    """The share of the objects of each size that is found."""
    figure, axes = empty_axes(
        f"{KIND_WORDS[study.kind].capitalize()}: objects found by size, IoU 0.5",
        "side of the object (square root of its area), image pixels",
        "share found",
        size=(max(7.2, 1.3 * len(study.sizes)), 4.8),
    )
    places = np.arange(len(study.sizes))
    for shift, color, label, name in (
        (-0.2, "#b9cbe6", "at any score", "found"),
        (0.2, FILL, f"scored at least {study.threshold:.2f}", "found_above_threshold"),
    ):
        axes.bar(places + shift, [getattr(each, name) for each in study.sizes], width=0.38, color=color, label=label)
    words = [f"{each.low:g} to {each.high:g}" if each.high else f"{each.low:g} and more" for each in study.sizes]
    texts = [f"{word}\n({each.objects:,})" for word, each in zip(words, study.sizes, strict=True)]
    axes.set_xlim(-0.6, max(len(places), 1) - 0.4)
    axes.set_xticks(places, texts)
    axes.legend(frameon=False, fontsize=9)
    return figure


# ---------------------------------------------------------------- shared


def empty_axes(
    title: str, x_label: str, y_label: str, *, size: tuple[float, float] = (7.2, 4.8), unit: bool = True
) -> tuple[Figure, Axes]:
    """A figure with one frame in the style of all; unit: both axes go from 0 to 1."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, color=INK, fontsize=11)
    _prepare(axes, x_label, y_label, unit=unit)
    return figure, axes


def _prepare(axes: Axes, x_label: str, y_label: str, *, unit: bool = True) -> None:
    axes.set_xlabel(x_label, color=MUTED)
    axes.set_ylabel(y_label, color=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#c9ccd1")
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color="#eceef1")
    axes.set_axisbelow(True)
    if unit:
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.04)


def _class_lines(axes: Axes, xs: Any, lines: Sequence[tuple[str, Any]], values: list[float] | None) -> None:
    """A line for each class, labelled with its value, and a bold one for their mean."""
    colors = colormaps["tab10"].colors  # type: ignore[attr-defined]
    few = len(lines) <= MOST_CLASSES
    for index, (name, ys) in enumerate(lines):
        label = name if values is None else f"{name} {100 * values[index]:.1f}"
        color = colors[index % len(colors)] if few else "#d5d8dd"
        axes.plot(xs, ys, color=color, linewidth=1.3 if few else 0.8, label=label if few else None)
    text = "mean" if values is None else f"mean {100 * float(np.mean(values)):.1f}"
    axes.plot(xs, np.mean([ys for _, ys in lines], axis=0), color=INK, linewidth=2.4, label=text)


def to_image(figure: Figure, dpi: int = 110) -> Image.Image:
    """The figure as pixels, R G B."""
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(dpi)
    canvas.draw()  # type: ignore[no-untyped-call]
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]


def save_figure(figure: Figure, path: Path) -> Image.Image:
    """Write a PNG, making its folder; returns the pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = to_image(figure)
    image.save(path)
    return image
