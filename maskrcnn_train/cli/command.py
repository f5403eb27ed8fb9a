"""A command and its words: the parts of one, the arguments as Hydra reads them, and files that must be there."""

from __future__ import annotations

import argparse
import glob
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.presets import conf_dir

RETRY = "sweep.retry_failed"  # a setting of all commands, but only with -m
FOR_SWEEPS = (RETRY, "hydra/launcher=", "hydra.launcher.", "hydra/sweeper=", "hydra.sweeper.")


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


def read_arguments(words: list[str]) -> argparse.Namespace:
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
        if text.startswith(FOR_SWEEPS) and not arguments.multirun:
            raise UserError(f"{text.split('=', 1)[0]} is for sweeps; add -m")
        if text == "output_dir=":
            raise UserError("output_dir is empty; write output_dir=FOLDER, or leave it out")
    return arguments


def refuse_missing_files(config: Any) -> None:
    """Raises UserError for a file to read that does not exist, before torch is imported."""
    for key in ("checkpoint", "predictions", "annotations", "compare", "replay", "run", "images"):
        value = getattr(config, key, None)
        for path in value if isinstance(value, list) else [value] if value else []:
            if not Path(path).expanduser().exists() and not (key == "images" and glob.has_magic(path)):
                raise UserError(f"{path} does not exist; set {key} to a file or folder that does")


def hydra_main(name: str, task: Callable[..., Any]) -> None:
    import hydra

    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(task)()
