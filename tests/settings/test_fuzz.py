"""Random settings, drawn from the schema itself: each is refused in one line, or trains, detects and comes back.

A new key is drawn without a line here. More draws, of any seed, each reproducible:

    FUZZ_DRAWS=2000 .venv/bin/python -m pytest -m slow tests/settings/test_fuzz.py --hypothesis-seed=7
"""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import types
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from tiny import TINY

from maskrcnn_train import load_checkpoint, load_config, predict, train
from maskrcnn_train.settings.compose import config_from_plain, default_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import override_value, overrides_of
from maskrcnn_train.settings.presets import groups
from maskrcnn_train.settings.schema import TrainConfig

SMALLEST = [*TINY, "data.shapes.num_train=4", "trainer.batch_size=2", "trainer.max_steps=2"]
SMALLEST += ["evaluation.bootstrap=0", "roi_head.conv_dim=16", "roi_head.fc_dim=16", "mask_head.conv_dim=16"]
LARGEST = 72  # of numbers without an upper end: sizes must fit the memory of any machine
NOT_DRAWN = {
    "data.name", "data.root", "data.exclude", "weights.source", "weights.path",  # need files
    "resume", "replay", "output_dir",
    "trainer.compile", "trainer.num_workers", "trainer.profile", "trainer.max_minutes",  # cost seconds a draw
    "trainer.max_steps", "trainer.device",  # two steps on the processor
}  # fmt: skip
NOT_DRAWN_GROUPS = {"experiment", "data", "weights", "backbone"}  # other data, files, or large networks


def leaves(schema: Any, prefix: str = "") -> dict[str, tuple[Any, dict[str, Any]]]:
    """Type and rule of every setting by its dotted key."""
    hints, found = get_type_hints(schema), {}
    for item in fields(schema):
        assert item.default is MISSING, item.name
        if is_dataclass(hints[item.name]):
            found |= leaves(hints[item.name], f"{prefix}{item.name}.")
        else:
            found[prefix + item.name] = (hints[item.name], dict(item.metadata))
    return found


def values(kind: Any, rule: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values of a type, mostly inside the range of its rule, sometimes at its ends or outside."""
    if rule.get("options"):
        return st.sampled_from(rule["options"])
    if get_origin(kind) in (Union, types.UnionType):
        return st.one_of(*(st.none() if each is type(None) else values(each, rule) for each in get_args(kind)))
    if get_origin(kind) is list:
        return st.lists(values(get_args(kind)[0], rule), max_size=5)
    if kind is bool:
        return st.booleans()
    low, high = rule.get("low", rule.get("above", 0)), rule.get("high")
    if kind is int:
        return st.integers(int(low) - 1, int(high) if high is not None else LARGEST)
    if kind is float:
        inside = st.floats(low, high if high is not None else 10.0)
        return st.one_of(inside, inside, st.sampled_from([low, high or 1.0, 1e-12, 1e200, math.inf, math.nan]))
    if get_origin(kind) is dict:
        return st.none()
    return st.sampled_from(["", "x", "a b", "ä='", "auto"])


LEAVES = {key: each for key, each in leaves(TrainConfig).items() if key not in NOT_DRAWN}
PRESETS = {group: options for group, options in groups().items() if group not in NOT_DRAWN_GROUPS}


@st.composite
def draws(draw: st.DrawFn) -> list[str]:
    """Overrides: up to two presets and up to six single settings."""
    presets = draw(st.lists(st.sampled_from(sorted(PRESETS)), max_size=2, unique=True))
    keys = draw(st.lists(st.sampled_from(sorted(LEAVES)), min_size=1, max_size=6, unique=True))
    return [f"{group}={draw(st.sampled_from(PRESETS[group]))}" for group in presets if group in TRAIN_GROUPS] + [
        f"{key}={override_value(draw(values(*LEAVES[key])))}" for key in keys
    ]


TRAIN_GROUPS = {group for group in PRESETS if group.split("/")[0] in TrainConfig.__dataclass_fields__}


def in_one_line(refusal: UserError) -> str:
    assert "\n" not in str(refusal)
    return str(refusal)


def lives_through(overrides: list[str], folder: Path, data: str) -> str:
    """What became of settings: refused, diverged, or trained. Anything else raises."""
    try:
        config = load_config([*SMALLEST, data, *overrides, f"output_dir={folder / 'run'}"])
    except UserError as refusal:
        return f"refused: {in_one_line(refusal)}"
    assert config_from_plain(asdict(config)) == config
    assert load_config([*overrides_of(config, default_config()), f"output_dir={folder / 'run'}"]) == config
    try:
        metrics = train(config).metrics
    except UserError as refusal:
        return f"{type(refusal).__name__}: {in_one_line(refusal)}"
    assert all(math.isfinite(value) for value in metrics.values())
    predictor = load_checkpoint(folder / "run/checkpoints/last.pt")
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    (found,) = predict(predictor, [image], score_threshold=0.0)
    assert math.isfinite(float(found.boxes.sum()))
    return "trained"


def check(overrides: list[str], data: str) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        event(lives_through(overrides, folder, data).split(":")[0])
    finally:
        shutil.rmtree(folder)


ANYHOW = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "print_blob": False}


@settings(max_examples=12, derandomize=True, **ANYHOW)
@given(overrides=draws())
def test_random_settings_are_refused_in_one_line_or_train(overrides: list[str], shapes: str) -> None:
    check(overrides, shapes)


@pytest.mark.slow
@settings(max_examples=int(os.environ.get("FUZZ_DRAWS", "300")), **ANYHOW)
@given(overrides=draws())
def test_many_random_settings_are_refused_in_one_line_or_train(overrides: list[str], shapes: str) -> None:
    check(overrides, shapes)
