"""How long a training is, and whether it is time for something."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from maskrcnn_train.engine.state import Position
from maskrcnn_train.reporting.terminal.progress import duration
from maskrcnn_train.settings.schema import TrainerConfig


@dataclass
class Plan:
    """How long a training is: in steps, and in seconds if trainer.max_minutes is set.

    patience: evaluations without a better result after which it stops early; 0: never.
    """

    steps: int
    seconds: float | None
    patience: int = 0

    @classmethod
    def of(cls, trainer: TrainerConfig, batches_per_epoch: int) -> Plan:
        steps = trainer.epochs * math.ceil(batches_per_epoch / trainer.accumulate)
        if trainer.max_steps is not None:
            steps = min(steps, trainer.max_steps)
        seconds = None if trainer.max_minutes is None else trainer.max_minutes * 60
        return cls(steps, seconds, trainer.early_stopping)

    def progress(self, position: Position) -> float:
        """Share of the training done, 0..1."""
        by_time = 0.0 if self.seconds is None else position.seconds / self.seconds
        return max(position.step / self.steps, by_time)

    def progress_at(self, batch: int, position: Position, accumulate: int) -> float:
        """The same when this batch of the epoch comes, which may be loaded some steps before."""
        steps_ahead = (batch - position.batch) // accumulate
        return self.progress(replace(position, step=position.step + steps_ahead))

    def is_done(self, position: Position) -> bool:
        """Whether the training has reached its end, or stops early."""
        return self.progress(position) >= 1 or 0 < self.patience <= position.stale_evaluations

    def forecast(self, position: Position) -> str:
        """How long the training takes at the speed so far, or where the clock ends it, in words."""
        a_step = position.seconds / position.step
        if self.seconds is None or self.steps * a_step <= self.seconds:
            return f"{self.steps} steps take about {duration(self.steps * a_step)}, {a_step:.2g} s each"
        last = int(self.seconds / a_step)
        return (
            f"the clock, trainer.max_minutes={self.seconds / 60:g}, ends it at about step {last}, {a_step:.2g} s each"
        )

    def to_train_longer(self, position: Position) -> str:
        """What to change about a training that is done."""
        if self.progress(position) >= 1:
            return "Train longer with e.g. trainer.epochs"
        worse = position.stale_evaluations
        return f"It stopped early, after {worse} evaluations without a better result; raise trainer.early_stopping"


def is_due(every: int, unit: str, position: Position, epoch_ended: bool) -> bool:
    """Whether an action with an interval of `every` steps or epochs comes after this step; 0: never."""
    if every == 0:
        return False
    return position.step % every == 0 if unit == "step" else epoch_ended and position.epoch % every == 0
