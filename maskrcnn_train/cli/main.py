"""The main of every command: one run or a sweep, the help page, and user errors as one line with exit code 2.

A single run is composed by us, so that a mistake ends before torch is imported; sweeps (`-m`), `--cfg`, `--info` and
shell completion go through Hydra's own main.
"""

from __future__ import annotations

import codecs
import io
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from maskrcnn_train import __version__
from maskrcnn_train.cli.command import (
    Command,
    hydra_main,
    read_arguments,
    refuse_missing_files,
)
from maskrcnn_train.cli.help import help_page
from maskrcnn_train.cli.sweep import run_sweep
from maskrcnn_train.engine.signals import Interrupted
from maskrcnn_train.settings.compose import Schema, beside_resumed, load_command_config
from maskrcnn_train.settings.errors import UserError, as_user_error, one_line
from maskrcnn_train.settings.names import schema_keys
from maskrcnn_train.settings.overrides import with_texts

USER_ERROR = 2  # exit code for the person's mistakes
SIGPIPE = 13  # Windows has pipes that break, but no signal for it


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
    codecs.register_error("spelled", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="spelled")
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
        sys.exit(128 + SIGPIPE)
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


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """For letters that the output's encoding lacks: a pipe on Windows has not even the rules of our tables."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = error.object[error.start : error.end].replace("\u2500", "-")
    return letters.encode("ascii", "backslashreplace").decode("ascii"), error.end


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
    arguments = read_arguments(sys.argv[1:])
    if arguments.config_name or arguments.config_path:
        raise UserError("--config-name and --config-path are fixed; give --config-dir=FOLDER experiment=FILE")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and (command.name != "train" or arguments.multirun):
        raise UserError("torchrun is for a single training; everything else runs in one process: start it with python")
    if arguments.multirun and not sweeps:
        raise UserError(f"-m runs every combination of values; {command.name} takes them without it")
    if arguments.multirun and (arguments.cfg or arguments.info):
        raise UserError("-m trains; --cfg and --info print one configuration: leave -m out")
    overrides = with_texts(arguments.overrides, schema_keys(command.schema, texts=True))
    if arguments.cfg or arguments.info or arguments.shell_completion or arguments.hydra_help:
        flags = [text for text in sys.argv[1:] if text not in arguments.overrides]
        sys.argv = [sys.argv[0], *flags, *overrides]
        hydra_main(command.name, command.run)
    elif arguments.multirun:
        run_sweep(command, overrides, arguments.config_dir)
    else:
        overrides, warnings = beside_resumed(command.name, command.schema, overrides, arguments.config_dir)
        command.warn(warnings)
        config = command.compose(overrides, arguments.config_dir)
        refuse_missing_files(config)
        command.run(config)
