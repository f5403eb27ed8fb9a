"""The folder of a run: where it is, and the plain files that say what it does."""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import sys
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_train import __version__
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import NOT_PART_OF_A_RUN, overrides_of

logger = logging.getLogger("maskrcnn_train")


def open_run_folder(config: Any, command: str) -> Path:
    """Make the folder of a new run, or find the one to resume. Raises UserError or OSError.

    An existing, non-empty folder is refused unless `resume` says so.
    """
    resumed = find_run(config, Path("runs") / command) if getattr(config, "resume", None) else None
    if resumed is not None:
        return resumed
    if config.output_dir is None:
        folder = _unused(Path("runs") / command / datetime.now().strftime("%Y-%m-%d_%H-%M-%S"))
    else:
        folder = Path(config.output_dir)
    if folder.is_dir() and any(folder.iterdir()):
        way_on = f", or continue it with resume={folder}" if command == "train" else ""
        raise UserError(f"output_dir={folder} is not empty; choose another{way_on}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _unused(folder: Path) -> Path:
    candidate, number = folder, 1
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}_{number}")
    return candidate


def find_run(config: Any, runs: Path) -> Path | None:
    """The run that `resume` names: a path, or for `auto` the newest of the same settings (None: there is none)."""
    if config.resume != "auto":
        folder = run_of(Path(config.resume))
        if not (folder / "checkpoints").is_dir():
            raise UserError(f"resume={config.resume} names no run: {folder / 'checkpoints'} does not exist")
        return folder
    if config.output_dir is not None:
        folder = Path(config.output_dir)
        return folder if (folder / "checkpoints").is_dir() else None
    wanted = _comparable(asdict(config))
    for path in sorted(runs.glob("*/config.yaml"), key=lambda path: path.stat().st_mtime, reverse=True):
        if (path.parent / "checkpoints").is_dir() and _comparable(yaml.safe_load(path.read_text())) == wanted:
            return path.parent
    return None


def run_of(path: Path) -> Path:
    """The run's folder that holds a checkpoint; a folder is taken as it is."""
    return path.parent.parent if path.suffix == ".pt" else path


def _comparable(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in NOT_PART_OF_A_RUN}


def describe_run(folder: Path, config: Any, defaults: Any, classes: dict[str, Any]) -> None:
    """Write config.yaml, overrides.yaml, classes.json and environment.json."""
    plain = asdict(config)
    write_whole(folder / "config.yaml", yaml.safe_dump(plain, sort_keys=False))
    write_whole(folder / "overrides.yaml", yaml.safe_dump(overrides_of(config, defaults)))
    write_whole(folder / "classes.json", json.dumps(classes, indent=2) + "\n")
    write_whole(folder / "environment.json", json.dumps(environment(), indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a file aside and rename it: whoever reads it meanwhile finds the old one or the new one, never a part."""
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(text)
    os.replace(partial, path)


def environment() -> dict[str, Any]:
    """The machine and the versions that a result depends on."""
    return {
        "command": shlex.join(sys.orig_argv),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "maskrcnn_train": __version__,
        **{name: version(name) for name in ("torch", "torchvision", "numpy")},
    }
