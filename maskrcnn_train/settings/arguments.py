"""The command line: Hydra's flags, our version, and a way out for what neither knows."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from maskrcnn_train import __version__
from maskrcnn_train.settings.errors import UserError


def read_arguments(words: list[str]) -> argparse.Namespace:
    """Flags and overrides as Hydra reads them; prints the version and exits with `--version`.

    Raises UserError for an unknown flag, such as `--lr 0.01`, and for Hydra's own keys of a folder.
    """
    from hydra._internal.utils import get_args_parser

    if "--version" in words:
        print(f"maskrcnn_train {__version__}")
        sys.exit(0)

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; settings are written KEY=VALUE, e.g. optimizer.lr=0.01")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    arguments = parser.parse_intermixed_args(words)  # intermixed: --config-dir may stand between two settings
    for text in arguments.overrides:
        if text.startswith(("hydra.run.dir=", "hydra.sweep.dir=")):  # every command makes its folder itself
            raise UserError(f"{text} has no effect; write output_dir={text.split('=', 1)[1]}")
        if text == "output_dir=":
            raise UserError("output_dir is empty; write output_dir=FOLDER, or leave it out")
    return arguments
