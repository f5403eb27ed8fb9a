"""What a training is made of: all that must be saved to go on, and nothing else."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from maskrcnn_train.engine import precision
from maskrcnn_train.engine.distributed import World, unwrap
from maskrcnn_train.engine.optimizer import build_optimizer, images_per_step
from maskrcnn_train.settings.schema import TrainConfig

EMA_EVERY = 4  # steps between updates; one at every step costs a tenth of a small model's time


@dataclass
class Position:
    """How far a training has come. Plain numbers: saved as they are.

    Random draws follow from (seed, step, rank) and the data order from (seed, epoch), so no generator is saved.
    """

    step: int = 0  # optimizer steps done
    epoch: int = 0  # full passes over the training images done
    batch: int = 0  # batches of the current pass done, on this device
    seconds: float = 0.0  # time spent, over all sittings
    best: float = -1.0  # best main metric so far
    best_step: int = 0
    stale_evaluations: int = 0  # evaluations since the best one
    skipped_steps: int = 0  # for which there was no finite loss
    evaluating: bool = False  # an evaluation has begun and not ended: to be repeated first

    def leave_epoch(self, batches_per_epoch: int) -> bool:
        """Begin the next pass over the data if this one is over; returns whether it was."""
        if self.batch < batches_per_epoch:
            return False
        self.epoch, self.batch = self.epoch + 1, 0
        return True


class MovingAverage:
    """A copy of a model whose weights follow it slowly; evaluated and saved in its place.

    decay: share of the old average kept at each step; it starts low and grows to this value, so that
    the random initial weights are forgotten ((1 + step) / (10 + step), as in the TensorFlow rule). Every fourth step
    makes up for four.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        if step % EMA_EVERY:
            return
        decay = min(self.decay, (1 + step) / (10 + step)) ** EMA_EVERY
        for average, current in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.dtype.is_floating_point:
                average.lerp_(current, 1 - decay)  # on a processor eight times faster than the `foreach` form
            else:
                average.copy_(current)  # counters of batch norm


class RunningStatistics:
    """Those of a model's batch norms, which a forward pass changes even if its step fails later."""

    def __init__(self, model: nn.Module) -> None:
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        buffers = [buffer for norm in norms for buffer in norm.buffers()]
        self.groups = []
        for dtype in {buffer.dtype for buffer in buffers}:
            own = [buffer for buffer in buffers if buffer.dtype == dtype]
            self.groups.append((own, [buffer.clone() for buffer in own]))

    @contextmanager
    def put_back_on_failure(self) -> Iterator[None]:
        """What raises inside leaves them as they are now."""
        for own, copies in self.groups:
            torch._foreach_copy_(copies, own)
        try:
            yield
        except BaseException:
            self.put_back()
            raise

    def put_back(self) -> None:
        """As they were when this was made, or when `put_back_on_failure` was last entered."""
        for own, copies in self.groups:
            torch._foreach_copy_(own, copies)


@dataclass
class TrainingState:
    """Model, optimizer and position; `ema` when trainer.ema is on; `scaler` does something for fp16 only.

    half_step: a step has begun to change the weights and is not counted yet, so that nothing here may be saved.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: MovingAverage | None
    position: Position
    half_step: bool = False

    def update_average(self) -> None:
        """Let the average follow the weights that this step leaves."""
        if self.ema is not None:
            self.half_step = True
            self.ema.update(unwrap(self.model), self.position.step)

    def count_step(self, batches: int, batches_per_epoch: int) -> bool:
        """The step is whole; returns whether it ended a pass over the data."""
        self.position.step += 1
        self.position.batch += batches
        self.half_step = False
        return self.position.leave_epoch(batches_per_epoch)

    @property
    def judged(self) -> nn.Module:
        """The model that is evaluated, and kept as the best: the moving average if there is one."""
        return unwrap(self.model) if self.ema is None else self.ema.model

    @cached_property
    def statistics(self) -> RunningStatistics:
        """Of the model that trains; asked for when it is complete."""
        return RunningStatistics(self.model)


def build_state(config: TrainConfig, model: nn.Module, world: World) -> TrainingState:
    """The state of a training that has not begun, around a model that is on its device; not yet spread over ranks."""
    device = next(model.parameters()).device
    return TrainingState(
        model=model,
        optimizer=build_optimizer(config.optimizer, model, images_per_step=images_per_step(config.trainer, world.size)),
        scaler=precision.grad_scaler(config.trainer.precision, device),
        ema=MovingAverage(model, decay=config.trainer.ema) if config.trainer.ema > 0 else None,
        position=Position(),
    )
