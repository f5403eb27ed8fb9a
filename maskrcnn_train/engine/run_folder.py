"""Where a command writes: a new folder, or that of the run to resume. Does not import torch."""

import itertools
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import NOT_PART_OF_A_RUN, run_of
from maskrcnn_train.settings.schema import TrainConfig

LOG_FILE = "train.log"  # the first file of a training


def open_run_folder(output_dir: str | None, command: str) -> Path:
    """Make the folder of a new run, by default in runs/. Raises UserError for one that is not empty, or OSError."""
    if output_dir is None:
        return _unused(Path("runs") / command / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    folder = Path(output_dir)
    if folder.is_dir() and any(folder.iterdir()):
        hint = f", or continue it with resume={folder}" if command == "train" else ""
        raise UserError(f"output_dir={folder} is not empty; choose another{hint}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _unused(folder: Path) -> Path:
    """Make the folder, with a number where a command of the same second has it."""
    for number in itertools.count(1):
        numbered = folder if number == 1 else folder.with_name(f"{folder.name}_{number}")
        with suppress(FileExistsError):
            numbered.mkdir(parents=True)
            break
    return numbered


def find_run(config: TrainConfig, runs: Path) -> Path | None:
    """The run that `resume` names: a path, or for `auto` the newest of the same settings (None: there is none).

    With `output_dir`, `auto` takes any run there, even one that ended before its first checkpoint.
    """
    if config.resume is None:
        return None
    if config.resume != "auto":
        folder = run_of(Path(config.resume))
        if not (folder / "checkpoints").is_dir():
            raise UserError(f"resume={config.resume} names no run: {folder / 'checkpoints'} does not exist")
        if config.output_dir is not None and Path(config.output_dir).resolve() != folder.resolve():
            raise UserError(
                f"resume={config.resume} goes on in its own folder, not in output_dir={config.output_dir}; leave "
                "output_dir out, or copy the run there and resume the copy"
            )
        return folder
    if config.output_dir is not None:
        folder = Path(config.output_dir)
        return folder if (folder / "checkpoints").is_dir() or (folder / LOG_FILE).is_file() else None
    free, ours = dict.fromkeys(NOT_PART_OF_A_RUN), asdict(config)
    for path in sorted(runs.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime, reverse=True):
        settings = _settings_in(path) if (path.parent / "checkpoints").is_dir() else None
        if isinstance(settings, dict) and settings | free == ours | free:
            return path.parent
    return None


def _settings_in(path: Path) -> Any:
    """The content of a config.yaml; None where it is damaged, for that run is not the one to resume."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
