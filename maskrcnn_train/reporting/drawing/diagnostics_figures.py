"""Charts of an evaluation's diagnostics: curves, confusion, errors, calibration, sizes."""

import numpy as np
from matplotlib.figure import Figure

from maskrcnn_train.evaluation.coco.metrics import KIND_WORDS
from maskrcnn_train.evaluation.diagnostics.curves import best_cut
from maskrcnn_train.evaluation.diagnostics.diagnostics import Diagnostics
from maskrcnn_train.reporting.drawing.figures import (
    INK,
    LIGHT,
    MUTED,
    SERIES,
    add_legend,
    add_line,
    new_axes,
    shortened,
)
from maskrcnn_train.structures.arrays import Ints

MOST_CLASSES = 10  # drawn in colours of their own; more are grey
MOST_CELLS = 25  # classes in a confusion matrix that can still be read, in a picture or on a page
FILL = SERIES[0]


def draw_diagnostics(found: Diagnostics) -> dict[str, Figure]:
    """All pictures by name."""
    tables = {"confusion": confusion_figure(found), "errors": errors_figure(found), "sizes": sizes_figure(found)}
    return curve_figures(found) | tables


def curve_figures(found: Diagnostics) -> dict[str, Figure]:
    """Those that a page shows as well; the others are its tables."""
    figures = {"precision_recall": precision_recall_figure(found), "confidence": confidence_figure(found)}
    return figures | ({"calibration": calibration_figure(found)} if found.calibration else {})


def precision_recall_figure(found: Diagnostics) -> Figure:
    """Precision over recall at IoU .5: the mean over the classes, and every class."""
    title = f"Precision and recall of {KIND_WORDS[found.kind]} (AP50, x 100)"
    figure, axes = new_axes(title, "recall", "precision", unit=True)
    curves = [curve for curve in found.precision_recall if round(curve.iou, 6) == 0.5]
    if curves:
        for curve in curves:
            label = f"{curve.class_name} {100 * np.mean(curve.precision):.1f}"
            add_line(axes, curve.recall, curve.precision, label, thin=len(curves) > MOST_CLASSES)
        mean = np.mean([curve.precision for curve in curves], axis=0)
        axes.plot(curves[0].recall, mean, color=INK, linewidth=2.4, label=f"mean {100 * mean.mean():.1f}")
        add_legend(figure)
    return figure


def confidence_figure(found: Diagnostics) -> Figure:
    """F1, precision and recall of the detections scored at least x, means of the classes; in grey F1 of each class."""
    best, best_f1 = best_cut(found.confidence)
    title = f"{KIND_WORDS[found.kind].capitalize()} by score threshold, means of the classes"
    figure, axes = new_axes(title, "score from which detections count", unit=True)
    if found.confidence:
        cuts = found.confidence[0].cuts
        axes.set_xlim(cuts[0], cuts[-1])
        for curve in found.confidence:
            add_line(axes, cuts, curve.f1, f"F1 of {curve.class_name}", thin=True)
        for label, name in (("F1", "f1"), ("precision", "precision"), ("recall", "recall")):
            add_line(axes, cuts, np.mean([getattr(curve, name) for curve in found.confidence], axis=0), label)
        axes.axvline(best, color=MUTED, linestyle=":", label=f"F1 {best_f1:.2f} at {best:.2f}")
        add_legend(figure)
    return figure


def confusion_figure(found: Diagnostics) -> Figure:
    """Rows: what it is; columns: what it was taken for. Shares of the row as colour, counts as text.

    Of many classes those with most objects have a row of their own, the others share one.
    """
    matrix, names = most_frequent(found)
    names = [shortened(name, 30) for name in names]
    side = 3.2 + 0.42 * len(names)
    figure = Figure(figsize=(side + 0.8, side))
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shares[-1] = matrix[-1] / max(matrix[-1].max(), 1) * 0.6  # false alarms have no total of their own
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), [*names[:-1], "missed"], rotation=45, ha="right")
    axes.set_yticks(range(len(names)), [*names[:-1], "nothing there"])
    axes.set_xlabel("taken for", color=MUTED)
    axes.set_ylabel("is", color=MUTED)
    title = f"Confusion of {KIND_WORDS[found.kind]} scored at least {found.threshold:.2f}, IoU 0.5"
    axes.set_title(title, color=INK, fontsize=11)
    for row, column in zip(*np.nonzero(matrix), strict=True):
        color = "white" if shares[row, column] > 0.5 else INK
        axes.text(column, row, str(matrix[row, column]), ha="center", va="center", color=color, fontsize=8)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def most_frequent(found: Diagnostics) -> tuple[Ints, list[str]]:
    """The matrix with the rarer classes added up, and the names of its rows with the background last."""
    matrix, names = found.confusion, found.class_names
    if len(names) <= MOST_CELLS:
        return matrix, [*names, ""]
    order = np.argsort(-matrix[:-1].sum(axis=1), kind="stable")
    own = sorted(order[: MOST_CELLS - 1].tolist())
    group_of = np.full(len(matrix), len(own))
    group_of[[*own, len(names)]] = [*range(len(own)), len(own) + 1]
    summed = np.zeros((len(own) + 2, len(own) + 2), np.int64)
    np.add.at(summed, (group_of[:, None], group_of), matrix)
    return summed, [*(names[row] for row in own), f"{len(matrix) - 1 - len(own)} others", ""]


def errors_figure(found: Diagnostics) -> Figure:
    """How much AP each kind of error costs, and how many there are from the score threshold on."""
    errors = found.errors
    title = f"Where the missing AP of {KIND_WORDS[found.kind]} went, IoU {errors.iou:g} (now {100 * errors.ap:.1f})"
    x_label = f"AP x 100 that fixing this alone would add (errors scored {found.threshold:.2f} or more)"
    figure, axes = new_axes(title, x_label)
    kinds = errors.kinds[::-1]
    bars = axes.barh([kind.name for kind in kinds], [100 * kind.ap_gain for kind in kinds], color=FILL)
    texts = [f"{100 * kind.ap_gain:.1f}   ({kind.count:,})" for kind in kinds]
    axes.bar_label(bars, texts, color=INK, fontsize=9, padding=4)
    axes.margins(x=0.2)
    return figure


def calibration_figure(found: Diagnostics) -> Figure:
    """The share of right detections in each bin of scores, beside the line where score and share are equal."""
    assert found.calibration is not None
    title = f"Do the scores of {KIND_WORDS[found.kind]} mean what they say? (mean gap {found.calibration.error:.3f})"
    figure, axes = new_axes(title, "score; at the top the detections of each bin", "share that is right", unit=True)
    axes.set_ylim(0, 1.14)
    edges = np.linspace(0, 1, len(found.calibration.counts) + 1)
    shares = [share or 0 for share in found.calibration.precision]
    axes.bar(edges[:-1], shares, width=np.diff(edges) * 0.92, align="edge", color=LIGHT)
    for edge, count in zip(edges, found.calibration.counts, strict=False):
        if count:
            axes.text(edge + edges[1] / 2, 1.05, f"{count:,}", color=MUTED, fontsize=9, ha="center")
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="as it should be")
    add_legend(figure)
    return figure


def sizes_figure(found: Diagnostics) -> Figure:
    """The share of the objects of each size that is found."""
    title = f"{KIND_WORDS[found.kind].capitalize()}: objects found by size, IoU 0.5"
    x_label = "side of the object (square root of its area), image pixels"
    figure, axes = new_axes(title, x_label, "share found", unit=True)
    figure.set_figwidth(max(figure.get_figwidth(), 1.1 * len(found.sizes)))
    positions, sure = np.arange(len(found.sizes)), f"scored at least {found.threshold:.2f}"
    axes.bar(positions - 0.2, [each.found for each in found.sizes], 0.38, color=LIGHT, label="at any score")
    axes.bar(positions + 0.2, [each.found_above_threshold for each in found.sizes], 0.38, color=FILL, label=sure)
    ends = [f"to {each.high:g}" if each.high else "and more" for each in found.sizes]
    texts = [f"{each.low:g} {end}\n({each.objects:,})" for end, each in zip(ends, found.sizes, strict=True)]
    axes.set_xlim(-0.6, max(len(positions), 1) - 0.4)
    axes.set_xticks(positions, texts)
    add_legend(figure)
    return figure
