"""What a search found: a table for the terminal, `trials.json`, and what the page of its folder shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

from maskrcnn_train.files import write_json
from maskrcnn_train.reporting.forms import fitted
from maskrcnn_train.reporting.runs import read_json
from maskrcnn_train.reporting.terminal.tables import percent, table

if TYPE_CHECKING:
    from maskrcnn_train.tuning.trials import TrialRecord

TRIALS_FILE = "trials.json"
TRIAL = {"number": int, "state": str, "score": Optional[float], "overrides": list[str], "reason": str}
TRIALS = {"metric": str, "importances": dict[str, float], "trials": [TRIAL]}
MOST_ROWS = 10  # of the terminal's table


def is_score(metric: str) -> bool:
    """Whether a metric is a fraction, shown times 100, and the larger the better; else it is a loss."""
    return not metric.startswith("val_loss/")


def nothing_learnt(scores: Sequence[float | None], metric: str) -> str:
    """Why no trial is recommended, as a sentence; empty if one is. scores: of the trials that ended."""
    if not scores or not is_score(metric) or any(scores):
        return ""
    return f"Nothing was learnt: {metric} is 0 in every trial. Train longer, and look at the data with check"


def write_trials(
    folder: Path, records: Sequence[TrialRecord], importances: Mapping[str, float], *, metric: str
) -> None:
    """Write `trials.json`: all trials, best first, and how much each setting explains."""
    plain = {"metric": metric, "importances": dict(importances), "trials": [asdict(each) for each in records]}
    write_json(folder / TRIALS_FILE, plain, indent=2)


def read_search(folder: Path) -> dict[str, Any] | None:
    """What `sweep.html.j2` shows of the folder's `trials.json`; None where it is no search's folder."""
    from maskrcnn_train.reporting.drawing.figures import line_figure, to_charts  # half a second of matplotlib

    if not (folder / TRIALS_FILE).is_file():
        return None
    plain = fitted(TRIALS, read_json(folder / TRIALS_FILE), str(folder / TRIALS_FILE))
    complete = [each for each in plain["trials"] if each["state"] == "complete" and each["score"] is not None]
    scale, better = (100, max) if is_score(plain["metric"]) else (1, min)
    points = sorted((each["number"], scale * each["score"]) for each in complete)
    best = list(zip((number for number, _ in points), accumulate((score for _, score in points), better), strict=True))
    curves = {"best so far": best, "each trial": points}
    figure = line_figure(_titled(plain["metric"]), curves, x_label="trial", from_zero=False, last=False)
    return {
        "metric": plain["metric"],
        "chart": next(iter(to_charts("search", {"trials": figure})), None),
        "importances": sorted(plain["importances"].items(), key=lambda item: -item[1]),
        "unfinished": [each for each in plain["trials"] if each["state"] != "complete"],
        "counts": counts_text(each["state"] for each in plain["trials"]),
        "warning": nothing_learnt([each["score"] for each in complete], plain["metric"]),
    }


def counts_text(states: Any) -> str:
    """3 complete, 1 pruned."""
    return ", ".join(f"{count} {state}" for state, count in Counter(states).most_common())


def search_table(records: Sequence[TrialRecord], metric: str) -> str:
    """The best trials, with the settings that vary; scores times 100, losses as they are."""
    keys = list(dict.fromkeys(text.split("=", 1)[0] for each in records for text in each.overrides))
    rows = []
    for each in records[:MOST_ROWS]:
        values = dict(text.split("=", 1) for text in each.overrides)
        score = percent(each.score) if is_score(metric) or each.score is None else f"{each.score:.4f}"
        rows.append((each.number, score, each.state, *(values.get(key, "-") for key in keys)))
    title = f"trials, best first ({counts_text(each.state for each in records)})"
    return table(title, ["trial", _titled(metric), "", *keys], rows)


def _titled(metric: str) -> str:
    return f"{metric}, x 100" if is_score(metric) else metric
