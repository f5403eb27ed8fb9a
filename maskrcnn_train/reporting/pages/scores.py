"""The numbers of a run as a page shows them: headline, metrics with intervals, classes, curves of the training."""

from collections.abc import Mapping
from typing import Any

from maskrcnn_train.evaluation.coco.evaluators import ABSENT
from maskrcnn_train.evaluation.coco.metrics import IOU_THRESHOLDS, KIND_WORDS, KINDS
from maskrcnn_train.evaluation.diagnostics.diagnostics import Diagnostics
from maskrcnn_train.reporting.drawing.figures import Chart, line_figure, to_charts
from maskrcnn_train.reporting.runs import RunFiles
from maskrcnn_train.reporting.terminal.tables import measures_of, percent

BEST = ["threshold", "F1", "precision", "recall"]  # columns of the best score threshold


def tiles(run: RunFiles) -> list[tuple[str, str, str]]:
    """The headline numbers: (value, what it is, its interval or nothing)."""
    found = []
    for kind in reversed(KINDS):
        for measure in ("AP", "AP50"):
            if f"{kind}/{measure}" in run.metrics:
                value = percent(run.metrics[f"{kind}/{measure}"])
                found.append((value, f"{measure} {KIND_WORDS[kind]}", interval_text(run.diagnostics, kind, measure)))
    if run.history:
        found.append((f"{run.history[-1]['step']:,}", "steps", ""))
    if speeds := sorted(speed for _, speed in points_of(run.history, "images_per_second")):
        found.append((f"{speeds[len(speeds) // 2]:.3g}", "images a second", "median"))
    return found


def interval_text(diagnostics: Mapping[str, Diagnostics], kind: str, measure: str) -> str:
    """ "8.0 to 10.7", times 100; nothing where no images were drawn."""
    found = diagnostics[kind].intervals.get(measure) if kind in diagnostics else None
    return f"{percent(found.low)} to {percent(found.high)}" if found else ""


def metric_rows(
    metrics: Mapping[str, float], diagnostics: Mapping[str, Diagnostics]
) -> tuple[list[str], list[tuple[str, list[tuple[str, str]]]]]:
    """Columns, and a row for boxes and one for masks: (value, interval) each, times 100."""
    measures = measures_of(metrics)
    rows = []
    for kind in KINDS:
        if f"{kind}/AP" in metrics:
            values = [(percent(metrics.get(f"{kind}/{m}")), interval_text(diagnostics, kind, m)) for m in measures]
            rows.append((KIND_WORDS[kind], values))
    return measures, rows


def limits_note(limits: Mapping[str, list[float]]) -> str:
    """Over which IoUs AP is the mean, and how large small, medium and large objects are; empty without `limits`."""
    if not limits:
        return ""
    ious, (medium, large) = limits["iou_thresholds"], limits["size_limits"]
    ends = ".50 to .95" if tuple(ious) == IOU_THRESHOLDS else ", ".join(f"{iou:g}" for iou in ious)
    ap = f"AP is the mean over IoU {ends}" if len(ious) > 1 else f"AP is that at IoU {ends}"
    return f"{ap}; s, m, l are objects below {medium:g}², up to {large:g}², above {large:g}² square pixels."


def class_rows(run: RunFiles) -> tuple[list[str], list[dict[str, Any]]]:
    """Columns, and a row for each class, best first.

    aps: of each kind, a fraction or None. texts: objects in each split; with diagnostics also the best threshold, and
    F1, precision and recall there, of the masks where there are any.
    """
    kinds = [kind for kind in KINDS if any(key.startswith(f"{kind}/AP/") for key in run.metrics)]
    found = [key.split("/AP/", 1)[1] for key in run.metrics if "/AP/" in key]
    order = [name for name in dict.fromkeys([*run.class_names, *found]) if name in found]
    curves = run.diagnostics[kinds[-1]].confidence if kinds and kinds[-1] in run.diagnostics else []
    best = {
        curve.class_name: [
            f"{curve.best_threshold:.2f}" if curve.best_f1 > 0 else "-",  # never right
            *map(percent, (curve.best_f1, curve.best_precision, curve.best_recall)),
        ]
        for curve in curves
        if curve.class_name in found
    }
    unknown = ["-"] * len(BEST) if best else []
    splits = run.data["splits"]
    aps = {name: [run.metrics.get(f"{kind}/AP/{name}", ABSENT) for kind in kinds] for name in order}
    rows = [
        {
            "name": name,
            "aps": [None if value < 0 else value for value in aps[name]],
            "texts": [
                *(f"{split['classes'].get(name, 0):,}" for split in splits.values()),
                *best.get(name, unknown),
            ],
        }
        for name in sorted(order, key=lambda name: [-value for value in aps[name][-1:]])
    ]
    columns = ["class", *(f"AP {KIND_WORDS[kind]}" for kind in kinds), *(f"{split} objects" for split in splits)]
    return columns + (BEST if best else []), rows


def training_charts(history: list[dict[str, Any]]) -> list[Chart]:
    """Losses, scores, learning rate and speed over the steps; what was taken once has no chart."""
    keys = sorted({key for line in history for key in line}, key=lambda key: (key != "loss/total", key))
    scores = {f"{measure} {KIND_WORDS[kind]}": f"{kind}/{measure}" for measure in ("AP", "AP50") for kind in KINDS}
    waits = {"step": "time/step", "waiting for data": "time/data"}
    series = {
        title: {
            key.removeprefix(group).replace("_", " "): points_of(history, key) for key in keys if key.startswith(group)
        }
        for title, group in (("Loss", "loss/"), ("Validation loss", "val_loss/"))
    }
    series |= {
        "AP, x 100": {name: points_of(history, key, 100) for name, key in scores.items()},
        "Learning rate": {"learning rate": points_of(history, "lr")},
        "Images a second": {"images a second": points_of(history, "images_per_second")},
        "Seconds a step": {name: points_of(history, key) for name, key in waits.items()},
    }
    return to_charts("training", {title: line_figure(title, lines) for title, lines in series.items()})


def points_of(history: list[dict[str, Any]], key: str, factor: float = 1) -> list[tuple[float, float]]:
    """(step, value) of every line that has the key; a score of -1 (absent) and a null are left out."""
    points = [(line["step"], line.get(key)) for line in history]
    return [(step, value * factor) for step, value in points if isinstance(value, (int, float)) and value != -1]
