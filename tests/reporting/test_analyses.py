"""What `analyze` writes: tables, pictures and the page, whatever the classes are called."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from planted_model import SETTING

from maskrcnn_train.analysis.analyst import Analysis
from maskrcnn_train.analysis.funnel import FOUND, Funnel, LostObject
from maskrcnn_train.analysis.pareto import NOTHING_CHOSEN, Outcome
from maskrcnn_train.analysis.proposal_report import ProposalRecall
from maskrcnn_train.reporting.analyses import analysis_tables, write_analysis
from maskrcnn_train.reporting.drawing.analysis_figures import recall_figure
from maskrcnn_train.reporting.pages.analysis_page import analysis_page
from maskrcnn_train.reporting.pages.html import write_report

OBJECTS = [("small", "large", FOUND), ("small", "large", FOUND), ("all", "small", "score"), ("all", "small", "box")]
RECALLS = {("all", "all"): 0.5, ("size", "small"): 0.0, ("size", "large"): 1.0, ("class", "small"): 1.0}


@pytest.fixture
def analysis() -> Analysis:
    """Two found objects of the class "small", which are large, and two lost small ones of the class "all"."""
    objects = [LostObject(place, place, 1, *each) for place, each in enumerate(OBJECTS)]
    return Analysis(
        kind="segm",
        num_images=1,
        setting=SETTING,
        trained_iou=(0.7, 0.3),
        funnel=Funnel("segm", 0.5, objects),
        recalls=[
            ProposalRecall(*group, count, 2, covered, covered)
            for group, covered in RECALLS.items()
            for count in (10, 100)
        ],
        shares=[],
    )


def page_of(analysis: Analysis, folder: Path) -> dict[str, Any]:
    """As a report reads it from the files."""
    (folder / "best.json").write_text('{"position": {"step": 7}}')
    write_analysis(folder, analysis, folder / "best.pt")
    page = analysis_page(json.loads((folder / "analysis.json").read_text()))
    assert page is not None
    return page


def test_classes_called_small_and_all_keep_their_own_numbers(analysis: Analysis, tmp_path: Path) -> None:
    page = page_of(analysis, tmp_path)
    assert page["model"] == "best.pt, step 7"
    assert page["lost"] == [("small", 2, 1.0), ("all", 2, 0.0)]
    assert [(stage["name"], stage["count"], stage["sizes"]) for stage in page["stages"]] == [
        (FOUND, 2, [0, 0, 2]),
        ("box", 1, [1, 0, 0]),
        ("score", 1, [1, 0, 0]),
    ]
    assert [chart.title for chart in page["charts"]] == [
        "Objects covered by the first N proposals, IoU 0.5 (rpn.nms.pre_test=200)"
    ]
    lines = recall_figure(analysis.recalls or [], SETTING).axes[0].lines
    assert {line.get_label(): list(line.get_ydata()) for line in lines} == {
        "all (2)": [0.5, 0.5], "small (2)": [0.0, 0.0], "large (2)": [1.0, 1.0]
    }  # fmt: skip
    (recalls, *_) = analysis_tables(analysis)
    cells = [line.split() for line in recalls.splitlines()]
    assert [line for line in cells if line[:1] in (["all"], ["size"], ["class"])] == [
        [*group, "2", f"{100 * covered:.1f}", f"{100 * covered:.1f}"] for group, covered in RECALLS.items()
    ]


def test_without_objects_to_choose_by_no_budgets_are_written_and_every_reader_is_told_why(
    analysis: Analysis, tmp_path: Path
) -> None:
    fast = replace(SETTING, post_test=10)
    analysis.outcomes = [Outcome(each, 90.0, 9.0, 2.0, tuned=-1.0, reported=0.5) for each in (SETTING, fast)]
    analysis.winners = {}
    page = page_of(analysis, tmp_path)
    assert page["nothing_chosen"] == NOTHING_CHOSEN
    assert len(page["charts"]) == 1  # of the proposals
    assert not {"budgets", "budgets.png"} & {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "budgets.csv").is_file()
    assert [NOTHING_CHOSEN in text for text in analysis_tables(analysis)] == [False, False, True, False]
    (tmp_path / "metrics.json").write_text('{"segm/AP": 0.5}')
    assert NOTHING_CHOSEN in write_report(tmp_path, analysis=tmp_path).read_text()


def test_a_table_of_proposals_says_with_which_budget_they_were_made(analysis: Analysis) -> None:
    title = analysis_tables(analysis)[0].splitlines()[0]
    assert title.endswith("what rpn.nms.post_test=N would leave with rpn.nms.pre_test=200 and rpn.nms.threshold=0.7")
