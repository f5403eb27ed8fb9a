"""What the jobs of a sweep can tell: which of them differ from the best beyond chance, and means over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_train.evaluation.coco.metrics import MEASURES
from maskrcnn_train.evaluation.diagnostics.bootstrap import Difference, difference
from maskrcnn_train.reporting.diagnostics import DRAWS_FILE, IMAGES
from maskrcnn_train.reporting.forms import fitted
from maskrcnn_train.reporting.runs import DATA_FILE, read_json
from maskrcnn_train.settings.overrides import saved_overrides

SEED = "seed"
MEASURES_GIVEN = tuple(f"evaluation.{name}=" for name in MEASURES)
# Student's t, 97.5 %, for 1 to 9 degrees of freedom; with more seeds the last, which is a little wide
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


@dataclass
class Repeated:
    """Jobs that differ in their seed only. settings: the others that vary. low, high: 95 % interval of the mean."""

    settings: dict[str, str]
    jobs: list[str]
    mean: float
    low: float
    high: float


def against_best(best: Path, other: Path, score: str) -> Difference | None:
    """Job minus best job in a score such as segm/AP, paired over the validation images; None where runs lack it.

    Both were scored on the same draws of the images (`draw_images`) if validation split, measures and the images that
    could be read are equal.
    """
    first, second = (_draws(folder) for folder in (best, other))
    ours, theirs = first.get(score, []), second.get(score, [])
    if _scoring(best) != _scoring(other) or first.get(IMAGES) != second.get(IMAGES):
        return None
    return difference(np.array(ours), np.array(theirs)) if ours and len(ours) == len(theirs) else None


def _draws(folder: Path) -> dict[str, list[float]]:
    path = folder / "study" / DRAWS_FILE
    draws: dict[str, list[float]] = fitted(dict[str, list[float]], read_json(path), str(path))
    return draws


def _scoring(folder: Path) -> tuple[Any, list[str]]:
    """The validation split, and what AP is the mean of where that is not the default."""
    measures = [text for text in saved_overrides(folder) if text.startswith(MEASURES_GIVEN)]
    splits = read_json(folder / DATA_FILE).get("splits")
    return splits.get("val") if isinstance(splits, dict) else None, measures


def over_seeds(settings: Mapping[str, dict[str, str]], scores: Mapping[str, float]) -> list[Repeated]:
    """Means of the jobs with several seeds, best first. settings, scores: by job; a job without a score is left out."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for job, values in settings.items():
        if job in scores:
            others = tuple((key, value) for key, value in values.items() if key != SEED)
            groups.setdefault(others, []).append(job)
    found = [_repeated(dict(others), jobs, scores) for others, jobs in groups.items() if len(jobs) > 1]
    return sorted(found, key=lambda each: -each.mean)


def _repeated(settings: dict[str, str], jobs: Sequence[str], scores: Mapping[str, float]) -> Repeated:
    mean, half = mean_and_half([scores[job] for job in jobs])
    return Repeated(settings, list(jobs), mean, max(mean - half, 0.0), min(mean + half, 1.0))


def mean_and_half(values: Sequence[float]) -> tuple[float, float]:
    """The mean of two or more values, and half of its 95 % interval."""
    t = T_QUANTILES[min(len(values) - 1, len(T_QUANTILES)) - 1]
    return statistics.mean(values), t * statistics.stdev(values) / len(values) ** 0.5
