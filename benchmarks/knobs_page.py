"""The tables and pictures of docs/knobs.md, from what `benchmarks/advice.py` wrote into docs/knobs/*.csv.

What stands between the tables is left as it is; the first time there is an outline.

Trainings with the same settings differ by chance alone, and about as much whatever the settings: their standard
deviation is taken over all of them together, which a few seeds of one value would give badly. A seed means nothing for
other settings, so trainings are not paired by it. Budgets at test time are: there one model is scored again and again.

python benchmarks/knobs_page.py
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
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
NORMAL = statistics.NormalDist().inv_cdf(0.975)
Estimate = tuple[float, float]  # and half of its 95 % interval
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
    def data(self) -> str:
        return self.name.rpartition("_")[2]

    @property
    def is_paired(self) -> bool:
        """Whether the rows of one seed are of one model."""
        return any(name in TIMES for name in self.columns)

    @cached_property
    def trained(self) -> str:
        """The value that the other knobs' sweeps have: the guide's."""
        config = load_config(["experiment=advice/_base"])
        return _shown([str(reduce(getattr, key.split("."), config)) for key in self.keys])

    def column(self, value: str, name: str) -> list[float]:
        return [numbers[name] for numbers in self.rows[value].values()]

    def mean(self, value: str, name: str, spread: float) -> Estimate:
        runs = self.column(value, name)
        if self.is_paired:
            return _estimate(runs)
        return statistics.mean(runs), spread / math.sqrt(len(runs))

    def difference(self, value: str, name: str, spread: float) -> Estimate | None:
        """From the trained value; None for itself, and where it was not trained."""
        trained = self.rows.get(self.trained, {})
        if value == self.trained or not trained:
            return None
        if self.is_paired:
            return _estimate([numbers[name] - trained[seed][name] for seed, numbers in self.rows[value].items()])
        means = [statistics.mean(self.column(each, name)) for each in (value, self.trained)]
        return means[0] - means[1], spread * math.sqrt(1 / len(self.rows[value]) + 1 / len(trained))


def _estimate(values: list[float]) -> Estimate:
    return mean_and_half(values) if len(values) > 1 else (values[0], 0.0)


def spreads(tables: Sequence[Measured]) -> dict[str, float]:
    """Half of the 95 % interval of one training, by score: Student's t times the deviation by chance; 0 if unknown."""
    found = {}
    for name in SCORES:
        own = [each for each in tables if name in each.columns and not each.is_paired]
        groups = {tuple(each.column(value, name)) for each in own for value in each.rows}
        freedom = sum(len(runs) - 1 for runs in groups)
        squares = sum((len(runs) - 1) * statistics.variance(runs) for runs in groups if len(runs) > 1)
        t = NORMAL + (NORMAL**3 + NORMAL) / (4 * max(freedom, 1))  # right to 1 % from 10 degrees of freedom
        found[name] = t * math.sqrt(squares / max(freedom, 1))
    return found


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


def table(measured: Measured, spread: Mapping[str, float]) -> str:
    """Markdown: a line a value, means over seeds with 95 % intervals, AP times 100. spread: of `spreads`."""
    scores = [name for name in measured.columns if name in SCORES]
    times = [name for name in measured.columns if name in TIMES]
    head = [f"{measured.data}: " + " / ".join(f"`{key}`" for key in measured.keys)]
    head += [SCORES[name] for name in scores] + [f"{SCORES[scores[-1]]}, difference", *(TIMES[name] for name in times)]
    lines = [head, ["---"] * len(head)]
    for value in measured.rows:
        label = f"**{value}**" if value == measured.trained else value
        cells = [_with_interval(measured.mean(value, name, spread[name]), "") for name in scores]
        cells += [_with_interval(measured.difference(value, scores[-1], spread[scores[-1]]), "+")]
        cells += [f"{statistics.median(measured.column(value, name)):.1f}" for name in times]
        lines.append([label, *cells])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _with_interval(estimate: Estimate | None, sign: str) -> str:
    """Times 100."""
    if estimate is None:
        return ""
    mean, half = estimate
    text = f"{100 * mean:{sign}.1f}"
    return text if not half else f"{text} ({100 * (mean - half):{sign}.1f} to {100 * (mean + half):{sign}.1f})"


def picture(measured: Measured, spread: Mapping[str, float]) -> Figure:
    """Every run as a dot, means with 95 % intervals; the trained value has a grey band."""
    figure, axes = new_axes(f"AP x 100 on {measured.data}", ", ".join(measured.keys))
    values = list(measured.rows)
    scores = [name for name in measured.columns if name in SCORES]
    for number, name in enumerate(scores):
        places = [place + 0.16 * (number - (len(scores) - 1) / 2) for place in range(len(values))]
        for place, value in zip(places, values, strict=True):
            runs = [100 * each for each in measured.column(value, name)]
            axes.plot([place + 0.06] * len(runs), runs, ".", color=SERIES[number], alpha=0.4, label="_run")
        estimates = [measured.mean(value, name, spread[name]) for value in values]
        means, halves = ([100 * each[part] for each in estimates] for part in (0, 1))
        style = {"color": SERIES[number], "markersize": 5, "linewidth": 1.4, "capsize": 2}
        axes.errorbar(places, means, yerr=halves, fmt="o", label=SCORES[name], **style)  # type: ignore[arg-type]
    if measured.trained in values:
        place = values.index(measured.trained)
        axes.axvspan(place - 0.4, place + 0.4, color=MUTED, alpha=0.12, linewidth=0, label="as in the other sweeps")
    axes.set_xticks(range(len(values)), [value.replace(SEPARATOR, "\n") for value in values])
    add_legend(figure)
    return figure


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
    spread = {data: spreads([each for each in found if each.data == data]) for data in {each.data for each in found}}
    for data, halves in spread.items():
        print(f"{data}: one training is within {100 * halves['segm/AP']:.1f} points of its mean mask AP, at 95 %")
    for each in found:
        save_figure(picture(each, spread[each.data]), docs / PICTURES / f"{each.name}.png")
    page = docs / "knobs.md"
    text = page.read_text() if page.exists() else outline(each.name for each in found)
    write_text(page, with_tables(text, {each.name: table(each, spread[each.data]) for each in found}))


if __name__ == "__main__":
    main()
