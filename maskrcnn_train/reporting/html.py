"""One self-contained HTML page of a run: what it was, how it went, what it reached, how it looks."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from maskrcnn_train.reporting.charts import Chart, line_chart
from maskrcnn_train.reporting.runs import RunFiles, read_run
from maskrcnn_train.reporting.tables import KINDS, MAIN_MEASURES, average_recalls, percent

REPORT_FILE = "report.html"
MOST_PICTURES = 24
PICTURE_WIDTH = 1400  # pixels; wider ones are scaled down, to keep the page to a few megabytes
KIND_WORDS = {"bbox": "boxes", "segm": "masks"}


@dataclass
class Embedded:
    """A picture inside the page. address: a data: URL; width, height: pixels."""

    name: str
    address: str
    width: int
    height: int


def write_report(run_dir: Path | str) -> Path:
    """Write `report.html` into a run's folder from the files there, and return its path.

    A file that is absent is left out of the page. Raises ValueError if the folder holds no run.
    """
    run = read_run(Path(run_dir))
    page = render(
        "report.html.j2",
        run=run,
        title=run.folder.resolve().name,
        tiles=_tiles(run),
        metric_table=metric_rows(run.metrics),
        class_table=class_rows(run.metrics, run.class_names),
        charts=_charts(run.history),
        pictures=[embed(path) for path in run.pictures[:MOST_PICTURES]],
        num_pictures=len(run.pictures),
    )
    return write_page(run.folder / REPORT_FILE, page)


def render(template: str, **values: Any) -> str:
    """A page from a template beside this file; every value is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    return environment.get_template(template).render(**values)


def write_page(path: Path, page: str) -> Path:
    """Written aside first: a page that is open in a browser is never half a page."""
    partial = path.with_name(path.name + ".part")
    partial.write_text(page, encoding="utf-8")
    return partial.replace(path)


def _tiles(run: RunFiles) -> list[tuple[str, str]]:
    """The headline numbers: (value, what it is)."""
    tiles = []
    for kind in reversed(KINDS):
        for measure in ("AP", "AP50"):
            if f"{kind}/{measure}" in run.metrics:
                tiles.append((percent(run.metrics[f"{kind}/{measure}"]), f"{measure} {KIND_WORDS[kind]}"))
    if run.history:
        tiles.append((f"{run.history[-1]['step']:,}", "steps"))
    speeds = [line["images_per_second"] for line in run.history if line.get("images_per_second")]
    if speeds:
        tiles.append((f"{sorted(speeds)[len(speeds) // 2]:.3g}", "images a second"))
    return tiles


def metric_rows(metrics: Mapping[str, float]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Columns, and a row for boxes and one for masks; times 100."""
    measures = [*MAIN_MEASURES, *average_recalls(metrics)]
    kinds = [kind for kind in KINDS if f"{kind}/AP" in metrics]
    rows = [(KIND_WORDS[kind], [percent(metrics.get(f"{kind}/{name}")) for name in measures]) for kind in kinds]
    return measures, rows


def class_rows(
    metrics: Mapping[str, float], names: list[str]
) -> tuple[list[str], list[tuple[str, list[float | None]]]]:
    """Kinds, and for each class its AP of each kind (a fraction, or None), best class first."""
    kinds = [kind for kind in KINDS if any(key.startswith(f"{kind}/AP/") for key in metrics)]
    found = [key.split("/AP/", 1)[1] for key in metrics if "/AP/" in key]
    order = [name for name in dict.fromkeys([*names, *found]) if name in found]
    rows = [(name, [_present(metrics.get(f"{kind}/AP/{name}")) for kind in kinds]) for name in order]
    rows.sort(key=lambda row: -1 if not row[1] or row[1][-1] is None else row[1][-1], reverse=True)
    return [KIND_WORDS[kind] for kind in kinds], rows


def _present(value: float | None) -> float | None:
    return None if value is None or value < 0 else value


def _charts(history: list[dict[str, Any]]) -> list[Chart]:
    losses = sorted({key for line in history for key in line if key.startswith("loss/")})
    losses.sort(key=lambda key: key != "loss/total")
    validation = sorted({key for line in history for key in line if key.startswith("val_loss/")})
    scores = {f"{measure} {KIND_WORDS[kind]}": f"{kind}/{measure}" for measure in ("AP", "AP50") for kind in KINDS}
    waits = {"step": "time/step", "waiting for data": "time/data"}
    charts = [
        line_chart("Loss", {key.split("/", 1)[1].replace("_", " "): _course(history, key) for key in losses}),
        line_chart(
            "Validation loss", {key.split("/", 1)[1].replace("_", " "): _course(history, key) for key in validation}
        ),
        line_chart("AP, x 100", {name: _course(history, key, 100) for name, key in scores.items()}),
        line_chart("Learning rate", {"learning rate": _course(history, "lr")}),
        line_chart("Images a second", {"images a second": _course(history, "images_per_second")}),
        line_chart("Seconds a step", {name: _course(history, key) for name, key in waits.items()}),
    ]
    return [chart for chart in charts if chart]


def _course(history: list[dict[str, Any]], key: str, factor: float = 1) -> list[tuple[float, float]]:
    """(step, value) of every line that has the key; a score of -1 (absent) and a null are left out."""
    points = [(line["step"], line.get(key)) for line in history]
    return [(step, value * factor) for step, value in points if isinstance(value, (int, float)) and value != -1]


def embed(path: Path) -> Embedded:
    """A JPEG as a data: URL, scaled down if it is wide."""
    with Image.open(path) as picture:
        width, height = picture.size
        if width <= PICTURE_WIDTH:
            content = path.read_bytes()
        else:
            width, height = PICTURE_WIDTH, round(height * PICTURE_WIDTH / width)
            stream = io.BytesIO()
            picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).save(stream, "JPEG", quality=82)
            content = stream.getvalue()
    address = "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
    return Embedded(name=path.stem, address=address, width=width, height=height)
