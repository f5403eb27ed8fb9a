"""Train, evaluate, report: one run from its configuration to its folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from maskrcnn_train.checking.data import quick_check
from maskrcnn_train.checking.table import findings_table
from maskrcnn_train.data.loading import Loaders, build_loaders, naming_lost_workers
from maskrcnn_train.data.splits.splitting import Splits, read_splits
from maskrcnn_train.data.summary import summarize
from maskrcnn_train.engine import distributed, precision
from maskrcnn_train.engine.checkpoint import Checkpoints, restore
from maskrcnn_train.engine.failed_steps import Autopsies
from maskrcnn_train.engine.loop import fit
from maskrcnn_train.engine.optimizer import images_per_step
from maskrcnn_train.engine.plan import Plan
from maskrcnn_train.engine.profiling import profiled
from maskrcnn_train.engine.run_folder import describe_run, open_run_folder
from maskrcnn_train.engine.signals import StopRequest
from maskrcnn_train.engine.state import TrainingState, build_state
from maskrcnn_train.engine.validation import Validation
from maskrcnn_train.evaluation.coco.metrics import explain_absent
from maskrcnn_train.files import write_json, write_text
from maskrcnn_train.model.mask_rcnn import MaskRCNN, build_model
from maskrcnn_train.model.weights.pretrained import start_from_weights
from maskrcnn_train.report import report_training
from maskrcnn_train.reporting.diagnostics import write_diagnostics
from maskrcnn_train.reporting.runs import DATA_FILE
from maskrcnn_train.reporting.tensorboard import MetricWriter
from maskrcnn_train.reporting.terminal.progress import Progress, setup_logging
from maskrcnn_train.reporting.terminal.tables import class_table, metrics_table, table
from maskrcnn_train.reporting.terminal.weights import weights_listing, weights_summary
from maskrcnn_train.settings.compose import load_config
from maskrcnn_train.settings.schema import TrainConfig

logger = logging.getLogger("maskrcnn_train")


@dataclass
class TrainResult:
    """metrics: of the last evaluation, fractions, e.g. metrics["segm/AP"]. run_dir: where everything was written.

    late_signal: one that came when the last step was done, and changed nothing here.
    """

    metrics: dict[str, float]
    run_dir: Path
    late_signal: int | None = None


def train(
    config: TrainConfig,
    splits: Splits | None = None,
    weights: Path | None = None,
    on_evaluation: Callable[[float, dict[str, float]], None] | None = None,
) -> TrainResult:
    """Train as configured. splits, weights: what `read_splits` and `find_weights` gave, if they were called before.

    on_evaluation: told the share of the training that is done, 0..1, and the metrics; what it raises ends the training.

    Raises UserError for the person's mistakes, BadStep (a UserError), Interrupted after a signal.

    >>> train(load_config(["experiment=shapes", "trainer.max_steps=2"])).metrics["segm/AP"]  # doctest: +SKIP
    """
    splits = splits or read_splits(config)
    with distributed.joined_world() as world, StopRequest() as stop:
        device = precision.resolve_device(config.trainer.device, world.local_rank)
        precision.set_determinism(config.trainer.deterministic)
        run_dir = distributed.broadcast(open_run_folder(config, "train") if world.is_main else None, world)
        console = setup_logging(run_dir, enabled=world.is_main)

        loaders = build_loaders(config, rank=world.rank, world_size=world.size, splits=splits)
        about = {"config": asdict(config), "classes": loaders.classes.to_plain()}
        checkpoints = Checkpoints(run_dir / "checkpoints", about=about, enabled=world.is_main)
        model = _initial_model(config, loaders, weights, checkpoints, run_dir if world.is_main else None)
        state = build_state(config, _ready(model, config, device), world)
        plan = Plan.of(config.trainer, len(loaders.train))
        if checkpoints.exist:
            _resume(state, checkpoints)
            if plan.progress(state.position) >= 1 and (run_dir / "metrics.json").exists():
                logger.info("%s is finished: nothing to do. Train longer with e.g. trainer.epochs", run_dir)
                return TrainResult(json.loads((run_dir / "metrics.json").read_text()), run_dir)
        if world.is_main:
            describe_run(run_dir, config, load_config(), loaders.classes.to_plain())
            write_json(run_dir / DATA_FILE, summarize(splits), indent=2)
        _log_start(config, splits, state, plan, world.size)

        validation = Validation(loaders.val, config, world)
        autopsies = Autopsies(run_dir / "autopsy", about=about, trainer=config.trainer, rank=world.rank)
        with (
            naming_lost_workers(),
            profiled(run_dir / "profile", enabled=config.trainer.profile and world.is_main) as after_step,
            MetricWriter(run_dir, purge_step=state.position.step or None, enabled=world.is_main) as writer,
            Progress("train", console=console, enabled=world.is_main) as progress_bar,
        ):
            if world.is_main:  # the others may be here before the file is
                writer.text("config", f"```yaml\n{(run_dir / 'config.yaml').read_text()}\n```")

            def evaluate(model: nn.Module, step: int) -> dict[str, float]:
                metrics = validation.evaluate(model)
                writer.scalars(step, metrics)
                validation.draw(run_dir, writer, step)
                logger.info("step %d: %s", step, metrics_table(metrics))
                if on_evaluation is not None:
                    on_evaluation(min(plan.progress(state.position), 1.0), metrics)
                return metrics

            metrics = fit(
                state,
                loaders.train,
                config,
                plan=plan,
                world=world,
                evaluate=evaluate,
                main_metric=validation.main_metric,
                writer=writer,
                progress_bar=progress_bar,
                checkpoints=checkpoints,
                autopsies=autopsies,
                after_step=after_step,
                stop=stop,
            )
            if world.is_main and config.evaluation.study:
                diagnostics = validation.diagnose(config.seed)
                for name, picture in write_diagnostics(run_dir / "study", diagnostics).items():
                    writer.picture(state.position.step, f"study/{name}", picture)
        if world.is_main:
            _finish(run_dir, validation, metrics)
    return TrainResult(metrics, run_dir, stop.number)


def _initial_model(
    config: TrainConfig, loaders: Loaders, weights: Path | None, checkpoints: Checkpoints, run_dir: Path | None
) -> MaskRCNN:
    """The model as a training begins, or as a resumed one needs it. run_dir: None on ranks that do not write."""
    torch.manual_seed(config.seed)
    model = build_model(config, loaders.classes.num_classes)
    if not checkpoints.exist:
        report = start_from_weights(model, config, loaders.classes.names, weights)
        if report is not None and run_dir is not None:
            write_text(run_dir / "weights.txt", weights_listing(report))
            logger.info("%s", weights_summary(report))
            for warning in report.warnings:
                logger.warning("%s", warning)
    return model


def _ready(model: MaskRCNN, config: TrainConfig, device: torch.device) -> MaskRCNN:
    """On its device, in its memory layout, compiled if that is wanted."""
    model = precision.place(model, device, channels_last=config.trainer.channels_last)
    if config.trainer.compile:
        model.backbone.compile()
    return model


def _resume(state: TrainingState, checkpoints: Checkpoints) -> None:
    content, trouble = checkpoints.load_last()
    restore(state, content)
    if trouble:
        logger.warning("%s; going on from the checkpoint before it", trouble)
    logger.info("resumed %s at step %d", checkpoints.folder.parent, state.position.step)


def _log_start(config: TrainConfig, splits: Splits, state: TrainingState, plan: Plan, world_size: int) -> None:
    """What is about to happen: data and what of it is not used, classes, doubts, device, precision, length, lr."""
    for note in splits.notes:
        logger.info("note: %s", note)
    rows = [
        (name, finding.count, finding.reason, "left out" if finding.dropped else "repaired", finding.examples[0])
        for name, findings in splits.skipped.items()
        for finding in findings
    ]
    if rows:
        logger.info("%s", table("data not used as it stands", ["split", "count", "reason", "", "first"], rows))
    classes = zip(splits.classes.ids, splits.classes.names, strict=True)
    class_rows = [(label, *row) for label, row in enumerate(classes, start=1)]
    logger.info("%s", table("classes", ["label", "category id", "name"], class_rows))
    if findings := quick_check(config, splits):
        logger.info("%s", findings_table(findings))
    device = next(state.model.parameters()).device
    logger.info(
        "%d training and %d validation images; %s on %s in %s; up to %d steps of %d images; learning rate %.3g",
        len(splits.train),
        len(splits.val),
        config.backbone.name,
        device,
        precision.resolve_precision(config.trainer.precision, device),
        plan.steps,
        images_per_step(config.trainer, world_size),
        state.optimizer.defaults["lr"],
    )


def _finish(run_dir: Path, validation: Validation, metrics: dict[str, float]) -> None:
    """Write and say the end results."""
    write_json(run_dir / "metrics.json", metrics, indent=2)
    validation.write_predictions(run_dir / "predictions.json")
    report = report_training(run_dir, validation)
    assert validation.result is not None
    logger.info("%s", class_table(validation.result))
    for sentence in explain_absent(validation.result):
        logger.info("%s", sentence)
    logger.info("%s", metrics_table(metrics))
    logger.info("run:      %s\npictures: %s\nreport:   %s", run_dir, run_dir / "pictures", report)
