"""Charts of an analysis: the funnel, the recall of proposals, budgets against time."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from maskrcnn_train.analysis.analyst import Analysis
from maskrcnn_train.analysis.budgets import Setting
from maskrcnn_train.analysis.funnel import FOUND, STAGES, Funnel
from maskrcnn_train.analysis.pareto import Outcome
from maskrcnn_train.analysis.proposal_report import ProposalRecall
from maskrcnn_train.reporting.drawing.figures import INK, LIGHT, MUTED, SERIES, add_legend, new_axes

SIZE_COLORS = {"small": SERIES[1], "medium": LIGHT, "large": SERIES[0]}


def draw_analysis(analysis: Analysis) -> dict[str, Figure]:
    """The pictures of what was analysed, by name."""
    figures = {} if analysis.funnel is None else {"funnel": funnel_figure(analysis.funnel)}
    if analysis.recalls:
        figures["proposal_recall"] = recall_figure(analysis.recalls, analysis.setting)
    if analysis.outcomes and analysis.winners:
        figures["budgets"] = budgets_figure(analysis.outcomes, analysis.winners, analysis.kind)
    return figures


def funnel_figure(funnel: Funnel) -> Figure:
    """Objects found, and lost at each stage, by size."""
    total = len(funnel.objects)
    title = f"Where {total:,} objects go ({funnel.kind}, IoU {funnel.iou:g})"
    figure, axes = new_axes(title, "objects", height=4.4)
    names = [FOUND, *STAGES][::-1]
    labels = [name if name == FOUND else f"{name}\n{STAGES[name][1]}" for name in names]
    left = [0] * len(names)
    for size, color in SIZE_COLORS.items():
        counts = [funnel.counts(size=size)[name] for name in names]
        bars = axes.barh(labels, counts, left=left, color=color, label=size)
        left = [before + count for before, count in zip(left, counts, strict=True)]
    shares = [f" {count:,} ({100 * count / max(total, 1):.1f} %)" if count else "" for count in left]
    axes.bar_label(bars, shares, color=INK, fontsize=9)
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(x=0.2)
    add_legend(figure)
    return figure


def recall_figure(recalls: Sequence[ProposalRecall], setting: Setting) -> Figure:
    """Share of the objects of each size among the first N proposals."""
    title = f"Objects covered by the first N proposals, IoU 0.5 (rpn.nms.pre_test={setting.pre_test})"
    figure, axes = new_axes(title, "N, proposals of an image (rpn.nms.post_test)", "share of the objects")
    for group, color in {"all": INK, "small": SERIES[1], "medium": SERIES[2], "large": SERIES[0]}.items():
        own = [each for each in recalls if each.by != "class" and each.group == group]
        if own:
            xs, ys = [each.count for each in own], [each.recall50 for each in own]
            axes.plot(xs, ys, marker="o", markersize=4, color=color, label=f"{group} ({own[0].objects:,})")
    axes.set_xscale("log")
    counts = list(dict.fromkeys(each.count for each in recalls))
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    axes.set_ylim(0, 1.04)
    add_legend(figure)
    return figure


def budgets_figure(found: Sequence[Outcome], chosen: Mapping[str, Outcome], kind: str) -> Figure:
    """Every setting by time and AP, on the images that settings were chosen on; the front and the winners stand out."""
    title = f"Test-time budgets: {kind} AP against time, on the half for choosing"
    figure, axes = new_axes(title, "milliseconds an image", f"{kind} AP x 100")
    points = np.array([(each.milliseconds, 100 * each.tuned) for each in found])
    axes.scatter(points[:, 0], points[:, 1], s=12, color=MUTED, alpha=0.4)
    front = np.array(sorted(points[[each.front for each in found]].tolist()))
    label = "nothing is both faster and better"
    axes.step(front[:, 0], front[:, 1], where="post", color=SERIES[0], marker="o", markersize=4, label=label)
    for name, outcome in {"trained": found[0], **chosen}.items():
        color = INK if name == "trained" else SERIES[1]
        point = (outcome.milliseconds, 100 * outcome.tuned)
        axes.plot(*point, "o", markersize=9, fillstyle="none", color=color, markeredgewidth=1.8, label=f"_{name}")
        offset = {"trained": (8, -14), "best": (8, 8), "fast": (-8, 10)}[name]
        side = "right" if offset[0] < 0 else "left"
        axes.annotate(name, point, xytext=offset, textcoords="offset points", color=color, ha=side)
    add_legend(figure)
    axes.margins(0.1)
    return figure
