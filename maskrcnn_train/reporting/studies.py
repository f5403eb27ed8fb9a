"""A study's files: everything as JSON, the tables as CSV, the curves as pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from maskrcnn_train.evaluation.diagnostics.bootstrap import TOO_FEW_IMAGES
from maskrcnn_train.evaluation.diagnostics.diagnostics import Study
from maskrcnn_train.reporting.terminal.tables import percent, table, write_csv, write_lines


def write_study(folder: Path, studies: Mapping[str, Study]) -> dict[str, Image.Image]:
    """Write `study.json`, `<kind>_thresholds.csv`, `<kind>_confusion.csv`, `<kind>_errors.csv`, `<kind>_sizes.csv` and
    the pictures `<kind>_*.png` into `folder`; returns the pictures by name, as in segm/confusion."""
    from maskrcnn_train.reporting.drawing.figures import draw_study, save_figure  # half a second of matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    plain = {kind: study.to_plain() for kind, study in studies.items()}
    (folder / "study.json").write_text(json.dumps(plain))
    pictures = {}
    for kind, study in studies.items():
        for name, rows in _tables(study).items():
            write_csv(folder / f"{kind}_{name}.csv", rows)
        write_lines(folder / f"{kind}_confusion.csv", _confusion(study))
        for name, figure in draw_study(study).items():
            pictures[f"{kind}/{name}"] = save_figure(figure, folder / f"{kind}_{name}.png")
    return pictures


def _tables(study: Study) -> dict[str, list[dict[str, object]]]:
    return {
        "thresholds": [
            {
                "class": each.class_name,
                "best_threshold": each.best_threshold if each.best_f1 > 0 else "",  # nothing of it is ever right
                "f1": each.best_f1,
                "precision": each.best_precision,
                "recall": each.best_recall,
            }
            for each in study.confidence
        ],
        "errors": [asdict(kind) for kind in study.errors.kinds],
        "sizes": [asdict(bucket) for bucket in study.sizes],
    }


def _confusion(study: Study) -> list[list[object]]:
    """The matrix with a head and names, the background last: lists, for a class may be called background too."""
    names = [*study.class_names, "background"]
    rows = [[name, *row] for name, row in zip(names, study.confusion.tolist(), strict=True)]
    return [["is / taken for", *names], *rows]


def study_tables(study: Study) -> str:
    """For the terminal: the intervals, and what the AP is lost to."""
    parts = []
    if study.intervals:
        shown = [(name, *map(percent, (each.value, each.low, each.high))) for name, each in study.intervals.items()]
        parts.append(table(f"{study.kind}: 95 % intervals over the images, x 100", ["", "value", "low", "high"], shown))
    if study.without_interval:
        parts.append(f"{study.kind}: no interval of {', '.join(study.without_interval)}: {TOO_FEW_IMAGES}")
    rows = [(kind.name, kind.count, percent(kind.ap_gain), kind.meaning) for kind in study.errors.kinds]
    title = f"{study.kind}: what the AP at IoU {study.errors.iou:g} is lost to (now {percent(study.errors.ap)})"
    parts.append(table(title, ["error", "count", "AP it costs", ""], rows))
    parts.append(
        f"{study.kind}: score thresholds of the best F1 are in {study.kind}_thresholds.csv; "
        f"one for all classes: {study.threshold:.2f}"
    )
    if study.calibration is None:
        parts.append(f"{study.kind}: no calibration: scores lie outside 0 to 1, so they are not probabilities")
    return "\n\n".join(parts)
