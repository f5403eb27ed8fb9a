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
