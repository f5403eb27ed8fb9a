"""The training loop. Reading `fit` from top to bottom tells when we step, log, evaluate and save."""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import nn

from maskrcnn_train.data.loading import LostWorker, naming_lost_workers
from maskrcnn_train.data.order import percent_of_size
from maskrcnn_train.engine import distributed
from maskrcnn_train.engine.distributed import World
from maskrcnn_train.engine.meter import Meter
from maskrcnn_train.engine.optimizer import drop_body_gradients, set_lr, train_body
from maskrcnn_train.engine.plan import Plan, is_due
from maskrcnn_train.engine.precision import peak_memory_mb, seed_step
from maskrcnn_train.engine.run import Run
from maskrcnn_train.engine.schedule import lr_factor
from maskrcnn_train.engine.signals import Interrupted, StopRequest
from maskrcnn_train.engine.state import Position, TrainingState
from maskrcnn_train.engine.step import (
    BadStep,
    Batch,
    OutOfMemory,
    accumulate_gradients,
    apply_gradients,
    check_step,
    out_of_memory,
    unscaled_norm,
)
from maskrcnn_train.reporting.terminal.progress import SETTLED, duration
from maskrcnn_train.settings.errors import as_user_error, naming_memory_faults, one_line
from maskrcnn_train.settings.schema import TrainConfig, TrainerConfig

STARVING = 0.25  # share of the time that the model waits for data, from which a person is told
Evaluate = Callable[[nn.Module, Position], tuple[float, dict[str, float]]]

logger = logging.getLogger("maskrcnn_train")


def fit(
    state: TrainingState,
    loader: Any,
    config: TrainConfig,
    *,
    plan: Plan,
    world: World,
    evaluate: Evaluate,
    run: Run,
    stop: StopRequest,
) -> dict[str, float]:
    """Train from `state.position` to the end of the plan; returns the last evaluation's metrics.

    evaluate: gets the weights that count (the moving average if there is one); returns the score that decides which
    weights are the best, and all metrics. Whatever is raised in here is raised after saving, but for a failed step.
    """
    trainer, position = config.trainer, state.position
    clock = time.perf_counter() - position.seconds
    evaluated_at, metrics, meter = -1, dict[str, float](), Meter()

    with _saving_first(state, run, world, stop):
        if position.evaluating:
            metrics, evaluated_at = _evaluate(state, world, evaluate, run), position.step
        while not plan.is_done(position):
            position.leave_epoch(len(loader))  # resumed with larger batches, there may be none left of it
            percent = partial(_percent_of_size, position=position, plan=plan, config=config)
            loader.set_epoch(position.epoch, start_batch=position.batch, percent=percent)
            for batches in _grouped(meter.timed(loader), trainer.accumulate):
                _train_on(batches, state, config, plan, world, run, meter)
                epoch_ended = state.count_step(len(batches), len(loader))
                position.seconds, signal = distributed.largest([time.perf_counter() - clock, stop.number or 0], world)
                # due until it is done: whatever ends the process before, the next one evaluates first
                position.evaluating = is_due(trainer.evaluate_every, trainer.interval_unit, position, epoch_ended)
                run.after_step()
                if position.step % trainer.log_every == 0 or plan.is_done(position):
                    _log(state, config, plan, run, meter, world)
                if is_due(trainer.checkpoint_every, trainer.interval_unit, position, epoch_ended):
                    run.checkpoints.save_last(state, wait=False)
                if position.evaluating:
                    metrics, evaluated_at = _evaluate(state, world, evaluate, run), position.step
                    (signal,) = distributed.largest([float(stop.number or 0)], world)
                    meter.restart()
                if signal > 0:
                    raise Interrupted(int(signal))
                if plan.is_done(position):
                    break
        if evaluated_at != position.step:
            metrics = _evaluate(state, world, evaluate, run)
    _save_end(state, metrics, run)
    return metrics


def _percent_of_size(batch: int, position: Position, plan: Plan, config: TrainConfig) -> int:
    """Of the images of this batch of the epoch, which is drawn some steps before it is trained on."""
    return percent_of_size(config.augmentation, plan.progress_at(batch, position))


@contextmanager
def _saving_first(state: TrainingState, run: Run, world: World, stop: StopRequest) -> Iterator[None]:
    """Save the state before an error or a signal goes on, of this rank or another. Not so where a step is half taken,
    or fails for its numbers: the weights themselves may be the cause.

    Raises Interrupted for a signal that has ended the loading processes too, which were starting. However the training
    ends, the file that is being written becomes whole first.
    """
    try:
        with distributed.naming_lost_peers(world), naming_lost_workers():
            yield
    except (Exception, Interrupted) as error:
        if not state.half_step and not isinstance(error, BadStep):
            _save_before(error, state, run)
        if isinstance(error, LostWorker):
            stop.check()
        raise
    finally:
        run.checkpoints.finish()


def _save_before(error: BaseException, state: TrainingState, run: Run) -> None:
    """Save the state that `error` leaves; raises what goes wrong there, but for a bug, which must not be hidden."""
    try:
        run.checkpoints.save_last(state)
    except Exception as trouble:
        if not isinstance(error, Exception) or as_user_error(error) is not None:
            raise
        error.add_note(f"and the state could not be saved: {one_line(trouble)}")


def _train_on(
    batches: list[Batch], state: TrainingState, config: TrainConfig, plan: Plan, world: World, run: Run, meter: Meter
) -> None:
    """One optimizer step; one that fails leaves the weights alone and is kept in a file."""
    position = state.position
    seed_step(config.seed, position.step, world.rank)
    factor = lr_factor(config.schedule, step=position.step, progress=plan.progress(position))
    meter.lr = state.optimizer.defaults["lr"] * factor
    heads_only = position.step < config.trainer.heads_only_steps
    set_lr(state.optimizer, meter.lr)
    if world.size == 1:
        train_body(state.optimizer, enabled=not heads_only)
    if position.step <= config.trainer.heads_only_steps:
        distributed.unwrap(state.model).backbone.keep_body_statistics(heads_only)  # type: ignore[union-attr, operator]
    try:
        losses, norm = take_step(state, batches, config.trainer, world)
    except BadStep as error:
        run.failed_steps.add(error, state.model, meter.lr)
        position.skipped_steps += 1
    else:
        run.failed_steps.in_a_row = 0
        meter.add(losses, norm, sum(len(targets) for _, targets in batches))
    state.update_average()  # after a step that was skipped too: it makes up for those before


def take_step(
    state: TrainingState, batches: list[Batch], trainer: TrainerConfig, world: World
) -> tuple[dict[str, float], float]:
    """One optimizer step: losses and gradient norm. Raises BadStep or OutOfMemory and leaves the model alone."""
    model, optimizer, scaler, step = state.model, state.optimizer, state.scaler, state.position.step
    try:
        with state.statistics.put_back_on_failure(), naming_memory_faults(lambda: out_of_memory(batches, step)):
            losses = accumulate_gradients(model, batches, scaler, precision=trainer.precision, step=step, world=world)
            if step < trainer.heads_only_steps:
                drop_body_gradients(optimizer)
            norm = unscaled_norm(optimizer, scaler)
            values, norm_value = check_step(losses, norm, model, batches, scaler, step=step, world=world)
            distributed.check_peers(world)
    except (BadStep, OutOfMemory):
        optimizer.zero_grad(set_to_none=True)
        raise
    state.half_step = True
    apply_gradients(optimizer, scaler, norm=norm, clip_norm=trainer.clip_norm)
    return values, norm_value


def _save_end(state: TrainingState, metrics: dict[str, float], run: Run) -> None:
    """Write last.pt, and best.pt where no evaluation gave a score."""
    if state.position.best_step == 0:
        logger.warning("the validation split has no objects: no evaluation has a score; best.pt holds the last weights")
        run.checkpoints.save_best(state, metrics)
    run.checkpoints.save_last(state)


def _model_statistics(model: nn.Module) -> dict[str, float]:
    """What the stages of the model counted in the last batch, e.g. proposals kept per image."""
    kept = [getattr(module, "statistics", {}) for module in distributed.unwrap(model).modules()]
    return {name: float(compute()) for statistics in kept for name, compute in statistics.items()}


def _log(state: TrainingState, config: TrainConfig, plan: Plan, run: Run, meter: Meter, world: World) -> None:
    """Write the means since the last log line, and begin the next. Says once how long it all takes, and when the model
    waits for data.
    """
    position, device = state.position, next(state.model.parameters()).device
    values = meter.means(world.size) | {"memory/peak_mb": peak_memory_mb(device)} | _model_statistics(state.model)
    run.writer.scalars(position.step, values)
    total = plan.steps(position) if plan.seconds is None else None  # a training by the clock has no last step
    waiting = values["time/data"] / max(values["time/step"], 1e-9)
    run.progress.update(position.step, total, _fields(values, position, plan, waiting))
    if position.seconds > SETTLED and not meter.told_length:
        meter.told_length = True
        growing = percent_of_size(config.augmentation, plan.progress(position)) < 100
        but = "; later steps take longer, because images still grow" if growing else ""
        logger.info("the training at this speed: %s%s", plan.forecast(position), but)
    if waiting > STARVING and not meter.warned_of_starving:
        meter.warned_of_starving = True
        advice = f"raise trainer.num_workers (now {config.trainer.num_workers}) or lower data.max_size"
        logger.warning("the model waits for data %.0f %% of the time; %s", 100 * waiting, advice)
    meter.restart()


def _evaluate(state: TrainingState, world: World, evaluate: Evaluate, run: Run) -> dict[str, float]:
    """Evaluate the weights that count, and keep them if they are the best so far."""
    position = state.position
    distributed.share_buffers(state.judged, world)
    position.evaluating = True
    score, metrics = evaluate(state.judged, position)
    position.evaluating = False
    if score > position.best:
        position.best, position.best_step, position.stale_evaluations = score, position.step, 0
        run.checkpoints.save_best(state, metrics, wait=False)
    elif score >= 0:  # -1 or NaN: there was nothing to score
        position.stale_evaluations += 1
    return metrics


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    """Lists of `size` batches; the last of a pass may be shorter."""
    batches = iter(batches)
    while group := list(itertools.islice(batches, size)):
        yield group


def _fields(values: dict[str, float], position: Position, plan: Plan, waiting: float) -> dict[str, float | str]:
    """What the progress bar shows."""
    done = plan.progress(position)
    return {
        "epoch": str(position.epoch),
        "loss": values["loss/total"],
        "lr": values["lr"],
        "images/s": values["images_per_second"],
        "memory": f"{values['memory/peak_mb'] / 1024:.1f} GB",
        "data wait": f"{waiting:.0%}",
        "left": duration(position.seconds / done - position.seconds),
    }
