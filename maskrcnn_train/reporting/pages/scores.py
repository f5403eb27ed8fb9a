"""The numbers of a run as a page shows them: headline, metrics with intervals, classes, curves of the training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maskrcnn_train.evaluation.coco.metrics import KIND_WORDS, KINDS
from maskrcnn_train.reporting.drawing.figures import Chart, line_figure, to_chart
from maskrcnn_train.reporting.runs import RunFiles
from maskrcnn_train.reporting.terminal.tables import MAIN_MEASURES, average_recalls, percent


@dataclass
class ClassRow:
    """One class. aps: of each kind, a fraction or None. objects: in each split. best: threshold, F1, precision and
    recall at the best threshold, fractions; empty without diagnostics."""

    name: str
    aps: list[float | None]
    objects: list[int]
    best: list[float]


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
    speeds = sorted(line["images_per_second"] for line in run.history if line.get("images_per_second"))
    if speeds:
        found.append((f"{speeds[len(speeds) // 2]:.3g}", "images a second", "median"))
    return found


def interval_text(diagnostics: Mapping[str, Any], kind: str, measure: str) -> str:
    """ "8.0 to 10.7", times 100; nothing where no images were drawn."""
    found = diagnostics.get(kind, {}).get("intervals", {}).get(measure)
    return f"{percent(found['low'])} to {percent(found['high'])}" if found else ""


def metric_rows(
    metrics: Mapping[str, float], diagnostics: Mapping[str, Any]
) -> tuple[list[str], list[tuple[str, list[tuple[str, str]]]]]:
    """Columns, and a row for boxes and one for masks: (value, interval) each, times 100."""
    measures = [*MAIN_MEASURES, *average_recalls(metrics)]
    kinds = [kind for kind in KINDS if f"{kind}/AP" in metrics]
    rows = [
        (
            KIND_WORDS[kind],
            [(percent(metrics.get(f"{kind}/{name}")), interval_text(diagnostics, kind, name)) for name in measures],
        )
        for kind in kinds
    ]
    return measures, rows


def class_rows(run: RunFiles) -> tuple[list[str], list[str], list[ClassRow]]:
    """Kinds, splits, and a row for each class, best first."""
    kinds = [kind for kind in KINDS if any(key.startswith(f"{kind}/AP/") for key in run.metrics)]
    found = [key.split("/AP/", 1)[1] for key in run.metrics if "/AP/" in key]
    order = [name for name in dict.fromkeys([*run.class_names, *found]) if name in found]
    splits = run.data.get("splits", {})
    best = _best_thresholds(run.diagnostics, kinds)
    rows = [
        ClassRow(
            name=name,
            aps=[_present(run.metrics.get(f"{kind}/AP/{name}")) for kind in kinds],
            objects=[int(split["classes"].get(name, 0)) for split in splits.values()],
            best=best.get(name, []),
        )
        for name in order
    ]
    rows.sort(key=lambda row: -1 if not row.aps or row.aps[-1] is None else row.aps[-1], reverse=True)
    return [KIND_WORDS[kind] for kind in kinds], list(splits), rows


def _best_thresholds(diagnostics: Mapping[str, Any], kinds: list[str]) -> dict[str, list[float]]:
    """By class: of the masks where there are any."""
    curves = diagnostics.get(kinds[-1], {}).get("confidence", []) if kinds else []
    keys = ("best_threshold", "best_f1", "best_precision", "best_recall")
    return {curve["class_name"]: [curve[key] for key in keys] for curve in curves}


def _present(value: float | None) -> float | None:
    return None if value is None or value < 0 else value


def training_charts(history: list[dict[str, Any]]) -> list[Chart]:
    """Losses, scores, learning rate and speed over the steps; what was taken once has no chart."""
    losses = sorted({key for line in history for key in line if key.startswith("loss/")})
    losses.sort(key=lambda key: key != "loss/total")
    validation = sorted({key for line in history for key in line if key.startswith("val_loss/")})
    scores = {f"{measure} {KIND_WORDS[kind]}": f"{kind}/{measure}" for measure in ("AP", "AP50") for kind in KINDS}
    waits = {"step": "time/step", "waiting for data": "time/data"}
    series = {
        "Loss": {_loss_name(key): points_of(history, key) for key in losses},
        "Validation loss": {_loss_name(key): points_of(history, key) for key in validation},
        "AP, x 100": {name: points_of(history, key, 100) for name, key in scores.items()},
        "Learning rate": {"learning rate": points_of(history, "lr")},
        "Images a second": {"images a second": points_of(history, "images_per_second")},
        "Seconds a step": {name: points_of(history, key) for name, key in waits.items()},
    }
    charts = [to_chart(line_figure(title, lines), f"training/{title}") for title, lines in series.items()]
    return [chart for chart in charts if chart]


def _loss_name(key: str) -> str:
    return key.split("/", 1)[1].replace("_", " ")


def points_of(history: list[dict[str, Any]], key: str, factor: float = 1) -> list[tuple[float, float]]:
    """(step, value) of every line that has the key; a score of -1 (absent) and a null are left out."""
    points = [(line["step"], line.get(key)) for line in history]
    return [(step, value * factor) for step, value in points if isinstance(value, (int, float)) and value != -1]
