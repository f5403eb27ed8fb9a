"""The main of every command: one run or a sweep, the help page, and user errors as one line with exit code 2.

A single run is composed by us, so that a mistake ends before torch is imported; sweeps (`-m`), `--cfg`, `--info` and
shell completion go through Hydra's own main.
"""

from __future__ import annotations

import argparse
import glob
import os
import shutil
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from maskrcnn_train import __version__
from maskrcnn_train.engine.run_folder import run_of
from maskrcnn_train.engine.signals import Interrupted
from maskrcnn_train.help import help_page
from maskrcnn_train.reporting.jobs import find_job, read_jobs, save_job
from maskrcnn_train.settings.compose import (
    Schema,
    conf_dir,
    default_config,
    load_command_config,
    repeated_keys,
    to_dataclass,
)
from maskrcnn_train.settings.errors import UserError, as_user_error, one_line
from maskrcnn_train.settings.overrides import NOT_PART_OF_A_RUN, overrides_of, quoted, saved_overrides
from maskrcnn_train.settings.schema import TrainConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

USER_ERROR = 2  # exit code for the person's mistakes
RETRY = "sweep.retry_failed"  # a setting of all commands, but only with -m
MAX_CHECKED_JOBS = 200  # of a sweep, before its first job starts


class Command(NamedTuple):
    """The parts of a command, as `run_command` takes them. said: warnings that were printed."""

    name: str
    schema: type[Any]
    check_rules: Callable[[Any], list[str]]
    run: Callable[[Any], Any]
    help: str
    load: Callable[..., tuple[Any, list[str]]]
    said: set[str]

    def compose(self, overrides: list[str], config_dir: str | None) -> Any:
        """What `run` takes, after its warnings."""
        config, warnings = self.load(self.name, self.schema, self.check_rules, overrides, config_dir)
        self.warn(warnings)
        return config

    def warn(self, warnings: list[str]) -> None:
        for warning in dict.fromkeys(warnings):
            if warning not in self.said:
                print(f"warning: {warning}", file=sys.stderr)
        self.said.update(warnings)


def run_command(
    name: str,
    schema: type[Schema],
    check_rules: Callable[[Schema], list[str]],
    run: Callable[[Any], Any],
    help: str,
    *,
    load: Callable[..., tuple[Any, list[str]]] = load_command_config,
) -> None:
    """The main of every command: `run(config)` once, or once for each job of a sweep.

    run: returns the number that a sweeper optimises. load: composes what `run` takes, and warnings. Exits with 2 after
    a UserError, with 128 + n after signal n. Every other error keeps its traceback, and the exit code is 1.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, _terminate)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        _dispatch(Command(name, schema, check_rules, run, help, load, set()))
    except KeyboardInterrupt:  # of a training a second one, while the first was being answered
        hint = "; to continue from the last checkpoint use resume=auto" if name == "train" else ""
        print(f"left at once{hint}", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # whoever read the output, head or less, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except Interrupted as interrupted:
        print(f"{interrupted}; {interrupted.hint}", file=sys.stderr)
        sys.exit(interrupted.exit_code)
    except Exception as error:
        user_error = as_user_error(error)
        if user_error is None:
            raise
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one line on each machine
            print(f"error: {one_line(user_error)}", file=sys.stderr)
        sys.exit(USER_ERROR)


def _terminate(number: int, _: Any) -> NoReturn:
    sys.exit(128 + number)


def _dispatch(command: Command) -> None:
    """Do what the command line asks for: help, a sweep, one of Hydra's own pages, or a single run."""
    sweeps = command.load is load_command_config
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_page(command.name, command.help, sweeps=sweeps), flush=True)
        return
    if "--version" in sys.argv[1:]:
        print(f"maskrcnn_train {__version__}")
        return
    arguments = _read_arguments(sys.argv[1:])
    if arguments.config_name or arguments.config_path:
        raise UserError("--config-name and --config-path are fixed; give --config-dir=FOLDER experiment=FILE")
    if arguments.multirun and not sweeps:
        raise UserError(f"-m runs every combination of values; {command.name} takes them without it")
    if arguments.multirun:
        _sweep(command, arguments.overrides, arguments.config_dir)
    elif arguments.cfg or arguments.info or arguments.shell_completion or arguments.hydra_help:
        flags = [text for text in sys.argv[1:] if text not in arguments.overrides]
        sys.argv = [sys.argv[0], *flags, *arguments.overrides]
        _hydra_main(command.name, command.run)
    else:
        config = command.compose(resumed_overrides(arguments.overrides), arguments.config_dir)
        _refuse_missing_files(config)
        command.run(config)


def _read_arguments(words: list[str]) -> argparse.Namespace:
    """Flags and overrides as Hydra reads them. Raises UserError for an unknown flag, such as `--lr 0.01`."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; settings are written KEY=VALUE, e.g. optimizer.lr=0.01")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    arguments = parser.parse_intermixed_args(words)  # intermixed: --config-dir may stand between two settings
    for text in arguments.overrides:
        if text.startswith(("hydra.run.dir=", "hydra.sweep.dir=")):  # every command makes its folder itself
            raise UserError(f"{text} has no effect; write output_dir={text.split('=', 1)[1]}")
        if text.startswith(RETRY) and not arguments.multirun:
            raise UserError(f"{RETRY} is for sweeps; add -m")
        if text == "output_dir=":
            raise UserError("output_dir is empty; write output_dir=FOLDER, or leave it out")
    return arguments


def resumed_overrides(overrides: list[str]) -> list[str]:
    """With resume=PATH: the settings of that run first, so that they need not be given again."""
    paths = [text.split("=", 1)[1] for text in overrides if text.startswith("resume=")]
    if not paths or paths[-1] in ("auto", "null"):
        return overrides
    saved = run_of(Path(paths[-1])) / "overrides.yaml"
    return [*saved_overrides(saved), *overrides] if saved.is_file() else overrides


def _refuse_missing_files(config: Any) -> None:
    """Raises UserError for a file to read that does not exist, before torch is imported."""
    for key in ("checkpoint", "predictions", "annotations", "compare", "replay", "run", "images"):
        value = getattr(config, key, None)
        for path in value if isinstance(value, list) else [value] if value else []:
            if not Path(path).expanduser().exists() and not (key == "images" and glob.has_magic(path)):
                raise UserError(f"{path} does not exist; set {key} to a file or folder that does")


def _sweep(command: Command, overrides: list[str], config_dir: str | None) -> None:
    """All jobs of `-m` that are not finished: all are checked before the first starts, and none ends the others.
    Raises the first bug that ended a job, else the first UserError."""
    given = dict(text.split("=", 1) for text in overrides if text.startswith(("output_dir=", RETRY)))
    overrides = [text for text in overrides if text.split("=", 1)[0] not in given]
    usual = f"runs/sweep/{datetime.now():%Y-%m-%d_%H-%M-%S}"
    folder, retry = Path(given.get("output_dir", usual)).absolute(), given.get(RETRY, "false").lower()
    if retry not in ("true", "false"):
        raise UserError(f"{RETRY}={retry} is no choice; write {RETRY}=true or leave it out")
    if not any(text.startswith("hydra/sweeper=") for text in overrides):
        _check_jobs(command, overrides, config_dir)

    search = [] if config_dir is None else ["--config-dir", config_dir]
    sys.argv = [sys.argv[0], "-m", *overrides, f"hydra.sweep.dir={quoted(str(folder))}", *search]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints a page of its own and exits with 1
    bugs: list[Exception] = []
    try:
        _hydra_main(command.name, lambda composed: _run_job(command, composed, folder, retry == "true", bugs))
    except UserError as error:
        found = [job for job in read_jobs(folder) if job.is_bug]  # in another process, or before
        bugs += [RuntimeError(f"{folder / str(job.number)}: {job.reason}") for job in found]
        raise (bugs or [error])[0] from None
    finally:
        _report_sweep(folder)


def _check_jobs(command: Command, overrides: list[str], config_dir: str | None) -> None:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        jobs = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    except HydraException as error:
        raise UserError(" ".join(str(error).split())) from error
    command.warn(repeated_keys(overrides))  # of which Hydra gives its jobs the last
    for job in jobs[:MAX_CHECKED_JOBS]:
        command.compose([text for text in job if text[:6] != "hydra."], config_dir)


def _run_job(command: Command, composed: DictConfig, sweep: Path, retry: bool, bugs: list[Exception]) -> Any:
    """One job of a sweep in its own folder, unless it is finished; a stopped training goes on.

    Errors that are no fault of the person are added to `bugs`.
    """
    from hydra.core.hydra_config import HydraConfig

    config, warnings = to_dataclass(composed, command.schema, command.check_rules)
    command.warn(warnings)
    hydra = HydraConfig.get()
    job = find_job(sweep, _identity(config), _told_apart_by(config, hydra.overrides.task), hydra.job.num)
    folder = sweep / str(job.number)
    if Path(hydra.runtime.output_dir) != folder:
        with suppress(OSError):  # another job's; else Hydra has just made it
            Path(hydra.runtime.output_dir).rmdir()
    if job.state == "finished" and folder.is_dir():
        print(f"{folder} is finished")
        return job.value
    try:
        if job.state == "failed" and not retry:
            raise UserError(f"{job.reason} (earlier; to repeat the job add {RETRY}=true)")
        if hasattr(config, "resume"):
            config = replace(config, resume=config.resume or "auto")
        elif folder.is_dir():  # a part of the result
            shutil.rmtree(folder)
        config = replace(config, output_dir=str(folder))
        _refuse_missing_files(config)
        value = command.run(config)
    except Exception as error:
        user_error = as_user_error(error)
        reason = one_line(user_error or error)
        if job.state != "failed" or retry:
            save_job(sweep, replace(job, state="failed", reason=reason, is_bug=user_error is None))
        if user_error is None:
            bugs.append(error)
        print(f"error in {folder}: {reason}", file=sys.stderr)
        raise UserError(reason) from None  # of a class that any launcher can bring back from its process
    number = value if isinstance(value, float) else None
    save_job(sweep, replace(job, state="finished", reason="", is_bug=False, value=number))
    return value


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


def _hydra_main(name: str, task: Callable[..., Any]) -> None:
    import hydra

    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(task)()
