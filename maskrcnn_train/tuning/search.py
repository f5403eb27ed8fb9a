"""A search as the command line describes it: settings that are fixed, and settings that vary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from typing import Any

from maskrcnn_train.command_config import TuneConfig
from maskrcnn_train.composing import load_command_config
from maskrcnn_train.config import TrainConfig
from maskrcnn_train.tuning.space import Dimension, Value, divided, override_of, read_dimension

OF_THE_SEARCH = tuple({field.name for field in fields(TuneConfig)} - {field.name for field in fields(TrainConfig)})
NOT_VARIED = (*OF_THE_SEARCH, "output_dir", "resume", "replay")
Rules = Callable[[TuneConfig], list[str]]


@dataclass
class Search:
    """config: the settings where nothing varies. fixed: overrides with one value. space: what varies."""

    config: TuneConfig
    fixed: list[str]
    space: list[Dimension]
    config_dir: str | None
    check_rules: Rules

    @property
    def metric(self) -> str:
        """A key of a training's metrics."""
        main = "bbox/AP" if self.config.mask_head.name == "none" else "segm/AP"
        return self.config.metric or main

    @property
    def maximizes(self) -> bool:
        return not self.metric.startswith("val_loss/")

    def first_values(self) -> dict[str, Value]:
        """Of the first trial, by key: what the person would have without a search, as far as that can be said."""
        return {each.key: each.first(_current(self.config, each.key)) for each in self.space}

    def training(self, varied: Sequence[str]) -> TrainConfig:
        """The settings of one trial. Raises ValueError where its values do not go together."""
        overrides = [*self.fixed, *varied]
        config, _ = load_command_config("tune", TuneConfig, self.check_rules, overrides, self.config_dir)
        return TrainConfig(**{field.name: getattr(config, field.name) for field in fields(TrainConfig)})


def load_search(
    name: str, schema: type[TuneConfig], check_rules: Rules, overrides: list[str], config_dir: str | None
) -> tuple[Search, list[str]]:
    """Compose and check a search; returns it and warnings. Raises ValueError with one line.

    Every value that a choice names, and both ends of a range, are tried on the settings before anything runs.
    """
    fixed, varied = divided(overrides)
    config, warnings = load_command_config(name, schema, check_rules, fixed, config_dir)
    space = [read_dimension(text) for text in [*config.space, *varied]]
    _check_keys(space, fixed)
    search = Search(config, fixed, space, config_dir, check_rules)
    first = [override_of(key, value) for key, value in search.first_values().items()]
    for each in space:
        for value in each.ends:
            tried = override_of(each.key, value)
            load_command_config(name, schema, lambda _: [], [*fixed, *first, tried], config_dir)
            try:
                search.training([*first, tried])
            except ValueError as error:  # a rule between settings, which other values of the others may keep
                warnings.append(f"some trials with {tried} will fail: {error}")
    return search, warnings


def _check_keys(space: Sequence[Dimension], fixed: Sequence[str]) -> None:
    if not space:
        raise ValueError(
            "nothing varies; give settings several values, e.g. optimizer.lr='tag(log,interval(1e-3,1e-1))' "
            "backbone=resnet50,resnet101"
        )
    given = {text.split("=", 1)[0] for text in fixed}
    seen: set[str] = set()
    for key in (each.key for each in space):
        if key in NOT_VARIED:
            raise ValueError(f"{key} cannot vary in a search; give it one value")
        if key in given or key in seen:
            raise ValueError(f"{key} is given twice; keep one of them")
        seen.add(key)


def _current(config: Any, key: str) -> Any:
    """The value of a dotted key; None for a group, which has none."""
    return reduce(lambda section, name: getattr(section, name, None), key.split("."), config)
