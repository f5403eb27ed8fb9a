"""The training loop. Reading `fit` from top to bottom tells when we step, log, evaluate and save."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from torch import nn

from maskrcnn_train.config import TrainConfig, TrainerConfig
from maskrcnn_train.engine import distributed
from maskrcnn_train.engine.distributed import World
from maskrcnn_train.engine.meter import Meter
from maskrcnn_train.engine.optimizer import set_lr
from maskrcnn_train.engine.plan import Plan, is_due
from maskrcnn_train.engine.precision import peak_memory_mb, resolve_precision, seed_step
from maskrcnn_train.engine.schedule import lr_factor
from maskrcnn_train.engine.signals import Interrupted, StopRequest
from maskrcnn_train.engine.state import Position, TrainingState
from maskrcnn_train.engine.step import Batch, accumulate_gradients, apply_gradients


class ProgressBar(Protocol):
    def update(self, step: int, total: int, fields: dict[str, float | str]) -> None: ...


class Writer(Protocol):
    def scalars(self, step: int, values: dict[str, float]) -> None: ...


class Saver(Protocol):
    def save_last(self, state: TrainingState) -> None: ...
    def save_best(self, state: TrainingState, metrics: dict[str, float]) -> None: ...


def fit(
    state: TrainingState,
    loader: Any,
    config: TrainConfig,
    *,
    plan: Plan,
    world: World,
    evaluate: Callable[[nn.Module, int], dict[str, float]],
    main_metric: str,
    writer: Writer,
    progress_bar: ProgressBar,
    checkpoints: Saver,
    stop: StopRequest,
) -> dict[str, float]:
    """Train from `state.position` to the end of the plan; returns the last evaluation's metrics.

    evaluate: (model, step) -> metrics; called with the weights that count (the moving average if there is one).
    Raises Interrupted after saving when a signal came, NonFiniteLoss, OSError.
    """
    trainer, position, device = config.trainer, state.position, next(state.model.parameters()).device
    precision = resolve_precision(trainer.precision, device)
    base_lr = state.optimizer.defaults["lr"]
    clock = time.perf_counter() - position.seconds
    metrics: dict[str, float] = {}
    evaluated_at = -1
    meter = Meter()

    while plan.progress(position) < 1 and not _stale(trainer, position):
        loader.set_epoch(position.epoch, start_batch=position.batch)
        for batches in _grouped(meter.timed(loader), trainer.accumulate):
            seed_step(config.seed, position.step, world.rank)
            lr = base_lr * lr_factor(config.schedule, step=position.step, progress=plan.progress(position))
            set_lr(state.optimizer, lr)
            losses = accumulate_gradients(
                state.model, batches, scaler=state.scaler, precision=precision, step=position.step
            )
            norm = apply_gradients(state.model, state.optimizer, state.scaler, clip_norm=trainer.clip_norm)
            if state.ema is not None:
                state.ema.update(distributed.unwrap(state.model), position.step)
            epoch_ended = position.advance(len(batches), len(loader))
            position.seconds = distributed.longest(time.perf_counter() - clock, world, device)
            meter.add(losses, sum(len(targets) for _, targets in batches))

            if position.step % trainer.log_every == 0 or position.step == plan.steps:
                values = meter.means(world.size) | {"lr": lr, "memory/peak_mb": peak_memory_mb(device)}
                writer.scalars(position.step, values if norm is None else values | {"gradient_norm": norm})
                meter.restart()
                progress_bar.update(position.step, plan.steps, _fields(values, position, plan))
            if is_due(trainer.evaluate_every, trainer.interval_unit, position, epoch_ended):
                metrics, evaluated_at = _evaluate(state, evaluate, main_metric, checkpoints), position.step
                meter.restart()
            if is_due(trainer.checkpoint_every, trainer.interval_unit, position, epoch_ended):
                checkpoints.save_last(state)
            if distributed.any_rank(stop.number is not None, world, device):
                checkpoints.save_last(state)
                raise Interrupted(stop.number or 15)
            if plan.progress(position) >= 1 or _stale(trainer, position):
                break

    if evaluated_at != position.step:
        metrics = _evaluate(state, evaluate, main_metric, checkpoints)
    checkpoints.save_last(state)
    return metrics


def _evaluate(
    state: TrainingState,
    evaluate: Callable[[nn.Module, int], dict[str, float]],
    main_metric: str,
    checkpoints: Saver,
) -> dict[str, float]:
    """Evaluate the weights that count, and keep them if they are the best so far."""
    position = state.position
    model = distributed.unwrap(state.model) if state.ema is None else state.ema.model
    metrics = evaluate(model, position.step)
    score = metrics[main_metric]
    if score > position.best:
        position.best, position.best_step, position.stale_evaluations = score, position.step, 0
        checkpoints.save_best(state, metrics)
    else:
        position.stale_evaluations += 1
    return metrics


def _stale(trainer: TrainerConfig, position: Position) -> bool:
    return 0 < trainer.early_stopping <= position.stale_evaluations


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches; the last of a pass may be shorter."""
    group: list[Batch] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _fields(values: dict[str, float], position: Position, plan: Plan) -> dict[str, float | str]:
    """What the progress bar shows."""
    done = plan.progress(position)
    return {
        "epoch": str(position.epoch),
        "loss": values["loss/total"],
        "lr": values["lr"],
        "images/s": values["images_per_second"],
        "data wait": f"{100 * values['time/data'] / max(values['time/step'], 1e-9):.0f}%",
        "left": _clock_text(position.seconds / done - position.seconds),
    }


def _clock_text(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
