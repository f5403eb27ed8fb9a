"""How long a training is, and whether it is time for something."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from maskrcnn_train.engine.state import Position
from maskrcnn_train.reporting.terminal.progress import duration
from maskrcnn_train.settings.schema import TrainerConfig


@dataclass
class Plan:
    """How long a training is: some passes over the data, and at most `max_steps` steps and `seconds` if they are given.

    An epoch has `epoch_steps` steps of `accumulate` batches each. A training that is resumed with other batches has
    taken other numbers of steps for the passes that it has made, and still makes `epochs` of them.
    patience: evaluations without a better result after which it stops early; 0: never.
    """

    epochs: int
    epoch_steps: int
    accumulate: int = 1
    max_steps: int | None = None
    seconds: float | None = None
    patience: int = 0

    @classmethod
    def of(cls, trainer: TrainerConfig, batches_per_epoch: int) -> Plan:
        return cls(
            epochs=trainer.epochs,
            epoch_steps=math.ceil(batches_per_epoch / trainer.accumulate),
            accumulate=trainer.accumulate,
            max_steps=trainer.max_steps,
            seconds=None if trainer.max_minutes is None else trainer.max_minutes * 60,
            patience=trainer.early_stopping,
        )

    def steps(self, position: Position) -> int:
        """The number of the last step, if no clock and no evaluation ends the training before."""
        by_passes = position.step + self.epochs * self.epoch_steps - self._passed(position)
        return by_passes if self.max_steps is None else min(by_passes, self.max_steps)

    def _passed(self, position: Position) -> int:
        """Steps that what is done of the passes takes with today's batches."""
        return position.epoch * self.epoch_steps + math.ceil(position.batch / self.accumulate)

    def progress(self, position: Position) -> float:
        """Share of the training done, 0..1."""
        by_time = 0.0 if self.seconds is None else position.seconds / self.seconds
        by_steps = 0.0 if self.max_steps is None else position.step / self.max_steps
        return max(self._passed(position) / (self.epochs * self.epoch_steps), by_steps, by_time)

    def progress_at(self, batch: int, position: Position) -> float:
        """The same when this batch of the epoch comes, which may be loaded some steps before."""
        step = position.step + (batch - position.batch) // self.accumulate
        return self.progress(replace(position, step=step, batch=batch))

    def is_done(self, position: Position) -> bool:
        """Whether the training has reached its end, or stops early."""
        return self.progress(position) >= 1 or 0 < self.patience <= position.stale_evaluations

    def forecast(self, position: Position) -> str:
        """How long the training takes at the speed so far, or where the clock ends it, in words."""
        a_step = position.seconds / position.step
        steps = self.steps(position)
        if self.seconds is None or steps * a_step <= self.seconds:
            return f"{steps} steps take about {duration(steps * a_step)}, {a_step:.2g} s each"
        last = int(self.seconds / a_step)
        return (
            f"the clock, trainer.max_minutes={self.seconds / 60:g}, ends it at about step {last}, {a_step:.2g} s each"
        )

    def to_train_longer(self, position: Position) -> str:
        """What to change about a training that is done."""
        if self.progress(position) >= 1:
            by_time = self.seconds is not None and position.seconds >= self.seconds
            by_steps = self.max_steps is not None and position.step >= self.max_steps
            keys = ["max_minutes"] * by_time + ["max_steps"] * by_steps or ["epochs"]
            return f"Train longer with a larger {' and '.join(f'trainer.{key}' for key in keys)}"
        worse = position.stale_evaluations
        return f"It stopped early, after {worse} evaluations without a better result; raise trainer.early_stopping"


def is_due(every: int, unit: str, position: Position, epoch_ended: bool) -> bool:
    """Whether an action with an interval of `every` steps or epochs comes after this step; 0: never."""
    if every == 0:
        return False
    return position.step % every == 0 if unit == "step" else epoch_ended and position.epoch % every == 0
