"""Read a run's folder back: whatever files it has, each as plain data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_train.reporting.tensorboard import METRICS_FILE, read_metrics


@dataclass
class RunFiles:
    """The files of a run; an absent one is empty here.

    overrides: "key=value" each. metrics: metrics.json. history: the lines of metrics.jsonl.
    """

    folder: Path
    config: str = ""
    overrides: list[str] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    pictures: list[Path] = field(default_factory=list)


def read_run(folder: Path) -> RunFiles:
    """Everything a report shows. Raises ValueError for a folder that isn't there or holds no run."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the folder of a run, e.g. runs/train/<date>_<time>")
    history = folder / METRICS_FILE
    run = RunFiles(
        folder=folder,
        config=_text(folder / "config.yaml"),
        overrides=read_overrides(folder),
        metrics=_scores(_json(folder / "metrics.json")),
        history=read_metrics(history) if history.exists() else [],
        class_names=list(_json(folder / "classes.json").get("names", [])),
        environment=_json(folder / "environment.json"),
        weights=_text(folder / "weights.txt"),
        pictures=sorted((folder / "pictures").glob("*.jpg")),
    )
    if not (run.config or run.metrics or run.history):
        raise ValueError(f"{folder} holds no run: none of config.yaml, metrics.json and {METRICS_FILE} is in it")
    return run


def read_overrides(folder: Path) -> list[str]:
    """overrides.yaml: a list of "key=value"."""
    found = yaml.safe_load(_text(folder / "overrides.yaml")) or []
    return [str(item) for item in found]


def _scores(metrics: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float))}


def _json(path: Path) -> dict[str, Any]:
    found = json.loads(_text(path) or "{}")
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
