"""An analysis as a page shows it: where objects are lost, what other budgets give, how good the proposals are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maskrcnn_train.analysis.budgets import Setting
from maskrcnn_train.analysis.funnel import FOUND, STAGES
from maskrcnn_train.analysis.pareto import NOTHING_CHOSEN, Outcome
from maskrcnn_train.analysis.proposal_report import ProposalRecall
from maskrcnn_train.reporting.drawing.analysis_figures import budgets_figure, recall_figure
from maskrcnn_train.reporting.drawing.figures import Chart, to_chart


@dataclass
class Stage:
    """Objects lost at a stage, or found. share: of all objects. sizes: counts small, medium, large."""

    name: str
    meaning: str
    key: str
    count: int
    share: float
    sizes: list[int]


@dataclass
class AnalysisPage:
    """What was analysed; what was not is empty.

    model: checkpoint and step, in words. lost: (class, objects, share found). budgets: (best, fast, trained or nothing;
    outcome; what differs from the trained setting). nothing_chosen: why there are no winners. timed: milliseconds of an
    image, measured whole.
    """

    num_images: int
    model: str
    iou: float
    stages: list[Stage]
    lost: list[tuple[str, int, float]]
    budgets: list[tuple[str, Outcome, str]]
    num_settings: int
    nothing_chosen: str
    timed: dict[str, float]
    charts: list[Chart]


def analysis_page(analysis: Mapping[str, Any], scored_step: int | None = None) -> AnalysisPage | None:
    """None where nothing was analysed. scored_step: of the scores on the same page."""
    if not analysis:
        return None
    funnel, rows = analysis.get("funnel") or {}, (analysis.get("funnel") or {}).get("rows", [])
    outcomes = [_outcome(each) for each in analysis.get("outcomes") or []]
    winners = {name: _outcome(each) for name, each in (analysis.get("winners") or {}).items()}
    recalls = [ProposalRecall(**each) for each in analysis.get("recalls") or []]
    budgets = budgets_figure(outcomes, winners, analysis["kind"]) if winners else None
    recall = recall_figure(recalls, Setting(**analysis["setting"])) if recalls else None
    charts = [to_chart(budgets, "analysis/budgets"), to_chart(recall, "analysis/recall")]
    return AnalysisPage(
        num_images=analysis["num_images"],
        model=_model(analysis, scored_step),
        iou=funnel.get("iou", 0.5),
        stages=_stages(rows),
        lost=[
            (row["group"], row["objects"], row[FOUND] / (row["objects"] or 1)) for row in rows if row["by"] == "class"
        ],
        budgets=_budgets(outcomes, winners),
        num_settings=len(outcomes),
        nothing_chosen=NOTHING_CHOSEN if outcomes and not winners else "",
        timed=analysis.get("timed") or {},
        charts=[chart for chart in charts if chart],
    )


def _found_share(row: Mapping[str, Any]) -> tuple[str, int, float]:
    return row["group"], row["objects"], row[FOUND] / max(row["objects"], 1)


def _outcome(plain: Mapping[str, Any]) -> Outcome:
    return Outcome(**(dict(plain) | {"setting": Setting(**plain["setting"])}))


def _model(analysis: Mapping[str, Any], scored_step: int | None) -> str:
    """The checkpoint and its step, where they are known; and whether the scores are of another."""
    step = analysis.get("step")
    words = [analysis["checkpoint"]] if analysis.get("checkpoint") else []
    words += [f"step {step:,}"] if step is not None else []
    other = step is not None and scored_step is not None and step != scored_step
    return ", ".join(words) + (f" (the scores above are of step {scored_step:,})" if other else "")


def _stages(rows: list[dict[str, Any]]) -> list[Stage]:
    """Found first, then what objects are lost at, in the order of the model."""
    if not rows:
        return []
    counts, by_size = rows[0], [row for row in rows if row["by"] == "size"]  # the first is of all objects
    total = max(counts["objects"], 1)
    words: Mapping[str, tuple[str, str]] = {FOUND: ("detected", "")} | STAGES
    return [
        Stage(name, meaning, key, counts[name], counts[name] / total, [row[name] for row in by_size])
        for name, (meaning, key) in words.items()
        if counts[name] or name == FOUND
    ]


def _budgets(outcomes: list[Outcome], winners: Mapping[str, Outcome]) -> list[tuple[str, Outcome, str]]:
    """The trained setting and those that no other beats in speed and AP, fastest first."""
    found = []
    for each in sorted(outcomes, key=lambda outcome: outcome.milliseconds):
        named = {"trained": outcomes[0], **winners}
        roles = ", ".join(name for name, outcome in named.items() if outcome.setting == each.setting)
        if each.front or "trained" in roles:
            before = outcomes[0].setting.overrides()
            changes = [f"{key}={value:g}" for key, value in each.setting.overrides().items() if value != before[key]]
            found.append((roles, each, " ".join(changes) or "as trained"))
    return found
