"""Sweeps: every job in its folder, done once however often the command is given, on Hydra's launchers."""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskrcnn_train.cli.command import RETRY, Command, hydra_main, refuse_missing_files
from maskrcnn_train.cli.launchers import Launcher, launcher_of
from maskrcnn_train.engine.holding import held
from maskrcnn_train.reporting.jobs import JOBS, find_job, read_jobs, save_job
from maskrcnn_train.settings.compose import default_config, repeated_keys, swept_in_files, to_dataclass
from maskrcnn_train.settings.errors import UserError, as_user_error, one_line
from maskrcnn_train.settings.overrides import NOT_PART_OF_A_RUN, overrides_of, plain_value, quoted
from maskrcnn_train.settings.schema import TrainConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

MAX_CHECKED_JOBS = 200  # of a sweep, before its first job starts


def run_sweep(command: Command, overrides: list[str], config_dir: str | None) -> None:
    """All jobs of `-m` that are not finished: all are checked before the first starts, and none ends the others.
    Raises the first bug that ended a job, else the first UserError."""
    own = [text for text in overrides if text.startswith(("output_dir=", RETRY))]
    given = {text.split("=", 1)[0]: plain_value(text) for text in own}
    overrides = [text for text in overrides if text not in own]
    usual, retry = f"runs/sweep/{datetime.now():%Y-%m-%d_%H-%M-%S}", given.get(RETRY, False)
    folder = Path(str(given.get("output_dir") or usual)).absolute()
    if not isinstance(retry, bool):
        raise UserError(f"{RETRY}={retry} is no choice; write {RETRY}=true or leave it out")
    devices = ["auto"]
    if not any(text.startswith("hydra/sweeper=") for text in overrides):
        devices = _check_jobs(command, overrides, config_dir)

    search = [] if config_dir is None else ["--config-dir", config_dir]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints a page of its own and exits with 1
    bugs: list[Exception] = []
    with launcher_of(overrides, devices) as launcher:
        placed = [*overrides, *launcher.overrides, f"hydra.sweep.dir={quoted(str(folder))}"]
        sys.argv = [sys.argv[0], "-m", *placed, *search]
        if launcher.name != "basic":
            print(f"jobs by {launcher.name}; the output of job N is in {folder / JOBS}/N.log", flush=True)
        try:
            hydra_main(command.name, partial(_run_job, command, launcher, folder, retry, bugs))
        except UserError as error:
            found = [job for job in read_jobs(folder) if job.is_bug]  # in another process, or before
            bugs += [RuntimeError(f"{folder / str(job.number)}: {job.reason}") for job in found]
            raise (bugs or [error])[0] from None
        finally:
            _report_sweep(folder)


def _check_jobs(command: Command, overrides: list[str], config_dir: str | None) -> list[str]:
    """Compose every job, which raises UserError for the first mistake; the devices that they ask for."""
    command.warn(repeated_keys(overrides))  # of which Hydra gives its jobs the last
    jobs = jobs_of(command.name, command.schema, overrides, config_dir)[:MAX_CHECKED_JOBS]
    configs = [command.compose(job, config_dir) for job in jobs]
    for resume in (getattr(config, "resume", None) for config in configs):
        if resume not in (None, "auto"):  # all jobs would train that one run
            raise UserError(f"resume={resume} is for one training; a sweep goes on with -m and its output_dir=FOLDER")
    return [getattr(getattr(config, "trainer", config), "device", "cpu") for config in configs]


def jobs_of(name: str, schema: type[Any], overrides: list[str], config_dir: str | None) -> list[list[str]]:
    """The overrides of every job of `-m`, without Hydra's own, as Hydra's basic sweeper makes them. Raises UserError.

    An experiment may have the values to sweep over as well, in hydra.sweeper.params.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    try:
        parsed = parser.parse_overrides(overrides)
        single = [text for text, each in zip(overrides, parsed, strict=True) if not each.is_sweep_override()]
        single = [text for text in single if not text.startswith(("hydra/", "hydra.launcher."))]
        parsed = parser.parse_overrides(swept_in_files(name, schema, single, config_dir)) + parsed
        jobs = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    except HydraException as error:
        raise UserError(" ".join(str(error).split())) from error
    return [[text for text in job if not text.startswith(("hydra.", "hydra/"))] for job in jobs]


def _run_job(
    command: Command, launcher: Launcher, sweep: Path, retry: bool, bugs: list[Exception], composed: DictConfig
) -> Any:
    """One job of a sweep in its own folder, unless it is finished; a stopped training goes on.

    Errors that are no fault of the person are added to `bugs`.
    """
    from hydra.core.hydra_config import HydraConfig

    config, warnings = to_dataclass(composed, command.schema, command.check_rules)
    command.warn(warnings)
    hydra = HydraConfig.get()
    number = find_job(sweep, _identity(config), _told_apart_by(config, hydra.overrides.task), hydra.job.num).number
    folder = sweep / str(number)
    if Path(hydra.runtime.output_dir) != folder:
        with suppress(OSError):  # another job's; else Hydra has just made it
            Path(hydra.runtime.output_dir).rmdir()
    # a launcher's jobs can outlive the command
    with held(folder, sweep / JOBS / f"{number}.lock"):
        job = next(job for job in read_jobs(sweep) if job.number == number)
        if job.state == "finished" and folder.is_dir():
            print(f"{folder} is finished")
            return job.value
        try:
            if job.state == "failed" and not retry:
                raise UserError(f"{job.reason} (earlier; to repeat the job add {RETRY}=true)")
            with launcher.place(sweep / JOBS / f"{number}.log"):
                value = _run_in(folder, command, config)
        except Exception as error:
            user_error = as_user_error(error)
            reason = one_line(user_error or error)
            if job.state != "failed" or retry:
                save_job(sweep, replace(job, state="failed", reason=reason, is_bug=user_error is None))
            if user_error is None:
                bugs.append(error)
            print(f"error in {folder}: {reason}", file=sys.stderr)
            raise UserError(reason) from None  # of a class that any launcher can bring back from its process
        value = value if isinstance(value, float) else None
        save_job(sweep, replace(job, state="finished", reason="", is_bug=False, value=value))
    if launcher.name != "basic":
        print(f"{folder} is finished")
    return value


def _run_in(folder: Path, command: Command, config: Any) -> Any:
    if hasattr(config, "resume"):
        config = replace(config, resume=config.resume or "auto")
    elif folder.is_dir():  # a part of the result
        shutil.rmtree(folder)
    config = replace(config, output_dir=str(folder))
    refuse_missing_files(config)
    try:
        return command.run(config)
    finally:
        _give_memory_back()


def _give_memory_back() -> None:
    """To the system, after a job: glibc keeps what was freed in pieces, hundreds of megabytes in a long sweep."""
    gc.collect()
    with suppress(AttributeError, OSError, TypeError):  # another C library; on Windows none is called None
        ctypes.CDLL(None).malloc_trim(0)


def _identity(config: Any) -> dict[str, Any]:
    """The settings that make a job this one."""
    return {key: value for key, value in asdict(config).items() if key not in NOT_PART_OF_A_RUN}


def _told_apart_by(config: Any, given: Any) -> list[str]:
    """Overrides: of a training what differs from the defaults, of other commands those given."""
    return overrides_of(config, default_config()) if isinstance(config, TrainConfig) else list(given)


def _report_sweep(folder: Path) -> None:
    try:
        if any(folder.glob("*/metrics.json")) or any(job.reason for job in read_jobs(folder)):
            from maskrcnn_train.reporting.pages.sweep import write_sweep_report

            print(f"sweep: {write_sweep_report(folder)}")
    except UserError as error:  # must not hide what ended the jobs
        print(f"warning: no page of the sweep: {error}", file=sys.stderr)
