"""Line charts as plain geometry: a page's template turns them into inline SVG."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 440, 250  # viewBox units: near the pixels on a phone, so that 12-unit text stays readable
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
MOST_POINTS = 300
Points = Sequence[tuple[float, float]]


@dataclass
class Line:
    """One curve: its SVG path, its marks (x, y, tooltip) where it has few points, and its last value in words.

    thin: one of many, in grey and without a place in the legend.
    """

    name: str
    path: str
    marks: list[tuple[float, float, str]]
    last: str
    thin: bool = False


@dataclass
class Chart:
    """A chart in viewBox units. x_ticks, y_ticks: (place, text). summary: the alternative text. show_last: whether a
    line's last value says something. thin_note: what the lines in grey are."""

    title: str
    x_label: str
    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    summary: str
    show_last: bool = True
    thin_note: str = ""
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM

    @property
    def has_course(self) -> bool:
        """Whether any of its lines has more than one point."""
        return any("L" in line.path for line in self.lines)


def line_chart(
    title: str,
    series: Mapping[str, Points],
    *,
    x_label: str = "step",
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    from_zero: bool = True,
    thin: Collection[str] = (),
    thin_note: str = "",
) -> Chart | None:
    """A chart of the series that have points, as (x, y); None if none has. Many points are averaged in groups.

    x_range, y_range: where the axes begin and end; by default as the points do, y from 0 with from_zero. thin: names of
    series that stay in the background, thin_note: what they are.
    """
    kept = {name: thinned(points) for name, points in series.items() if points}
    if not kept:
        return None
    xs = [x for points in kept.values() for x, _ in points]
    ys = [y for points in kept.values() for _, y in points]
    x_low, x_high = x_range or (min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1)
    x_ticks, y_ticks = (
        nice_ticks(x_low, x_high),
        nice_ticks(*(y_range or (min(0.0, *ys) if from_zero else min(ys), max(ys)))),
    )
    y_low, y_high = y_range or (min(y_ticks[0], *ys), max(y_ticks[-1], *ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - (y - y_low) / ((y_high - y_low) or 1) * (HEIGHT - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    return Chart(
        title=title,
        x_label=x_label,
        lines=[_line(name, points, [place(x, y) for x, y in points], name in thin) for name, points in kept.items()],
        x_ticks=[(place(tick, y_low)[0], number(tick)) for tick in x_ticks if x_low <= tick <= x_high],
        y_ticks=[(place(x_low, tick)[1], number(tick)) for tick in y_ticks],
        summary=f"{title} by {x_label}: "
        + "; ".join(_course(name, points) for name, points in kept.items() if name not in thin),
        show_last=x_range is None,
        thin_note=thin_note if any(name in thin for name in kept) else "",
    )


def _line(name: str, points: Points, places: Points, thin: bool) -> Line:
    path = "M" + " L".join(f"{x:g} {y:g}" for x, y in places)
    marks = [
        (x, y, f"{name}: {number(point[1])} at {number(point[0])}")
        for point, (x, y) in zip(points, places, strict=True)
    ]
    shown = [] if thin else marks if len(marks) <= 40 else marks[-1:]
    return Line(name=name, path=path, marks=shown, last=number(points[-1][1]), thin=thin)


def _course(name: str, points: Points) -> str:
    (x0, y0), (x1, y1) = points[0], points[-1]
    return f"{name} from {number(y0)} at {number(x0)} to {number(y1)} at {number(x1)}"


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most `most` points: neighbours averaged in groups of one size, each at its last x."""
    size = math.ceil(len(points) / most)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover low..high: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        high = low + (abs(low) or 1)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def number(value: float) -> str:
    """A number for an axis or a legend: 3 digits, no needless zeros, thousands separated."""
    if value == int(value) and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
