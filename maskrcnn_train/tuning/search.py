"""A search as given on the command line: settings with one value, and settings to search."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from itertools import product, starmap
from typing import Any

from maskrcnn_train.settings.command_rules import metric_names
from maskrcnn_train.settings.command_schema import TuneConfig, training_of
from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import LATENCY, TrainConfig
from maskrcnn_train.tuning.space import (
    MOST_VALUES,
    Choice,
    Dimension,
    Numbers,
    Value,
    divided,
    override_of,
    read_dimension,
)

OF_THE_SEARCH = tuple({each.name for each in fields(TuneConfig)} - {each.name for each in fields(TrainConfig)})
NOT_VARIED = (*OF_THE_SEARCH, "output_dir", "resume", "replay")
MASK_HEAD = ("mask_head", "mask_head.name")  # a search over them has trials without masks
Rules = Callable[[TuneConfig], list[str]]


def is_score(metric: str) -> bool:
    """Whether a metric is a fraction, and the larger the better; else it is a loss or LATENCY."""
    return metric.startswith(("bbox/", "segm/"))


@dataclass
class Search:
    """config: the settings without those searched. given: all overrides. fixed: those with one value.

    space: the settings searched.
    """

    config: TuneConfig
    given: list[str]
    fixed: list[str]
    space: list[Dimension]
    config_dir: str | None
    check_rules: Rules

    @property
    def metrics(self) -> list[str]:
        """What is made better: keys of the metrics of all trainings, and LATENCY."""
        boxes_only = not self.config.mask_head.enabled or self.varies_masks
        return metric_names(self.config.metric) or ["bbox/AP" if boxes_only else "segm/AP"]

    @property
    def metric(self) -> str:
        """The first metric; the trials are sorted by it."""
        return self.metrics[0]

    @property
    def varies_masks(self) -> bool:
        """Whether some trials may have no masks."""
        return any(each.key in MASK_HEAD for each in self.space)

    def first_values(self) -> dict[str, Value]:
        """The values of the first trial, by key: where possible, those of a training without a search."""
        choices = {each.key: each.options[0] for each in self.space if isinstance(each, Choice)}
        # numbers follow the chosen groups: the learning rate is that of the chosen optimizer
        chosen, _ = self.compose([override_of(key, value) for key, value in choices.items()])
        numbers = {e.key: e.first(_current(chosen, e.key)) for e in self.space if isinstance(e, Numbers)}
        return {each.key: (choices | numbers)[each.key] for each in self.space}

    def combinations(self) -> list[dict[str, Value]]:
        """All combinations of values; empty if there are too many to list."""
        values = {each.key: each.values or [] for each in self.space}
        if math.prod(map(len, values.values())) > MOST_VALUES:
            return []
        return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]

    def training(self, varied: Sequence[str]) -> TrainConfig:
        """The settings of one trial. Raises UserError for values that contradict each other."""
        config, _ = self.compose(varied)
        self.check_rules(config)
        training = training_of(config)
        timed = training.evaluation.latency or LATENCY in self.metrics
        return replace(training, evaluation=replace(training.evaluation, latency=timed))

    def compose(self, varied: Sequence[str]) -> tuple[TuneConfig, list[str]]:
        """The settings with the given values, and warnings. Rules between settings are not checked, only values."""
        given = [*self.fixed, *varied]
        return load_command_config("tune", TuneConfig, lambda _: [], given, self.config_dir)


def load_search(
    name: str, schema: type[TuneConfig], check_rules: Rules, overrides: list[str], config_dir: str | None
) -> tuple[Search, list[str]]:
    """Compose and check a search; returns it and warnings. Raises UserError.

    Every value of a choice and both ends of a range are checked before anything runs.
    """
    fixed, varied = divided(overrides)
    config, warnings = load_command_config(name, schema, check_rules, fixed, config_dir)
    space = [_in_whole_numbers(read_dimension(text), config) for text in [*config.space, *varied]]
    _check_keys(space, fixed)
    search = Search(config, overrides, fixed, space, config_dir, check_rules)
    for metric in search.metrics:
        if metric.startswith("segm/") and search.varies_masks:
            raise UserError(f"metric={metric} needs masks, which not all trials have; use metric=bbox/AP")
    if config.sampler == "grid" and not search.combinations():
        raise UserError(f"sampler=grid needs settings with at most {MOST_VALUES} combinations; write A,B or range(...)")
    first = search.first_values()
    for key, value in ((each.key, value) for each in space for value in each.ends):
        composed, notes = search.compose(list(starmap(override_of, (first | {key: value}).items())))
        warnings += [note for note in notes if note not in warnings]
        try:
            check_rules(composed)
        except UserError as error:  # a rule between settings, which may hold with other values
            warnings.append(f"some trials with {override_of(key, value)} will fail: {error}")
    return search, warnings


def _in_whole_numbers(dimension: Dimension, config: TuneConfig) -> Dimension:
    """Restrict the interval of an integer setting to whole numbers."""
    if not isinstance(dimension, Numbers) or dimension.whole or type(_current(config, dimension.key)) is not int:
        return dimension
    if dimension.low % 1 or dimension.high % 1 or (dimension.step or 0) % 1:
        raise UserError(f"{dimension.key} takes whole numbers; write int(interval(LOW,HIGH)) with whole ends")
    return replace(dimension, whole=True)


def _check_keys(space: Sequence[Dimension], fixed: Sequence[str]) -> None:
    if not space:
        raise UserError("no setting has several values; give some, e.g. optimizer.lr='tag(log,interval(1e-3,1e-1))'")
    given = {text.split("=", 1)[0] for text in fixed}
    for key in (each.key for each in space):
        if key in NOT_VARIED:
            raise UserError(f"{key} cannot be searched; give it one value")
        if key in given:
            raise UserError(f"{key} is given twice; keep one of them")
        given.add(key)


def _current(config: Any, key: str) -> Any:
    """The value of a dotted key; None for a config group, which has no value."""
    return reduce(lambda section, name: getattr(section, name, None), key.split("."), config)
