"""What a search found: a table for the terminal, `trials.json`, and what the page of its folder shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from maskrcnn_train.files import write_json, write_rows
from maskrcnn_train.reporting.forms import fitted
from maskrcnn_train.reporting.runs import read_json
from maskrcnn_train.reporting.terminal.tables import percent, table
from maskrcnn_train.settings.schema import LATENCY
from maskrcnn_train.tuning.search import is_score

if TYPE_CHECKING:
    from maskrcnn_train.tuning.records import TrialRecord

TRIALS_FILE = "trials.json"
FRONT_FILE = "pareto.csv"
TRIAL = {"number": int, "state": str, "score": Optional[float], "overrides": list[str], "reason": str}
TRIAL |= {"scores": dict[str, float], "front": bool}
TRIALS = {"metrics": list[str], "importances": dict[str, float], "trials": [TRIAL]}
MOST_ROWS = 10  # of the terminal's table


def nothing_learnt(scores: Sequence[float | None], metric: str) -> str:
    """Why no trial is recommended, as a sentence; empty if one is. scores: of the trials that ended."""
    if not scores or not is_score(metric) or any(scores):
        return ""
    return f"Nothing was learnt: {metric} is 0 in every trial. Train longer, and look at the data with check"


def write_trials(
    folder: Path, records: Sequence[TrialRecord], importances: Mapping[str, float], *, metrics: Sequence[str]
) -> None:
    """Write `trials.json`: all trials, best first, and how much each setting explains; of several metrics the front."""
    plain = {"metrics": list(metrics), "importances": dict(importances), "trials": [asdict(each) for each in records]}
    write_json(folder / TRIALS_FILE, plain, indent=2)
    front = [{"trial": each.number, **each.scores, **_settings(each.overrides)} for each in records if each.front]
    if front:
        write_rows(folder / FRONT_FILE, front)


def read_search(folder: Path) -> dict[str, Any] | None:
    """What `sweep.html.j2` shows of the folder's `trials.json`; None where it is no search's folder."""
    # half a second of matplotlib
    from maskrcnn_train.reporting.drawing.figures import front_figure, line_figure, to_charts

    if not (folder / TRIALS_FILE).is_file():
        return None
    plain = fitted(TRIALS, read_json(folder / TRIALS_FILE), str(folder / TRIALS_FILE))
    metrics, trials = plain["metrics"], plain["trials"]
    metric = metrics[0]
    complete = [each for each in trials if each["state"] == "complete" and each["score"] is not None]
    points = sorted((each["number"], _charted(metric, each["score"])) for each in complete)
    better = max if is_score(metric) else min
    best = list(zip((number for number, _ in points), accumulate((score for _, score in points), better), strict=True))
    curves = {"best so far": best, "each trial": points}
    figures = {"trials": line_figure(_titled(metric), curves, x_label="trial", from_zero=False, last=False)}
    if len(metrics) == 2 and complete:
        second = metrics[1]
        found = [
            (_charted(second, each["scores"][second]), _charted(metric, each["score"]), each["front"])
            for each in complete
        ]
        figures["front"] = front_figure(_titled(second), _titled(metric), found)
    return {
        "metric": metric,
        "metrics": metrics,
        "charts": to_charts("search", figures),
        "front": [
            each | {"shown": {name: shown(name, value) for name, value in each["scores"].items()}}
            for each in complete
            if each["front"]
        ],
        "front_file": FRONT_FILE,
        "importances": sorted(plain["importances"].items(), key=lambda item: -item[1]),
        "unfinished": [each for each in trials if each["state"] != "complete"],
        "counts": counts_text(each["state"] for each in trials),
        "warning": nothing_learnt([each["score"] for each in complete], metric),
    }


def counts_text(states: Any) -> str:
    """3 complete, 1 pruned."""
    return ", ".join(f"{count} {state}" for state, count in Counter(states).most_common())


def search_table(records: Sequence[TrialRecord], metrics: Sequence[str]) -> str:
    """The best trials, with the settings that vary; scores times 100, losses and latencies as they are."""
    keys = list(dict.fromkeys(key for each in records for key in _settings(each.overrides)))
    rows = []
    for each in records[:MOST_ROWS]:
        values = _settings(each.overrides)
        scores = {metrics[0]: each.score} | each.scores
        state = f"{each.state}, on the front" if each.front else each.state
        shown_scores = [shown(metric, scores.get(metric)) for metric in metrics]
        rows.append((each.number, *shown_scores, state, *(values.get(key, "-") for key in keys)))
    title = f"trials, best first ({counts_text(each.state for each in records)})"
    return table(title, ["trial", *map(_titled, metrics), "", *keys], rows)


def shown(metric: str, value: float | None) -> str:
    """A score times 100, a loss or latency as it is."""
    return percent(value) if is_score(metric) or value is None else f"{value:.4g}"


def _charted(metric: str, value: float) -> float:
    """A value on the axis that `_titled` names."""
    return 100 * value if is_score(metric) else value


def _settings(overrides: Sequence[str]) -> dict[str, str]:
    return dict(tuple(text.split("=", 1)) for text in overrides)  # type: ignore[misc]


def _titled(metric: str) -> str:
    return f"{metric}, x 100" if is_score(metric) else f"{metric}, ms" if metric == LATENCY else metric
