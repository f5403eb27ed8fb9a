"""An analysis as a page shows it: where objects are lost, what other budgets give, how good the proposals are."""

from collections.abc import Mapping
from typing import Any, Optional

from maskrcnn_train.analysis.budgets import Setting
from maskrcnn_train.analysis.funnel import FOUND
from maskrcnn_train.analysis.pareto import NOTHING_CHOSEN, Outcome
from maskrcnn_train.analysis.proposal_report import ProposalRecall
from maskrcnn_train.reporting.analyses import shown_outcomes, stage_rows
from maskrcnn_train.reporting.drawing.analysis_figures import budgets_figure, recall_figure
from maskrcnn_train.reporting.drawing.figures import to_charts
from maskrcnn_train.reporting.forms import fitted

FUNNEL = {"iou": float, "rows": [{"by": str, "group": str, "objects": int, FOUND: int}]}
ANALYSIS = {
    "kind": str, "num_images": int, "setting": Setting, "funnel": FUNNEL, "recalls": list[ProposalRecall],
    "outcomes": list[Outcome], "winners": dict[str, Outcome], "timed": dict[str, float],
    "checkpoint": str, "step": Optional[int],
}  # fmt: skip
NOTHING = {"funnel": {"iou": 0.5, "rows": []}, "recalls": [], "outcomes": [], "winners": {}, "timed": {}}


def analysis_page(analysis: Mapping[str, Any], scored_step: int | None = None) -> dict[str, Any] | None:
    """What `analysis.html.j2` shows, empty where it was not analysed; None where nothing was.

    analysis: as analysis.json holds it. scored_step: of the scores on the same page.
    """
    if not analysis:
        return None
    given = {key: value for key, value in analysis.items() if value is not None}
    plain = fitted(ANALYSIS, NOTHING | {"checkpoint": "", "step": None} | given, "analysis.json")
    rows, outcomes, winners = plain["funnel"]["rows"], plain["outcomes"], plain["winners"]
    figures = {
        "budgets": budgets_figure(outcomes, winners, plain["kind"]) if winners else None,
        "recall": recall_figure(plain["recalls"], plain["setting"]) if plain["recalls"] else None,
    }
    classes = [row for row in rows if row["by"] == "class"]
    return {
        "num_images": plain["num_images"],
        "model": _model(plain["checkpoint"], plain["step"], scored_step),
        "iou": plain["funnel"]["iou"],
        "stages": stage_rows(rows),
        "lost": [(row["group"], row["objects"], row[FOUND] / (row["objects"] or 1)) for row in classes],
        "budgets": [(roles, each, _changes(each, outcomes[0])) for roles, each in shown_outcomes(outcomes, winners)],
        "num_settings": len(outcomes),
        "nothing_chosen": NOTHING_CHOSEN if outcomes and not winners else "",
        "timed": plain["timed"],
        "charts": to_charts("analysis", figures),
    }


def _model(checkpoint: str, step: int | None, scored_step: int | None) -> str:
    """The checkpoint and its step, where they are known; and whether the scores are of another."""
    words = [checkpoint] if checkpoint else []
    words += [f"step {step:,}"] if step is not None else []
    other = step is not None and scored_step is not None and step != scored_step
    return ", ".join(words) + (f" (the scores above are of step {scored_step:,})" if other else "")


def _changes(outcome: Outcome, trained: Outcome) -> str:
    before = trained.setting.overrides()
    changes = [f"{key}={value:g}" for key, value in outcome.setting.overrides().items() if value != before[key]]
    return " ".join(changes) or "as trained"
