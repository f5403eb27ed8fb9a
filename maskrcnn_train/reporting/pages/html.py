"""One self-contained HTML page of a run: what it was, how it went, what it reached, how it looks."""

from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from maskrcnn_train.files import write_text
from maskrcnn_train.reporting.pages.analysis_page import analysis_page
from maskrcnn_train.reporting.pages.diagnostics_page import diagnostics_pages
from maskrcnn_train.reporting.pages.gallery import Gallery, jpeg_address
from maskrcnn_train.reporting.pages.scores import class_rows, limits_note, metric_rows, tiles, training_charts
from maskrcnn_train.reporting.runs import read_run
from maskrcnn_train.reporting.terminal.tables import percent

REPORT_FILE = "report.html"
MOST_PICTURES = 24
PICTURE_WIDTH = 1400  # pixels; wider ones are scaled down, to keep the page to a few megabytes


def write_report(
    run_dir: Path | str,
    *,
    metrics: dict[str, float] | None = None,
    output: Path | None = None,
    analysis: Path | None = None,
    gallery: Gallery | None = None,
    gallery_note: str = "",
) -> Path:
    """Write the page of a run from the files in its folder, and return its path.

    metrics: None are those of its metrics.json. output: None is `report.html` there.
    analysis: the folder of an `analyze`; None: the newest inside the run's folder.
    gallery: without one the run's own pictures are shown, and `gallery_note` says why. A file that is absent is left
    out of the page. Raises UserError if the folder holds no run.
    """
    run = read_run(Path(run_dir), analysis)
    run = run if metrics is None else replace(run, metrics=metrics)
    page = render(
        "report.html.j2",
        run=run,
        title=run.folder.resolve().name,
        tiles=tiles(run),
        metric_table=metric_rows(run.metrics, run.diagnostics),
        limits_note=limits_note(run.limits),
        class_table=class_rows(run),
        charts=training_charts(run.history),
        diagnostics=diagnostics_pages(run.diagnostics),
        analysis=analysis_page(run.analysis, run.scored_step),
        gallery=gallery,
        gallery_note=gallery_note,
        pictures=_embedded(run.pictures[:MOST_PICTURES]) if gallery is None else [],
    )
    return write_text(output or run.folder / REPORT_FILE, page)


def render(template: str, **values: Any) -> str:
    """A page from a template; every value is escaped."""
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": percent, "breakable": _breakable}
    return environment


def _breakable(key: str) -> Markup:
    """A dotted key that may go on in a new line after each dot."""
    return Markup(".<wbr>").join(key.split("."))


def _embedded(paths: list[Path]) -> list[dict[str, Any]]:
    """JPEGs by name, as data: URLs with width and height in pixels, scaled down if wide; a damaged one is left out."""
    pictures = []
    for path in paths:
        with suppress(OSError), Image.open(path) as picture:
            width = min(picture.width, PICTURE_WIDTH)
            height = round(picture.height * width / picture.width)
            smaller = picture if width == picture.width else picture.resize((width, height), Image.Resampling.LANCZOS)
            address = jpeg_address(smaller)
            pictures.append({"name": path.stem, "address": address, "width": width, "height": height})
    return pictures
