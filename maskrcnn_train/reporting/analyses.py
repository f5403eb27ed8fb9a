"""An analysis' files: tables as CSV, everything as JSON, pictures, and the winning budgets as files to use."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from maskrcnn_train.analysis.analyst import Analysis
from maskrcnn_train.analysis.funnel import FOUND, STAGES, Funnel
from maskrcnn_train.analysis.pareto import NOTHING_CHOSEN, Outcome
from maskrcnn_train.analysis.proposal_report import ProposalRecall
from maskrcnn_train.analysis.trace import SIZES
from maskrcnn_train.files import write_json, write_rows, write_text
from maskrcnn_train.reporting.runs import read_json
from maskrcnn_train.reporting.terminal.tables import percent, table
from maskrcnn_train.settings.overrides import option_text


def write_analysis(folder: Path, analysis: Analysis, checkpoint: Path) -> None:
    """Write `analysis.json`, CSV tables, pictures and `budgets/*.yaml` of what was analysed.

    checkpoint: of the model; its name and step are noted.
    """
    from maskrcnn_train.reporting.drawing.analysis_figures import draw_analysis
    from maskrcnn_train.reporting.drawing.figures import save_figure  # half a second of matplotlib

    write_json(folder / "analysis.json", _plain(analysis) | _model(checkpoint))
    if analysis.funnel is not None:
        write_rows(folder / "objects.csv", [asdict(each) for each in analysis.funnel.objects])
        write_rows(folder / "funnel.csv", funnel_rows(analysis.funnel))
    if analysis.recalls is not None and analysis.shares is not None:
        write_rows(folder / "proposal_recall.csv", [asdict(each) for each in analysis.recalls])
        write_rows(folder / "anchors.csv", [asdict(each) for each in analysis.shares])
    if analysis.outcomes is not None and analysis.winners is not None:
        write_rows(
            folder / "budgets.csv", [asdict(each.setting) | _without(each, "setting") for each in analysis.outcomes]
        )
        for name, outcome in analysis.winners.items():
            _write_budgets(folder / "budgets" / f"{name}.yaml", name, outcome, analysis)
    for name, figure in draw_analysis(analysis).items():
        save_figure(figure, folder / f"{name}.png")


def _model(checkpoint: Path) -> dict[str, Any]:
    position = read_json(checkpoint.with_suffix(".json")).get("position")
    return {"checkpoint": checkpoint.name, "step": position.get("step") if isinstance(position, dict) else None}


def _plain(analysis: Analysis) -> dict[str, Any]:
    """As JSON has it; the funnel's objects are in objects.csv."""
    plain = _without(analysis, "funnel")
    if analysis.funnel is not None:
        plain["funnel"] = _without(analysis.funnel, "objects") | {"rows": funnel_rows(analysis.funnel)}
    return plain


def _without(each: Any, name: str) -> dict[str, Any]:
    return {key: value for key, value in asdict(each).items() if key != name}


def funnel_rows(funnel: Funnel) -> list[dict[str, Any]]:
    """A row for all objects, each size and each class: how many were found, and lost at each stage."""
    names = dict.fromkeys(each.class_name for each in funnel.objects)
    groups = {("all", "all"): funnel.counts()}
    groups |= {("size", size): funnel.counts(size=size) for size in SIZES}
    groups |= {("class", name): funnel.counts(class_name=name) for name in names}
    return [
        {"by": by, "group": group, "objects": counts.total()} | {stage: counts[stage] for stage in (FOUND, *STAGES)}
        for (by, group), counts in groups.items()
    ]


def stage_rows(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of `funnel_rows`: what was found, then what was lost at each stage, in the order of the model.

    count, share: of all objects. sizes: the counts of small, medium and large ones. key: the setting that affects it.
    """
    if not rows:
        return []
    counts, by_size = rows[0], [row for row in rows if row["by"] == "size"]  # the first is of all objects
    total = max(counts["objects"], 1)
    words: Mapping[str, tuple[str, str]] = {FOUND: ("detected", "")} | STAGES
    return [
        {"name": name, "meaning": meaning, "key": key, "count": counts[name], "share": counts[name] / total}
        | {"sizes": [row.get(name, 0) for row in by_size]}
        for name, (meaning, key) in words.items()
        if counts.get(name) or name == FOUND
    ]


def shown_outcomes(outcomes: Sequence[Outcome], winners: Mapping[str, Outcome]) -> list[tuple[str, Outcome]]:
    """The trained setting and those that no other beats in speed and AP, fastest first, each with its roles."""
    shown = []
    for each in sorted(outcomes, key=lambda outcome: outcome.milliseconds):
        named = {"trained": outcomes[0], **winners}
        roles = [name for name, outcome in named.items() if outcome.setting == each.setting]
        if each.front or "trained" in roles:
            shown.append((", ".join(roles), each))
    return shown


def _write_budgets(path: Path, name: str, outcome: Outcome, analysis: Analysis) -> None:
    """A group option for evaluate and predict, with what it gave in its head."""
    head = [
        f"{analysis.kind} AP {percent(outcome.tuned)} on the images it was chosen on, "
        f"{percent(outcome.reported)} on the others; {outcome.milliseconds:.0f} ms an image",
        f"use: --config-dir {path.parent.parent} +budgets={name}",
    ]
    settings = outcome.setting.overrides()
    if analysis.kind == "bbox":
        del settings["mask_head.threshold"]
    write_text(path, option_text(head, settings))


# ---------------------------------------------------------------- the terminal


def analysis_tables(analysis: Analysis) -> list[str]:
    """What a person reads first."""
    texts = []
    if analysis.recalls is not None and analysis.shares is not None:
        texts += [_recall_table(analysis), _anchor_table(analysis)]
    if analysis.outcomes is not None:
        texts.append(_budget_table(analysis))
    if analysis.funnel is not None:
        texts.append(_funnel_table(analysis.funnel))
    return texts


def _funnel_table(funnel: Funnel) -> str:
    rows = [
        (each["name"], each["count"], percent(each["share"]), *each["sizes"], each["key"], each["meaning"])
        for each in stage_rows(funnel_rows(funnel))
    ]
    title = f"where the {len(funnel.objects)} objects go ({funnel.kind}, IoU {funnel.iou:g})"
    return table(title, ["", "objects", "%", *SIZES, "key", ""], rows)


def _recall_table(analysis: Analysis) -> str:
    counts = dict.fromkeys(each.count for each in analysis.recalls or [])
    by_group: dict[tuple[str, str], list[ProposalRecall]] = {}
    for each in analysis.recalls or []:
        by_group.setdefault((each.by, each.group), []).append(each)
    rows = [
        (by, group, found[0].objects, *(percent(each.recall50) for each in found))
        for (by, group), found in by_group.items()
    ]
    setting = analysis.setting
    title = (
        "objects covered (IoU 0.5) by the first N proposals, x 100: what rpn.nms.post_test=N would leave "
        f"with rpn.nms.pre_test={setting.pre_test} and rpn.nms.threshold={setting.rpn_threshold:g}"
    )
    return table(title, ["by", "", "objects", *(f"N={count}" for count in counts)], rows)


def _anchor_table(analysis: Analysis) -> str:
    rows = [
        (
            f"{each.upper:g} / {each.lower:g}" + (" *" if (each.upper, each.lower) == analysis.trained_iou else ""),
            *(f"{100 * each.positive:.3f}", f"{100 * each.ignored:.2f}", f"{100 * each.negative:.1f}"),
            *(f"{each.per_object:.1f}", percent(each.only_best)),
        )
        for each in analysis.shares or []
    ]
    title = "what rpn.iou makes of the anchors (* : as trained); only best: objects that no anchor reaches otherwise"
    columns = ["upper / lower", "% object", "% ignored", "% background", "anchors an object"]
    return table(title, [*columns, "% of objects by best anchor only"], rows)


def _budget_table(analysis: Analysis) -> str:
    found, chosen = analysis.outcomes or [], analysis.winners or {}
    rows = [_budget_row(each, roles) for roles, each in shown_outcomes(found, chosen)]
    title = (
        f"{len(found)} test-time settings; shown: those that no other beats in speed and {analysis.kind} AP (x 100)\n"
        "rpn.nms: pre_test > threshold > post_test; roi_head: score_threshold > nms_threshold > detections_per_image"
    )
    columns = ["", "ms an image", "AP, chosen on", "AP, other half", "rpn.nms", "roi_head", "mask", "proposals"]
    lines = [table(title, [*columns, "detections"], rows), *([] if chosen else [NOTHING_CHOSEN])]
    timed = ", ".join(f"{name} {value:.0f} ms" for name, value in (analysis.timed or {}).items())
    return "\n".join([*lines, f"measured whole, in turn: {timed}"] if timed else lines)


def _budget_row(each: Outcome, role: str) -> tuple[str, ...]:
    setting = each.setting
    return (
        *(role, f"{each.milliseconds:.0f}", percent(each.tuned), percent(each.reported)),
        f"{setting.pre_test} > {setting.rpn_threshold:g} > {setting.post_test}",
        f"{setting.score_threshold:g} > {setting.nms_threshold:g} > {setting.detections_per_image}",
        *(f"{setting.mask_threshold:g}", f"{each.proposals:.0f}", f"{each.detections:.0f}"),
    )
