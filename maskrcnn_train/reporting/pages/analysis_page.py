"""An analysis as a page shows it: where objects are lost, what other budgets give, how good the proposals are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from maskrcnn_train.analysis.budgets import KEYS, Setting
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
class Budget:
    """A setting worth having. role: best, fast, trained or nothing. tuned, reported: AP, fractions. setting: what
    differs from the trained one, as a command takes it."""

    role: str
    milliseconds: float
    tuned: float
    reported: float | None
    setting: str


@dataclass
class AnalysisPage:
    """What was analysed; what was not is empty. lost: the classes' rows of the funnel, (name, objects, share found).
    model: checkpoint and step.
    nothing_chosen: why there are no winners. timed: milliseconds of an image, measured whole."""

    num_images: int
    model: str
    iou: float
    stages: list[Stage]
    lost: list[tuple[str, int, float]]
    budgets: list[Budget]
    num_settings: int
    nothing_chosen: str
    timed: dict[str, float]
    charts: list[Chart]


def analysis_page(analysis: Mapping[str, Any], scored_step: int | None = None) -> AnalysisPage | None:
    """None where nothing was analysed. scored_step: of the scores on the same page."""
    if not analysis:
        return None
    funnel, outcomes = analysis.get("funnel") or {}, analysis.get("outcomes") or []
    winners = analysis.get("winners") or {}
    budgets = _budgets(outcomes, winners)
    return AnalysisPage(
        num_images=analysis["num_images"],
        model=_model(analysis, scored_step),
        iou=funnel.get("iou", 0.5),
        stages=_stages(funnel.get("rows", [])),
        lost=[
            (row["group"], row["objects"], row[FOUND] / max(row["objects"], 1))
            for row in funnel.get("rows", [])
            if row["by"] == "class"
        ],
        budgets=budgets,
        num_settings=len(outcomes),
        nothing_chosen=NOTHING_CHOSEN if outcomes and not winners else "",
        timed=analysis.get("timed") or {},
        charts=_charts(analysis),
    )


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


def _budgets(outcomes: list[dict[str, Any]], winners: Mapping[str, Any]) -> list[Budget]:
    """The trained setting and those that no other beats in speed and AP, fastest first."""
    if not outcomes:
        return []
    trained = outcomes[0]["setting"]
    roles: dict[str, str] = {}
    for role, winner in [("trained", {"setting": trained}), *winners.items()]:
        key = str(winner["setting"])
        roles[key] = f"{roles[key]}, {role}" if key in roles else role
    shown = [each for each in outcomes if each["front"] or each["setting"] == trained]
    return [
        Budget(
            role=roles.get(str(each["setting"]), ""),
            milliseconds=each["milliseconds"],
            tuned=each["tuned"],
            reported=each["reported"],
            setting=_changes(each["setting"], trained),
        )
        for each in sorted(shown, key=lambda outcome: outcome["milliseconds"])
    ]


def _changes(setting: Mapping[str, Any], trained: Mapping[str, Any]) -> str:
    changed = [f"{KEYS[name]}={value:g}" for name, value in setting.items() if value != trained[name]]
    return " ".join(changed) or "as trained"


def _charts(analysis: Mapping[str, Any]) -> list[Chart]:
    recalls = [ProposalRecall(**each) for each in analysis.get("recalls") or []]
    outcomes, winners = analysis.get("outcomes"), analysis.get("winners")
    budgets = recall = None
    if outcomes and winners:
        chosen = {name: _outcome(each) for name, each in winners.items()}
        budgets = budgets_figure([_outcome(each) for each in outcomes], chosen, analysis["kind"])
    if recalls:
        recall = recall_figure(recalls, Setting(**analysis["setting"]))
    charts = [to_chart(budgets, "analysis/budgets"), to_chart(recall, "analysis/recall")]
    return [chart for chart in charts if chart]


def _outcome(plain: Mapping[str, Any]) -> Outcome:
    return Outcome(**(dict(plain) | {"setting": Setting(**plain["setting"])}))
