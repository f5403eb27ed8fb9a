"""Train, evaluate, report: one run from its configuration to its folder."""

import itertools
import json
import logging
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from maskrcnn_train.checking.findings import findings_table
from maskrcnn_train.checking.settings import quick_check
from maskrcnn_train.data.loading import build_loaders, naming_lost_workers
from maskrcnn_train.data.splits.splitting import Splits, read_splits
from maskrcnn_train.data.tile_layout import epoch_length
from maskrcnn_train.engine import distributed, precision
from maskrcnn_train.engine.activations import checkpoint_activations
from maskrcnn_train.engine.capturing import capture_backbone
from maskrcnn_train.engine.checkpoint import check_classes, restore
from maskrcnn_train.engine.compiling import compile_backbone
from maskrcnn_train.engine.distributed import World
from maskrcnn_train.engine.loop import fit
from maskrcnn_train.engine.optimizer import images_per_step
from maskrcnn_train.engine.plan import Plan
from maskrcnn_train.engine.run import Run
from maskrcnn_train.engine.signals import Interrupted, StopRequest
from maskrcnn_train.engine.state import Position, TrainingState, build_state
from maskrcnn_train.evaluation.coco.metrics import explain_absent
from maskrcnn_train.files import write_json, write_text
from maskrcnn_train.model.mask_rcnn import MaskRCNN, build_model
from maskrcnn_train.model.weights.pretrained import start_from_weights
from maskrcnn_train.prediction.validation import Validation
from maskrcnn_train.report import report_training
from maskrcnn_train.reporting.diagnostics import write_diagnostics
from maskrcnn_train.reporting.runs import SCORES_FILE
from maskrcnn_train.reporting.terminal.tables import class_table, metrics_table, table, unused_table
from maskrcnn_train.reporting.terminal.weights import weights_listing, weights_summary
from maskrcnn_train.settings.schema import LATENCY, TrainConfig

OnEvaluation = Callable[[float, dict[str, float]], None]

logger = logging.getLogger("maskrcnn_train")


@dataclass
class TrainResult:
    """metrics: of the last evaluation, fractions, e.g. metrics["segm/AP"]. run_dir: where everything was written."""

    metrics: dict[str, float]
    run_dir: Path


def train(
    config: TrainConfig,
    splits: Splits | None = None,
    weights: Path | None = None,
    on_evaluation: OnEvaluation | None = None,
) -> TrainResult:
    """Train as configured. splits, weights: what `read_splits` and `find_weights` gave, if they were called before.

    on_evaluation: told the share of the training that is done, 0..1, and the metrics; what it raises ends the training.

    Raises UserError for the person's mistakes, BadStep (a UserError), Interrupted after a signal, even one that comes
    when the last step is done and changes nothing here.

    >>> train(load_config(["experiment=shapes", "trainer.max_steps=2"])).metrics["segm/AP"]  # doctest: +SKIP
    """
    splits = splits or read_splits(config)
    with (
        distributed.joined(config.trainer) as (world, device),
        StopRequest() as stop,
        precision.determinism(config.trainer.deterministic),
    ):
        _warn_of_slow_pooling(config, device)
        loaders = build_loaders(config, rank=world.rank, world_size=world.size, splits=splits)
        plan = Plan.of(config.trainer, len(loaders.train))

        with closing(loaders), Run.open(config, loaders.classes, world) as run, naming_lost_workers():
            state = build_state(config, _initial_model(config, run, weights, device), world)
            if run.resumes and (finished := _resume(state, run, plan, world)) is not None:
                return TrainResult(finished, run.folder)
            _make_ready(state, config, world)
            run.describe(splits)
            _log_start(config, splits, state, plan, world.size)

            validation = Validation(loaders.val, config, world)
            # a signal breaks off what takes long after a step; several processes would have to agree on it
            check: Callable[[], None] = stop.check if world.size == 1 else lambda: None
            evaluate = partial(_evaluate, validation, run, plan, on_evaluation, check)
            with run.recording(state.position):
                metrics = fit(
                    state, loaders.train, config, plan=plan, world=world, evaluate=evaluate, run=run, stop=stop
                )
                check()
                if world.is_main and config.evaluation.study:
                    _write_diagnostics(validation, run, state.position.step)
                if world.is_main and config.evaluation.latency:
                    metrics = metrics | _latency(validation, run, state)
            if world.is_main:
                _finish(run.folder, validation, metrics)
    if stop.number is not None:
        raise Interrupted(stop.number, hint="this training is complete")
    return TrainResult(metrics, run.folder)


def _warn_of_slow_pooling(config: TrainConfig, device: torch.device) -> None:
    if pools_in_python(config, device):
        logger.warning(
            "trainer.deterministic=true: with sampling_ratio=0 torchvision pools in Python on a GPU, which is slow "
            "and needs much memory; set pooler.sampling_ratio=2 and mask_head.pooler.sampling_ratio=2"
        )


def pools_in_python(config: TrainConfig, device: torch.device) -> bool:
    """Whether RoIAlign has no deterministic operator here; torchvision's Python form samples as many points in every
    bin as the largest box needs."""
    poolers = [config.pooler, *([config.mask_head.pooler] if config.mask_head.enabled else [])]
    adaptive = any(each.type == "align" and each.sampling_ratio == 0 for each in poolers)
    return config.trainer.deterministic and device.type == "cuda" and adaptive


def _initial_model(config: TrainConfig, run: Run, weights: Path | None, device: torch.device) -> MaskRCNN:
    """The model on its device, as a training begins or as a resumed one needs it."""
    torch.manual_seed(config.seed)
    model = build_model(config, run.classes.num_classes, objects=run.classes.objects)
    if not run.resumes:
        report = start_from_weights(model, config, run.classes.names, weights)
        if report is not None and run.is_main:
            write_text(run.folder / "weights.txt", weights_listing(report))
            logger.info("%s", weights_summary(report))
            for warning in report.warnings:
                logger.warning("%s", warning)
    return precision.to_device(model, device, channels_last=config.trainer.channels_last)


def _make_ready(state: TrainingState, config: TrainConfig, world: World) -> None:
    """What concerns the model that trains and not its average, once its first weights are there."""
    trainer, model = config.trainer, state.model
    if trainer.checkpoint_activations:
        checkpoint_activations(model.backbone.body)  # type: ignore[union-attr, arg-type]
    if trainer.compile:
        compile_backbone(model.backbone)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    if trainer.capture and device.type == "cuda" and world.size == 1:
        capture_backbone(model.backbone)  # type: ignore[arg-type]
    elif trainer.capture:
        logger.warning("trainer.capture=true has no effect here: it needs a GPU and a single process")
    if trainer.sync_batchnorm and world.size == 1:
        logger.warning("trainer.sync_batchnorm=true has no effect here: it needs several processes")
    state.model = distributed.wrap(model, world, device, sync_batchnorm=trainer.sync_batchnorm)


def _resume(state: TrainingState, run: Run, plan: Plan, world: World) -> dict[str, float] | None:
    """Go on from the checkpoint that rank 0 reads: other machines may not have its folder. Returns the metrics of a
    training that is complete; one that is done but was killed before its results were written evaluates again.
    """
    content, trouble = distributed.broadcast(run.checkpoints.load_last() if world.is_main else None, world)
    check_classes(run.classes, content["classes"])
    restore(state, content, asdict(run.config))
    if (began := content["config"]["weights"]["source"]) != (source := run.config.weights.source):
        logger.warning(
            "weights=%s has no effect: the run goes on from its checkpoint (it began with weights=%s)", source, began
        )
    if trouble:
        logger.warning("%s; going on from the checkpoint before it", trouble)
    logger.info("resumed %s at step %d", run.folder, state.position.step)
    finished: dict[str, float] | None = distributed.broadcast(_finished(state, run, plan), world)
    state.position.evaluating |= plan.is_done(state.position)
    return finished


def _finished(state: TrainingState, run: Run, plan: Plan) -> dict[str, float] | None:
    """The metrics of a training that is complete, on rank 0; a run that goes on has none until it ends again."""
    if not (run.is_main and plan.is_done(state.position) and (run.folder / SCORES_FILE).exists()):
        return None
    logger.info("%s is finished: nothing to do. %s", run.folder, plan.to_train_longer(state.position))
    metrics: dict[str, float] = json.loads((run.folder / SCORES_FILE).read_text(encoding="utf-8"))
    return metrics


def _evaluate(
    validation: Validation,
    run: Run,
    plan: Plan,
    tell: OnEvaluation | None,
    check: Callable[[], None],
    model: nn.Module,
    position: Position,
) -> tuple[float, dict[str, float]]:
    """Metrics of a model in mid-training, written and logged, after the one that decides which weights are the best.

    check: called between batches; may break off.
    """
    metrics = validation.evaluate(model, check)
    run.writer.scalars(position.step, metrics)
    validation.draw(run.folder, run.writer, position.step)
    logger.info("step %d: %s", position.step, metrics_table(metrics))
    if tell is not None:
        tell(min(plan.progress(position), 1.0), metrics)
    return metrics[validation.main_metric], metrics


def _write_diagnostics(validation: Validation, run: Run, step: int) -> None:
    diagnostics = validation.diagnose(seed=0)  # the same for all seeds of a sweep, which are compared draw by draw
    for name, picture in write_diagnostics(run.folder / "study", diagnostics, validation.scored).items():
        run.writer.picture(step, f"study/{name}", picture)


def _latency(validation: Validation, run: Run, state: TrainingState) -> dict[str, float]:
    found = {LATENCY: validation.latency(state.judged)}
    run.writer.scalars(state.position.step, found)
    logger.info("%.1f ms an image", found[LATENCY])
    return found


def _log_start(config: TrainConfig, splits: Splits, state: TrainingState, plan: Plan, world_size: int) -> None:
    """What is about to happen: data and what of it is not used, classes, doubts, device, precision, length, lr."""
    for note in splits.notes:
        logger.info("note: %s", note)
    if unused := unused_table(splits.skipped):
        logger.info("%s", unused)
    class_rows = list(zip(itertools.count(1), splits.classes.ids, splits.classes.names, strict=False))
    logger.info("%s", table("classes", ["label", "category id", "name"], class_rows))
    if findings := quick_check(config, splits):
        logger.info("%s", findings_table(findings))
    device = next(state.model.parameters()).device
    images = f"{len(splits.train)} training and {len(splits.val)} validation images"
    if config.data.tile.size is not None:
        images += f", {epoch_length(splits.train, config.data)} tiles an epoch"
    how = f"{config.backbone.name} on {device} in {precision.resolve_precision(config.trainer.precision, device)}"
    length = f"up to {plan.steps(state.position)} steps of {images_per_step(config.trainer, world_size)} images"
    logger.info("%s; %s; %s; learning rate %.3g", images, how, length, state.optimizer.defaults["lr"])


def _finish(run_dir: Path, validation: Validation, metrics: dict[str, float]) -> None:
    """Write and say the end results; the metrics last, for they mark a run as finished."""
    validation.write_predictions(run_dir / "predictions.json")
    report = report_training(run_dir, validation, metrics)
    write_json(run_dir / SCORES_FILE, metrics, indent=2)
    assert validation.result is not None
    for text in (class_table(validation.result), *explain_absent(validation.result), metrics_table(metrics)):
        logger.info("%s", text)
    logger.info("run:      %s\npictures: %s\nreport:   %s", run_dir, run_dir / "pictures", report)
