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
    assert Plan(100, None).progress_at(10, position, accumulate=1) == 0.26
    assert Plan(100, None).progress_at(10, position, accumulate=2) == 0.23
    assert Plan(100, 12.0).progress_at(10, position, accumulate=1) == 0.5  # by the clock: of now
