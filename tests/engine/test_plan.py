from dataclasses import replace

import pytest

from maskrcnn_train import load_config
from maskrcnn_train.engine.plan import Plan
from maskrcnn_train.engine.state import Position


@pytest.mark.parametrize(
    ("minutes", "said"),
    [
        ("null", "1400 steps take about 7m 00s, 0.3 s each"),
        ("15", "1400 steps take about 7m 00s, 0.3 s each"),
        ("3.5", "the clock, trainer.max_minutes=3.5, ends it at about step 700, 0.3 s each"),
    ],
)
def test_the_length_is_forecast_from_the_first_steps(minutes: str, said: str) -> None:
    trainer = load_config(["experiment=shapes", "trainer.max_steps=1400", f"trainer.max_minutes={minutes}"]).trainer
    plan = Plan.of(trainer, batches_per_epoch=50)
    assert plan.forecast(Position(step=20, seconds=6.0)) == said


def test_the_progress_of_a_batch_that_is_loaded_ahead_is_that_of_its_step() -> None:
    position = Position(step=20, epoch=1, batch=4, seconds=6.0)
    plan = Plan(epochs=5, epoch_steps=16, max_steps=100)
    assert plan.progress_at(10, position) == 26 / 80
    assert replace(plan, max_steps=50).progress_at(10, position) == 26 / 50
    assert replace(plan, epoch_steps=8, accumulate=2).progress_at(10, position) == (8 + 5) / 40
    assert replace(plan, seconds=12.0).progress_at(10, position) == 0.5  # by the clock: of now


def test_a_training_that_goes_on_with_other_batches_makes_as_many_passes() -> None:
    position = Position(step=200, epoch=4, batch=0)  # 4 passes of 50 steps
    smaller, larger = Plan(epochs=8, epoch_steps=100), Plan(epochs=8, epoch_steps=25)
    for plan, steps in ((Plan(epochs=8, epoch_steps=50), 400), (smaller, 600), (larger, 300)):
        assert (plan.progress(position), plan.steps(position), plan.is_done(position)) == (0.5, steps, False)
        assert replace(plan, max_steps=210).steps(position) == 210
        assert plan.is_done(replace(position, epoch=8))


def test_a_training_that_is_done_names_the_limit_that_ended_it() -> None:
    plan = Plan(epochs=5, epoch_steps=10)
    assert "trainer.epochs" in plan.to_train_longer(Position(step=50, epoch=5))
    by_steps, by_time = replace(plan, max_steps=7), replace(plan, seconds=60.0)
    assert plan.to_train_longer(Position(step=50, epoch=5)) == "Train longer with a larger trainer.epochs"
    assert by_steps.to_train_longer(Position(step=7, batch=7)) == "Train longer with a larger trainer.max_steps"
    assert (
        by_time.to_train_longer(Position(step=7, batch=7, seconds=61))
        == "Train longer with a larger trainer.max_minutes"
    )
