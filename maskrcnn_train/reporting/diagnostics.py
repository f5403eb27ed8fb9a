"""The files of an evaluation's diagnostics: everything as JSON, the tables as CSV, the curves as pictures."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskrcnn_train.evaluation.diagnostics.bootstrap import TOO_FEW_IMAGES
from maskrcnn_train.evaluation.diagnostics.diagnostics import Diagnostics
from maskrcnn_train.files import write_csv, write_json, write_rows
from maskrcnn_train.reporting.terminal.tables import percent, table

DRAWS_FILE, IMAGES = "draws.json", "images"  # the file, and the key of the ids of the images in it


def write_diagnostics(
    folder: Path, diagnostics: Mapping[str, Diagnostics], ground_truth: dict[str, Any]
) -> dict[str, Image.Image]:
    """Write `study.json`, and of each kind the tables `<kind>_*.csv` and the pictures `<kind>_*.png`.

    `draws.json` has the images of `ground_truth`, those scored, and the AP of each draw of them: two models scored on
    the same ones are compared by it. Returns the pictures by name, as in segm/confusion.
    """
    from maskrcnn_train.reporting.drawing.diagnostics_figures import draw_diagnostics  # half a second of matplotlib
    from maskrcnn_train.reporting.drawing.figures import save_figure

    write_json(folder / "study.json", {kind: found.to_plain() for kind, found in diagnostics.items()})
    drawn = {f"{kind}/AP": found.draws.get("AP", np.array([np.nan])) for kind, found in diagnostics.items()}
    whole = {score: draws.round(6).tolist() for score, draws in drawn.items() if not np.isnan(draws).any()}
    write_json(folder / DRAWS_FILE, {IMAGES: [each["id"] for each in ground_truth["images"]], **whole})
    pictures = {}
    for kind, found in diagnostics.items():
        write_rows(folder / f"{kind}_thresholds.csv", _thresholds(found))
        write_rows(folder / f"{kind}_errors.csv", [asdict(each) for each in found.errors.kinds])
        write_rows(folder / f"{kind}_sizes.csv", [asdict(each) for each in found.sizes])
        write_csv(folder / f"{kind}_confusion.csv", _confusion(found))
        for name, figure in draw_diagnostics(found).items():
            pictures[f"{kind}/{name}"] = save_figure(figure, folder / f"{kind}_{name}.png")
    return pictures


def _thresholds(found: Diagnostics) -> list[dict[str, Any]]:
    return [
        {"class": each.class_name, "best_threshold": each.best_threshold if each.best_f1 > 0 else ""}  # never right
        | {"f1": each.best_f1, "precision": each.best_precision, "recall": each.best_recall}
        for each in found.confidence
    ]


def _confusion(found: Diagnostics) -> list[list[object]]:
    """The matrix with a head and names, the background last: lists, for a class may be called background too."""
    names = [*found.class_names, "background"]
    rows = [[name, *row] for name, row in zip(names, found.confusion.tolist(), strict=True)]
    return [["is / taken for", *names], *rows]


def diagnostics_tables(found: Diagnostics) -> str:
    """For the terminal: the intervals, and where the missing AP went."""
    kind, parts = found.kind, []
    if found.intervals:
        shown = [(name, *map(percent, (each.value, each.low, each.high))) for name, each in found.intervals.items()]
        parts.append(table(f"{kind}: 95 % intervals over the images, x 100", ["", "value", "low", "high"], shown))
    if alone := [name for name, each in found.draws.items() if name not in found.intervals and each[0] >= 0]:
        parts.append(f"{kind}: no interval of {', '.join(alone)}: {TOO_FEW_IMAGES}")  # has a value: it is not NaN
    rows = [(each.name, each.count, percent(each.ap_gain), each.meaning) for each in found.errors.kinds]
    title = (
        f"{kind}: where the missing AP at IoU {found.errors.iou:g} went (now {percent(found.errors.ap)}); "
        f"errors scored at least {found.threshold:.2f}"
    )
    thresholds = f"score thresholds with the best F1 are in {kind}_thresholds.csv"
    parts.append(table(title, ["error", "count", "AP it costs", ""], rows))
    parts.append(f"{kind}: {thresholds}; one for all classes: {found.threshold:.2f}")
    if found.calibration is None:
        parts.append(f"{kind}: no calibration: scores lie outside 0 to 1, so they are not probabilities")
    return "\n\n".join(parts)
