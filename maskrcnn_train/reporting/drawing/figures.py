"""The one style of all charts, drawn by matplotlib: as pixels for files, as SVG for pages.

Every function makes a `matplotlib.figure.Figure` of its own; pyplot and its global state are not used.
"""

import io
import math
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from PIL import Image

from maskrcnn_train.files import write_picture

SERIES = ("#2457c5", "#c2410c", "#0f766e", "#a21caf", "#a16207", "#be123c")  # told apart in light and dark pages
INK, MUTED, RULE, LIGHT = "#1b1f27", "#5b6472", "#e1e5eb", "#b9cbe6"
CSS_VARIABLES = {INK: "--text", MUTED: "--dim", RULE: "--rule", LIGHT: "--bar"}  # of pages/templates/style.css
CSS_VARIABLES |= {color: f"--c{number}" for number, color in enumerate(SERIES, start=1)}
WIDTH, HEIGHT = 5.4, 3.0  # inches; 389 x 216 units of an SVG, near the pixels of a phone
MOST_POINTS = 300
MOST_MARKS = 40  # points of a line that are marked one by one
PNG_DPI = 170
TEXT = 11  # points
LETTER, LINE = 0.09, 0.2  # inches: the width of a letter and the height of a line
MOST_LETTERS = 54  # in a line
SVG = "http://www.w3.org/2000/svg"
Points = Sequence[tuple[float, float]]


@dataclass
class Chart:
    """A chart of a page: its title, and the rest as inline SVG in the colours of the page."""

    title: str
    svg: Markup


def new_axes(
    title: str, x_label: str, y_label: str = "", *, height: float = HEIGHT, unit: bool = False
) -> tuple[Figure, Axes]:
    """A figure with one frame. unit: both axes go from 0 to 1."""
    figure = Figure(figsize=(WIDTH, height))
    axes = figure.add_subplot()
    axes.set_title(textwrap.fill(title, MOST_LETTERS), color=INK, fontsize=TEXT)
    axes.set_xlabel(textwrap.fill(x_label, MOST_LETTERS), color=MUTED, fontsize=TEXT)
    axes.set_ylabel(y_label, color=MUTED, fontsize=TEXT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=TEXT, length=0, left=False, bottom=False)
    axes.locator_params(nbins=5)
    axes.grid(color=RULE)
    axes.set_axisbelow(True)
    if unit:
        axes.set(xlim=(0, 1), ylim=(0, 1.04))
    return figure, axes


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def add_legend(figure: Figure) -> None:
    """Below the chart, for the labels that don't begin with "_"; the figure grows by its rows."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if not labels:
        return
    labels = [shortened(label, MOST_LETTERS) for label in labels]
    columns = min(len(labels), max(1, int(figure.get_figwidth() / (0.09 * max(map(len, labels)) + 0.4))))
    figure.set_figheight(figure.get_figheight() + 0.22 * math.ceil(len(labels) / columns))
    style: dict[str, Any] = {"frameon": False, "fontsize": TEXT, "labelcolor": INK, "handlelength": 1.4}
    figure.legend(handles, labels, loc="outside lower left", ncols=columns, columnspacing=1.4, borderpad=0, **style)


def line_figure(
    title: str, series: Mapping[str, Points], *, x_label: str = "step", from_zero: bool = True, last: bool = True
) -> Figure | None:
    """A figure of the series (x, y) of which some has more than one point; else None.

    Many points are averaged in groups. from_zero: y begins at 0 unless a value is below it.
    last: whether the legend shows the last values.
    """
    kept = {name: thinned(points) for name, points in series.items() if points}
    if not any(len(points) > 1 for points in kept.values()):
        return None
    figure, axes = new_axes(title, x_label)
    for name, points in kept.items():
        xs, ys = zip(*points, strict=True)
        add_line(axes, xs, ys, f"{name} {number(ys[-1])}" if last else name)
    if from_zero and all(y >= 0 for points in kept.values() for _, y in points):
        axes.set_ylim(bottom=0)
    add_legend(figure)
    return figure


def front_figure(x_label: str, y_label: str, points: Sequence[tuple[float, float, bool]]) -> Figure:
    """Points (x, y, on the Pareto front) of two quantities, the front joined."""
    figure, axes = new_axes(f"{y_label} against {x_label}", x_label, y_label)
    for on_front, form, color, label in ((False, "o", MUTED, "beaten"), (True, "o-", SERIES[0], "Pareto front")):
        if chosen := sorted((x, y) for x, y, front in points if front is on_front):
            axes.plot(*zip(*chosen, strict=True), form, markersize=5, color=color, label=label)
    add_legend(figure)
    axes.margins(0.1)
    return figure


def add_line(axes: Axes, xs: Sequence[float], ys: Sequence[float], label: str, *, thin: bool = False) -> None:
    """A line in the next colour, its points marked where they are few. thin: one of many, named by the pointer only."""
    if thin:
        axes.plot(xs, ys, color=MUTED, linewidth=0.8, alpha=0.4, label=f"_{label}")
        return
    if label.startswith("_"):  # a class may; matplotlib hides such labels
        label = f"\u200b{label}"
    number = sum(not str(line.get_label()).startswith("_") for line in axes.lines)
    marker = "o" if len(xs) <= MOST_MARKS else ""
    dashed = "--" if number >= len(SERIES) else "-"
    axes.plot(xs, ys, dashed, color=SERIES[number % len(SERIES)], marker=marker, markersize=4, label=label)


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: neighbours averaged in groups of one size, each at its last x."""
    size = math.ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def number(value: float) -> str:
    """A number for a legend: 3 digits, no needless zeros, thousands separated."""
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


# ---------------------------------------------------------------- out of matplotlib


def to_image(figure: Figure) -> Image.Image:
    """The figure as pixels, R G B."""
    canvas = FigureCanvasAgg(figure)
    figure.set(dpi=PNG_DPI, layout_engine="constrained")
    with _any_text(figure):
        canvas.draw()  # type: ignore[no-untyped-call]
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")  # type: ignore[no-untyped-call]


@contextmanager
def _any_text(figure: Figure) -> Iterator[None]:
    """Names are drawn as they are: a $ begins no formula, and a letter that the font lacks is no warning."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def save_figure(figure: Figure, path: Path) -> Image.Image:
    """Write a PNG, making its folder; returns the pixels."""
    image = to_image(figure)
    write_picture(path, image)
    return image


def to_charts(group: str, figures: Mapping[str, Figure | None]) -> list[Chart]:
    """The figures for a page, which uses them up; None is left out. group: of these charts on their page."""
    return [_to_chart(figure, f"{group}/{name}") for name, figure in figures.items() if figure is not None]


def _to_chart(figure: Figure, name: str) -> Chart:
    """Lines name themselves and their points to the pointer. No two charts of one page may have the same name."""
    axes = figure.axes[0]
    title = axes.get_title()
    by = f" by {axes.get_xlabel()}" if axes.get_xlabel() else ""
    summary = f"{title}{by}".replace("\n", " ") + "".join(_summary(line) for line in axes.lines)
    axes.set_title("")
    _set_margins(figure, axes)
    for index, line in enumerate(axes.lines):
        line.set_gid(f"line-{index}")
    for patch in (figure.patch, axes.patch):
        patch.set_visible(False)  # the page shows through
    stream = io.StringIO()
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}), _any_text(figure):
        FigureCanvasSVG(figure).print_svg(stream, metadata=empty)  # type: ignore[no-untyped-call]
    root = ElementTree.fromstring(stream.getvalue())
    _add_titles(root, axes)
    return Chart(title.replace("\n", " "), _inline(root, summary))


def _set_margins(figure: Figure, axes: Axes) -> None:
    """Make room for the labels and the legend by their letters: matplotlib's own layout doubles the time of a chart."""
    texts = [
        axis.get_major_formatter().format_ticks(axis.get_majorticklocs().tolist()) for axis in (axes.xaxis, axes.yaxis)
    ]
    widest_x, widest_y = (LETTER * max(map(len, each), default=0) for each in texts)
    left = 0.12 + widest_y + (LINE if axes.get_ylabel() else 0)
    bottom = 0.14 + LINE * (2 + axes.get_xlabel().count("\n")) + figure.get_figheight() - HEIGHT  # the legend
    top = 0.08 + (LINE if axes.yaxis.get_major_formatter().get_offset() else 0)
    size = figure.get_size_inches()
    corners = (left, bottom, size[0] - 0.08 - widest_x / 2, size[1] - top) / np.tile(size, 2)
    axes.set_position(Bbox.from_extents(*corners))


def _summary(line: Line2D) -> str:
    """Where a line of the legend begins and ends, in words."""
    name, (xs, ys) = str(line.get_label()), np.asarray(line.get_data(), float)
    if name.startswith("_"):
        return ""
    return f"; {name}: from {number(ys[0])} at {number(xs[0])} to {number(ys[-1])} at {number(xs[-1])}"


def _add_titles(root: ElementTree.Element, axes: Axes) -> None:
    groups = {group.get("id"): group for group in root.iter(f"{{{SVG}}}g")}
    for index, line in enumerate(axes.lines):
        group, name = groups[f"line-{index}"], str(line.get_label()).removeprefix("_")
        _title(group, name)
        points = np.asarray(line.get_data(), float).T
        for mark, (x, y) in zip(group.iter(f"{{{SVG}}}use"), points, strict=False):  # no marks: many points
            _title(mark, f"{name}: {number(y)} at {number(x)}")


def _title(element: ElementTree.Element, text: str) -> None:
    element.insert(0, title := ElementTree.Element(f"{{{SVG}}}title"))
    title.text = text


def _inline(root: ElementTree.Element, summary: str) -> Markup:
    """SVG for the middle of a page: without a size, ids of groups and style of its own; short numbers."""
    for element in list(root.iter()):
        for child in list(element):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                element.remove(child)
        if element.tag == f"{{{SVG}}}g":
            element.attrib.pop("id", None)
        if (link := element.attrib.pop("{http://www.w3.org/1999/xlink}href", None)) is not None:
            element.set("href", link)
        for name in {"d", "x", "y", "transform", "style"} & element.attrib.keys():
            element.set(name, _shorter(element.attrib[name]))
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.attrib |= {"class": "chart", "role": "img", "aria-label": summary}
    ElementTree.register_namespace("", SVG)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _shorter(text: str) -> str:
    """An attribute with tenths of a unit, the page's font and colours, and no line breaks."""
    text = re.sub(r"\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}", text)
    text = re.sub(r"font: ([\d.]+px) .*?sans-serif", r"font: \1 system-ui, sans-serif", text)
    for color, variable in CSS_VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return " ".join(text.split())
