"""An analysis as a page shows it: where objects are lost, what other budgets give, how good the proposals are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from maskrcnn_train.analysis.budgets import Setting
from maskrcnn_train.analysis.funnel import FOUND
from maskrcnn_train.analysis.pareto import NOTHING_CHOSEN, Outcome
from maskrcnn_train.analysis.proposal_report import ProposalRecall
from maskrcnn_train.reporting.analyses import shown_outcomes, stage_rows
from maskrcnn_train.reporting.drawing.analysis_figures import budgets_figure, recall_figure
from maskrcnn_train.reporting.drawing.figures import to_charts


def analysis_page(analysis: Mapping[str, Any], scored_step: int | None = None) -> dict[str, Any] | None:
    """What `analysis.html.j2` shows, empty where it was not analysed; None where nothing was.

    analysis: as analysis.json holds it. scored_step: of the scores on the same page.
    """
    if not analysis:
        return None
    funnel = analysis.get("funnel") or {"iou": 0.5, "rows": []}
    outcomes = [_outcome(each) for each in analysis.get("outcomes") or []]
    winners = {name: _outcome(each) for name, each in (analysis.get("winners") or {}).items()}
    recalls = [ProposalRecall(**each) for each in analysis.get("recalls") or []]
    figures = {
        "budgets": budgets_figure(outcomes, winners, analysis["kind"]) if winners else None,
        "recall": recall_figure(recalls, Setting(**analysis["setting"])) if recalls else None,
    }
    classes = [row for row in funnel["rows"] if row["by"] == "class"]
    return {
        "num_images": analysis["num_images"],
        "model": _model(analysis, scored_step),
        "iou": funnel["iou"],
        "stages": stage_rows(funnel["rows"]),
        "lost": [(row["group"], row["objects"], row[FOUND] / (row["objects"] or 1)) for row in classes],
        "budgets": [(roles, each, _changes(each, outcomes[0])) for roles, each in shown_outcomes(outcomes, winners)],
        "num_settings": len(outcomes),
        "nothing_chosen": NOTHING_CHOSEN if outcomes and not winners else "",
        "timed": analysis.get("timed") or {},
        "charts": to_charts("analysis", figures),
    }


def _outcome(plain: Mapping[str, Any]) -> Outcome:
    return Outcome(**(dict(plain) | {"setting": Setting(**plain["setting"])}))


def _model(analysis: Mapping[str, Any], scored_step: int | None) -> str:
    """The checkpoint and its step, where they are known; and whether the scores are of another."""
    step = analysis.get("step")
    words = [analysis["checkpoint"]] if analysis.get("checkpoint") else []
    words += [f"step {step:,}"] if step is not None else []
    other = step is not None and scored_step is not None and step != scored_step
    return ", ".join(words) + (f" (the scores above are of step {scored_step:,})" if other else "")


def _changes(outcome: Outcome, trained: Outcome) -> str:
    before = trained.setting.overrides()
    changes = [f"{key}={value:g}" for key, value in outcome.setting.overrides().items() if value != before[key]]
    return " ".join(changes) or "as trained"
