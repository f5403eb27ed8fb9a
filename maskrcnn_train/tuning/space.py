"""The search space: settings with several values, in Hydra's grammar, which the help of `tune` shows.

This module imports neither torch nor Optuna.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from maskrcnn_train.settings.errors import UserError

if TYPE_CHECKING:
    from optuna import Trial

Value = str | int | float
MOST_VALUES = 10_000


@dataclass(frozen=True)
class Choice:
    """One of several values, each as an override writes it."""

    key: str
    options: list[str]

    @property
    def values(self) -> list[Value]:
        return list(self.options)

    ends = values

    def suggest(self, trial: Trial) -> Value:
        return str(trial.suggest_categorical(self.key, self.options))


@dataclass(frozen=True)
class Numbers:
    """A number from low to high, both included. log: on a log scale. step: distance between neighbours."""

    key: str
    low: float
    high: float
    step: float | None = None
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> list[Value]:
        """Values to check before the search starts."""
        return [self.low, self.high]

    @property
    def values(self) -> list[Value] | None:
        """All values; None if there are too many to list."""
        step = 1 if self.whole and self.step is None else self.step
        if step is None or (self.high - self.low) / step > MOST_VALUES:
            return None
        numbers = [_rounded(self.low + index * step) for index in range(round((self.high - self.low) / step) + 1)]
        return [int(number) for number in numbers] if self.whole else list(numbers)

    def first(self, current: Any) -> Value:
        """The value of the first trial: the setting's own value, or the middle if that is outside the range."""
        number = isinstance(current, (int, float)) and not isinstance(current, bool)
        steps = (current - self.low) / self.step if number and self.step else 0.0
        if number and self.low <= current <= self.high and math.isclose(steps, round(steps), abs_tol=1e-6):
            return int(current) if self.whole else float(current)
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        if self.step is not None:
            middle = _rounded(self.low + round((middle - self.low) / self.step) * self.step)
        return round(middle) if self.whole else middle

    def suggest(self, trial: Trial) -> Value:
        if self.whole:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)


Dimension = Choice | Numbers


def override_of(key: str, value: Value) -> str:
    """KEY=VALUE; floats with six digits."""
    return f"{key}={value:.6g}" if isinstance(value, float) else f"{key}={value}"


def divided(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides with one value, and those with several. One that cannot be parsed counts as one value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parts: dict[bool, list[str]] = {False: [], True: []}
    for text in overrides:
        varies = False
        with suppress(HydraException):  # composing reports what is wrong with it
            varies = OverridesParser.create().parse_override(text).is_sweep_override()
        parts[varies].append(text)
    return parts[False], parts[True]


def read_dimension(text: str) -> Dimension:
    """One setting with several values. Raises UserError with what to write instead."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(f"'{text}' is not an override: {' '.join(str(error).split())}") from None
    if override.is_add() or override.is_delete():
        raise UserError(f"'{text}' adds or removes a key; a search varies the value of one that is there: KEY=A,B")
    key, sweep = override.key_or_group, override.value()
    if isinstance(sweep, ChoiceSweep):
        options = list(dict.fromkeys(override.sweep_string_iterator()))
        if len(options) < 2:
            raise UserError(f"{text} has one value only; give two or more, or drop it from the search")
        return Choice(key, options)
    if isinstance(sweep, RangeSweep) and sweep.start is not None and sweep.stop is not None:
        return _from_range(text, key, sweep.start, sweep.stop, sweep.step)
    if isinstance(sweep, IntervalSweep) and sweep.start is not None and sweep.end is not None:
        return _from_interval(text, key, sweep.start, sweep.end, sweep.tags)
    raise UserError(f"{text} cannot be searched; write A,B,... or range(...), interval(...), tag(log,interval(...))")


def _rounded(number: float) -> float:
    """0.3 for 0.1 + 2 * 0.1, as Optuna rounds: another number would be none of the range's."""
    return float(f"{number:.12g}")


def _from_range(text: str, key: str, start: float, stop: float, step: float) -> Numbers:
    """Like Python's range: the end is excluded."""
    count = math.ceil((stop - start) / step - 1e-9) if step else 0
    if count < 2 or step < 0:
        raise UserError(f"{text} has fewer than two rising values; write range(LOW,HIGH,S), HIGH not included")
    whole = all(isinstance(number, int) for number in (start, stop, step))
    last = start + (count - 1) * step
    return Numbers(key, start, last if whole else _rounded(last), step=step, whole=whole)


def _from_interval(text: str, key: str, low: float, high: float, tags: set[str]) -> Numbers:
    if unknown := tags - {"log", "int"}:
        raise UserError(f"{text} has the tag {min(unknown)}; the tags of a search are log and int")
    if not low < high:
        raise UserError(f"{text} is empty; the first number must be below the second")
    if "log" in tags and low <= 0:
        raise UserError(f"{text} has no powers of ten down to {low:g}; begin above 0")
    whole = "int" in tags or (isinstance(low, int) and isinstance(high, int))
    if whole and (low % 1 or high % 1):
        raise UserError(f"{text} is for whole numbers and does not begin and end with one")
    return Numbers(key, low, high, log="log" in tags, whole=whole)
