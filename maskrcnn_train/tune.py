"""`python -m maskrcnn_train.tune`: search over the settings of a training, with any number of workers."""

from __future__ import annotations

import logging
import shlex
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from maskrcnn_train.cli.main import run_command
from maskrcnn_train.engine.signals import Interrupted
from maskrcnn_train.files import write_text
from maskrcnn_train.settings.command_rules import check_tune_rules
from maskrcnn_train.settings.command_schema import TuneConfig
from maskrcnn_train.settings.compose import default_config
from maskrcnn_train.settings.errors import UserError, as_user_error, one_line
from maskrcnn_train.settings.overrides import changed_settings, option_text, quoted
from maskrcnn_train.tuning.search import Search, load_search

if TYPE_CHECKING:
    from maskrcnn_train.tuning.records import TrialRecord
    from maskrcnn_train.tuning.trials import Trial, Trials

HELP = """
Search over the settings of a training. It takes the keys of a training; those with several values are searched.

  python -m maskrcnn_train.tune data=roboflow data.root=DIR backbone=resnet50,resnet101 trials=30
  python -m maskrcnn_train.tune data=roboflow data.root=DIR optimizer.lr='tag(log,interval(1e-3,1e-1))'
  python -m maskrcnn_train.tune experiment=shapes rpn.nms.post_train='range(250,2001,250)' metric=bbox/AP

Several values:
  KEY=A,B,...                        one of these; the first trial takes the first
  KEY=range(LOW,HIGH,S)              LOW, LOW + S, ... below HIGH
  KEY=interval(LOW,HIGH)             any number between; int(interval(LOW,HIGH)): a whole number
  KEY=tag(log,interval(LOW,HIGH))    the same, on a log scale

To continue a search, repeat its command with output_dir=FOLDER. Several such commands at once share the work.
"""
logger = logging.getLogger("maskrcnn_train")
MAX_FAILURES = 3  # in a row; then the settings are at fault, not one trial


@dataclass
class TuneResult:
    """records: all trials, best first. folder: holds the trials, the table, the page and experiment/best.yaml."""

    records: list[TrialRecord]
    folder: Path


def tune(search: Search) -> TuneResult:
    """Train one trial after another until there are `trials`. Raises UserError when several fail in a row, or all."""
    from maskrcnn_train.tuning.storages import naming_lost_storage
    from maskrcnn_train.tuning.trials import Trials
    from maskrcnn_train.tuning.workers import run_workers

    folder = _open_folder(search.config)
    trials = Trials(folder, search)
    with naming_lost_storage():
        if search.config.workers > 1:
            run_workers(search, folder)
        else:
            _work(trials, search)
        return _say_results(trials, search)


def _work(trials: Trials, search: Search) -> None:
    """Train trials until all are given out, or time is over."""
    from maskrcnn_train.reporting.terminal.progress import setup_logging

    began, failures = time.monotonic(), 0
    while search.config.minutes is None or time.monotonic() - began < 60 * search.config.minutes:
        trial = trials.begin()
        if trial is None:
            break
        setup_logging()
        logger.info("trial %s: %s", trial.folder.name, " ".join(trial.overrides))
        with trial.alive:
            fault = _run(trial, trials, search)
        failures = failures + 1 if fault else 0
        _write_results(trials, search)
        if failures == MAX_FAILURES:
            raise UserError(f"{failures} trials failed one after the other, the last: {fault}")


def _say_results(trials: Trials, search: Search) -> TuneResult:
    from maskrcnn_train.reporting.pages.searches import search_table
    from maskrcnn_train.reporting.terminal.progress import setup_logging

    setup_logging()
    records = trials.records()
    logger.info("%s", search_table(records, search.metrics))
    logger.info("%s", _next_steps(trials.folder, records, search.metric))
    if records and all(record.state == "failed" for record in records):
        raise UserError(f"no trial ended well; {records[-1].reason}; mend that, then search in a new output_dir")
    return TuneResult(records, trials.folder)


def _run(trial: Trial, trials: Trials, search: Search) -> str:
    """Train one trial and record its result; returns why the training failed, or an empty text."""
    from maskrcnn_train.train import train
    from maskrcnn_train.tuning.trials import Pruned, score_in

    config = None
    try:
        config = search.training(trial.overrides)
        config = replace(config, output_dir=str(trial.folder), resume="auto" if trial.folder.exists() else None)
        result = train(config, on_evaluation=trial.report)
        trials.end(trial, scores=[score_in(result.metrics, metric) for metric in search.metrics])
    except Pruned as pruned:
        logger.info("trial %s pruned: %s", trial.folder.name, pruned)
        trials.end(trial)
    except Exception as error:
        user_error = as_user_error(error)
        if user_error is None:
            raise
        logger.error("trial %s failed: %s", trial.folder.name, one_line(user_error))
        trials.end(trial, reason=one_line(user_error))
        return one_line(user_error) if config else ""  # contradicting values say nothing about the other trials
    except Interrupted as interrupted:  # where the training is complete, the next worker records its result
        trials.hand_back(trial)
        interrupted.hint = f"go on with the same command and output_dir={trials.folder}"
        raise
    return ""


def _open_folder(config: TuneConfig) -> Path:
    """A new folder, or that of a search to continue. Raises UserError for a folder with other content."""
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.tuning.storages import LOCKS

    if config.output_dir is not None and (Path(config.output_dir) / LOCKS).is_dir():
        return Path(config.output_dir)
    return open_run_folder(config.output_dir, "tune")


def _write_results(trials: Trials, search: Search) -> None:
    """Write trials.json, the table, the page, and the best settings as an experiment; one worker at a time."""
    from maskrcnn_train.reporting.pages.searches import write_trials
    from maskrcnn_train.reporting.pages.sweep import write_sweep_report
    from maskrcnn_train.tuning.records import importances

    with trials.lock:
        records, shares = trials.records(), importances(trials.study, len(search.space))
        write_trials(trials.folder, records, shares, metrics=search.metrics)
        if search.config.keep == "best":
            trials.free_checkpoints()
        if records and records[0].state == "complete":
            _write_best(trials.folder, records[0], search)
        try:
            if any(trials.folder.glob("*/overrides.yaml")):
                write_sweep_report(trials.folder)
        except UserError as error:  # a damaged file of one trial must not end the search
            logger.warning("no page of the search: %s", error)


def _write_best(folder: Path, best: TrialRecord, search: Search) -> None:
    """Write all settings of the best trial, including those of its presets, but not the GPU of this worker."""
    settings = changed_settings(search.training(best.overrides), default_config())
    settings.pop("trainer.device", None)
    head = [
        f"Trial {best.number}, best of a search: {search.metric} {best.score:.4f} on the images that it was chosen on.",
        f"use: python -m maskrcnn_train --config-dir {shlex.quote(str(folder))} experiment=best",
    ]
    write_text(folder / "experiment" / "best.yaml", option_text(head, settings))


def _next_steps(folder: Path, records: list[TrialRecord], metric: str) -> str:
    """The result's files, and the commands to run next."""
    from maskrcnn_train.reporting.pages.searches import nothing_learnt

    lines = [f"search:   {folder}", f"report:   {folder / 'report.html'}"]
    complete = [each.number for each in records if each.state == "complete"]
    if warning := nothing_learnt([each.score for each in records if each.state == "complete"], metric):
        return "\n".join([*lines, warning])
    if complete:
        train = shlex.join(["--config-dir", str(folder), "experiment=best"])
        lines.append(f"train with the best settings: python -m maskrcnn_train {train}")
    if 0 in complete[1:]:
        files = [quoted(str(folder / f"{number}/checkpoints/last.pt")) for number in (0, complete[0])]
        compare = shlex.quote(f"compare=[{','.join(files)}]")
        lines.append(f"is it better than the first trial, or luck? python -m maskrcnn_train.evaluate {compare}")
    return "\n".join(lines)


def run(search: Search) -> None:
    from maskrcnn_train.data.splits.splitting import read_splits

    try:
        from maskrcnn_train.tuning.methods import check_sampler
    except ImportError:
        raise UserError("tune needs Optuna; install it with: pip install 'maskrcnn-train[tune]'") from None
    check_sampler(search.config.sampler)
    classes = read_splits(search.config).classes.names  # faults of the data stop it before torch is imported
    for metric in search.metrics:
        _, _, of_class = metric.partition("/AP/")
        if of_class and of_class not in classes:
            raise UserError(f"metric={metric} names an unknown class; the classes are {', '.join(classes)}")
    tune(search)


def main() -> None:
    run_command("tune", TuneConfig, check_tune_rules, run, HELP, load=load_search)


if __name__ == "__main__":
    main()
