"""The learning rate over a training."""

from __future__ import annotations

import pytest

from maskrcnn_train.engine.schedule import lr_factor
from maskrcnn_train.settings.compose import load_config
from maskrcnn_train.settings.presets import groups
from maskrcnn_train.settings.schema import ScheduleConfig


def section(*overrides: str) -> ScheduleConfig:
    return load_config([*overrides]).schedule


def test_warmup_rises_linearly_from_its_factor() -> None:
    schedule = section("schedule=constant", "schedule.warmup_steps=100", "schedule.warmup_factor=0.1")
    assert lr_factor(schedule, step=0, progress=0.0) == pytest.approx(0.1 + 0.9 / 100)
    assert lr_factor(schedule, step=49, progress=0.001) == pytest.approx(0.55)
    assert lr_factor(schedule, step=100, progress=0.002) == 1.0


def test_warmup_never_takes_more_than_a_tenth_of_the_training() -> None:
    schedule = section("schedule=constant", "schedule.warmup_steps=1000")
    assert lr_factor(schedule, step=10, progress=0.1) == 1.0


@pytest.mark.parametrize("name", groups()["schedule"])
def test_every_schedule_keeps_the_factor_between_0_and_1(name: str) -> None:
    schedule = section(f"schedule={name}")
    assert all(0 <= lr_factor(schedule, step=1000, progress=share / 10) <= 1 for share in range(11))


def test_multistep_falls_at_its_milestones() -> None:
    schedule = section("schedule=multistep", "schedule.warmup_steps=0")
    factors = [lr_factor(schedule, step=0, progress=progress) for progress in (0.5, 0.7, 0.95)]
    assert factors == pytest.approx([1.0, 0.1, 0.01])


def test_cosine_ends_at_its_final_factor() -> None:
    schedule = section("schedule=cosine", "schedule.warmup_steps=0", "schedule.final_factor=0.1")
    factors = [lr_factor(schedule, step=0, progress=progress) for progress in (0.0, 0.5, 1.0)]
    assert factors == pytest.approx([1.0, 0.55, 0.1])
