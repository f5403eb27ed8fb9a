"""The tables and pictures of docs/knobs.md, from what `benchmarks/advice.py` wrote into docs/knobs/*.csv.

What stands between the tables is left as it is; the first time there is an outline.

python benchmarks/knobs_page.py
"""

from __future__ import annotations

import argparse
import csv
import re
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from matplotlib.figure import Figure

from maskrcnn_train import load_config
from maskrcnn_train.files import write_text
from maskrcnn_train.reporting.drawing.figures import MUTED, SERIES, add_legend, new_axes, save_figure
from maskrcnn_train.reporting.pages.ranking import mean_and_half

SEPARATOR = " / "  # of the values of several keys
PICTURES = "pictures/knobs"  # beside the page
MARKED = r"(<!-- {name} -->\n).*?(<!-- end -->)"
SCORES = {"bbox/AP": "box AP", "segm/AP": "mask AP", "segm/AP of one half": "mask AP"}
TIMES = {"milliseconds": "ms an image"}  # seconds of a training depend on what else the machine did


@dataclass
class Measured:
    """One table of results. keys: of the knob. rows: by value and seed; values as they are shown."""

    name: str
    keys: list[str]
    rows: dict[str, dict[int, dict[str, float]]]

    @property
    def columns(self) -> list[str]:
        return list(next(iter(next(iter(self.rows.values())).values())))

    @property
    def trained(self) -> str:
        """The value that the other knobs' sweeps have: the guide's."""
        config = load_config(["experiment=advice/_base"])
        return _shown([str(reduce(getattr, key.split("."), config)) for key in self.keys])

    def column(self, value: str, name: str) -> list[float]:
        return [numbers[name] for numbers in self.rows[value].values()]

    def differences(self, value: str, name: str) -> list[float]:
        """From the trained value, seed by seed."""
        trained = self.rows.get(self.trained, {})
        return [numbers[name] - trained[seed][name] for seed, numbers in self.rows[value].items() if seed in trained]


def _shown(values: list[str]) -> str:
    return SEPARATOR.join(values)


def read(path: Path) -> Measured:
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    names = list(lines[0])
    keys = names[: names.index("seed")]
    rows: dict[str, dict[int, dict[str, float]]] = {}
    for line in lines:
        numbers = {name: float(line[name]) for name in names if name in SCORES or name in TIMES}
        rows.setdefault(_shown([line[key] for key in keys]), {})[int(line["seed"])] = numbers
    return Measured(path.stem, keys, dict(sorted(rows.items(), key=_order)))


def _order(row: tuple[str, object]) -> list[tuple[float, str]]:
    """Numbers by size, words by letter."""
    values = row[0].split(SEPARATOR)
    return [(float(value), "") if re.fullmatch(r"[\d.]+", value) else (0.0, value) for value in values]


def table(measured: Measured) -> str:
    """Markdown: a line a value, means over seeds with 95 % intervals, AP times 100."""
    data = measured.name.rpartition("_")[2]
    scores = [name for name in measured.columns if name in SCORES]
    times = [name for name in measured.columns if name in TIMES]
    head = [f"{data}: " + " / ".join(f"`{key}`" for key in measured.keys)]
    head += [SCORES[name] for name in scores] + [f"{SCORES[scores[-1]]}, difference", *(TIMES[name] for name in times)]
    lines = [head, ["---"] * len(head)]
    for value in measured.rows:
        label = f"**{value}**" if value == measured.trained else value
        cells = [_with_interval(measured.column(value, name), "") for name in scores]
        cells += ["" if value == measured.trained else _with_interval(measured.differences(value, scores[-1]), "+")]
        cells += [f"{statistics.median(measured.column(value, name)):.1f}" for name in times]
        lines.append([label, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _with_interval(values: list[float], sign: str) -> str:
    """Times 100."""
    if not values:
        return ""
    text = f"{100 * statistics.mean(values):{sign}.1f}"
    if len(values) < 2:
        return text
    mean, half = mean_and_half(values)
    return f"{text} ({100 * (mean - half):{sign}.1f} to {100 * (mean + half):{sign}.1f})"


def picture(measured: Measured) -> Figure:
    """Every run as a dot, means with 95 % intervals; the trained value has a grey band."""
    data = measured.name.rpartition("_")[2]
    figure, axes = new_axes(f"AP x 100 on {data}", ", ".join(measured.keys))
    values = list(measured.rows)
    scores = [name for name in measured.columns if name in SCORES]
    for number, name in enumerate(scores):
        places = [place + 0.16 * (number - (len(scores) - 1) / 2) for place in range(len(values))]
        for place, value in zip(places, values, strict=True):
            runs = [100 * each for each in measured.column(value, name)]
            axes.plot([place + 0.06] * len(runs), runs, ".", color=SERIES[number], alpha=0.4, label="_run")
        means = [100 * statistics.mean(measured.column(value, name)) for value in values]
        halves = [_half(measured.column(value, name)) for value in values]
        style = {"color": SERIES[number], "markersize": 5, "linewidth": 1.4, "capsize": 2}
        axes.errorbar(places, means, yerr=halves, fmt="o", label=SCORES[name], **style)  # type: ignore[arg-type]
    if measured.trained in values:
        place = values.index(measured.trained)
        axes.axvspan(place - 0.4, place + 0.4, color=MUTED, alpha=0.12, linewidth=0, label="as in the other sweeps")
    axes.set_xticks(range(len(values)), [value.replace(SEPARATOR, "\n") for value in values])
    add_legend(figure)
    return figure


def _half(values: list[float]) -> float:
    return 100 * mean_and_half(values)[1] if len(values) > 1 else 0.0


def with_tables(page: str, tables: Mapping[str, str]) -> str:
    """The page with each table between its marks: <!-- NAME --> and <!-- end -->."""
    for name, text in tables.items():
        page, count = re.subn(MARKED.format(name=name), rf"\1{text}\2", page, flags=re.DOTALL)
        assert count == 1, f"no place for {name}: <!-- {name} --> and <!-- end -->"
    return page


def outline(names: Iterable[str]) -> str:
    """A page with a place for each table below its picture, to be written on."""
    places = (f"## {name}\n\n![]({PICTURES}/{name}.png)\n\n<!-- {name} -->\n<!-- end -->\n" for name in names)
    return "# What the guide's advice is worth\n\n" + "\n".join(places)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    docs = parser.parse_args().docs
    found = [read(path) for path in sorted((docs / "knobs").glob("*.csv"))]
    for each in found:
        save_figure(picture(each), docs / PICTURES / f"{each.name}.png")
    page = docs / "knobs.md"
    text = page.read_text() if page.exists() else outline(each.name for each in found)
    write_text(page, with_tables(text, {each.name: table(each) for each in found}))


if __name__ == "__main__":
    main()
