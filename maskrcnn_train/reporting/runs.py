"""Read a run's folder back: whatever files it has, each as plain data."""

import json
import shlex
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_train.evaluation.diagnostics.diagnostics import Diagnostics
from maskrcnn_train.reporting.forms import fitted
from maskrcnn_train.reporting.tensorboard import METRICS_FILE, read_metrics
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import saved_overrides

ANALYSIS_FILE = "analysis.json"
DATA_FILE = "data.json"
SCORES_FILE = "metrics.json"  # the last file of a training: where it is, the others are
NOT_USED = {"reason": str, "count": int, "dropped": bool, "first": str}
SPLIT: dict[str, Any] = dict.fromkeys(("images", "empty_images", "objects", "crowd"), int)
SPLIT |= {"annotations": str, "classes": dict[str, int], "not_used": [NOT_USED]}
LIMITS = {"iou_thresholds": list[float], "size_limits": list[float]}


@dataclass
class RunFiles:
    """The files of a run; an absent one is empty here.

    overrides: "key=value" each. metrics: metrics.json. history: the lines of metrics.jsonl. data: data.json.
    diagnostics: by kind, of study/study.json. analysis: analysis.json. limits: evaluation.iou_thresholds and
    evaluation.size_limits of config.yaml.
    """

    folder: Path
    config: str
    overrides: list[str]
    metrics: dict[str, float]
    history: list[dict[str, Any]]
    class_names: list[str]
    environment: dict[str, Any]
    weights: str
    pictures: list[Path]
    data: dict[str, Any]
    diagnostics: dict[str, Diagnostics]
    analysis: dict[str, Any]
    limits: dict[str, list[float]]

    @property
    def scored_step(self) -> int | None:
        """The step that `metrics` were taken at; None where the history does not have them."""
        for line in reversed(self.history):
            shared = [key for key in line if "/AP" in key]
            if shared and all(line[key] == self.metrics.get(key) for key in shared):
                return int(line["step"])
        return None

    @property
    def command(self) -> str:
        """The training from the defaults alone, whatever presets it was started with."""
        return " ".join(["python -m maskrcnn_train", *map(shlex.quote, self.overrides)])


def read_run(folder: Path, analysis: Path | None = None) -> RunFiles:
    """Everything a report shows. analysis: the folder of an `analyze`; None: the newest one inside the run's, if any.

    Raises UserError for a folder that isn't there or holds no run, and for an analysis that isn't one.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of a run, e.g. runs/train/<date>_<time>")
    classes, study = folder / "classes.json", folder / "study" / "study.json"
    data = {"splits": {}, "notes": []} | read_json(folder / DATA_FILE)
    run = RunFiles(
        folder=folder,
        config=_text(folder / "config.yaml"),
        overrides=saved_overrides(folder),
        metrics=read_scores(folder),
        history=read_metrics(folder / METRICS_FILE),
        class_names=fitted(list[str], read_json(classes).get("names", []), f"{classes}, names"),
        environment=read_json(folder / "environment.json"),
        weights=_text(folder / "weights.txt"),
        pictures=sorted((folder / "pictures").glob("*.jpg")),
        data=fitted({"splits": {str: SPLIT}, "notes": list[str]}, data, str(folder / DATA_FILE)),
        diagnostics=fitted(dict[str, Diagnostics], read_json(study), str(study)),
        analysis=_analysis(folder, analysis),
        limits=_limits(folder / "config.yaml"),
    )
    if not (run.config or run.metrics or run.history):
        raise UserError(f"{folder} holds no run: none of config.yaml, metrics.json and {METRICS_FILE} is in it")
    return run


def _limits(config: Path) -> dict[str, list[float]]:
    settings = read_yaml(config)
    section = settings.get("evaluation") if isinstance(settings, dict) else None
    known = isinstance(section, dict) and section.keys() >= LIMITS.keys()
    found: dict[str, list[float]] = fitted(LIMITS, section, f"{config}, evaluation") if known else {}
    if found and len(found["size_limits"]) != 2:
        raise UserError(f"{config}, evaluation, size_limits is not two numbers; make the file again or remove it")
    return found


def _analysis(run: Path, given: Path | None) -> dict[str, Any]:
    if given is not None:
        if not (given / ANALYSIS_FILE).is_file():
            raise UserError(f"analysis={given} holds no {ANALYSIS_FILE}; give the folder that analyze wrote")
        return read_json(given / ANALYSIS_FILE)
    found = sorted(run.glob(f"*/{ANALYSIS_FILE}"), key=lambda path: path.stat().st_mtime)
    return read_json(found[-1]) if found else {}


def read_yaml(path: Path) -> Any:
    """None where the file is absent. Raises UserError for a damaged one."""
    try:
        return yaml.safe_load(_text(path))
    except yaml.YAMLError:
        raise UserError(f"{path} is not YAML; was its run cut short? Remove it or make it again") from None


def read_scores(folder: Path) -> dict[str, float]:
    """metrics.json: the finite numbers in it; a validation loss may be NaN."""
    metrics = read_json(folder / SCORES_FILE)
    return {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float)) and isfinite(value)}


def read_json(path: Path) -> dict[str, Any]:
    """An object; empty where the file is absent. Raises UserError for a damaged one."""
    try:
        found = json.loads(_text(path) or "{}")
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); was its run cut short? Remove it or make it again") from None
    return found if isinstance(found, dict) else {}


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
