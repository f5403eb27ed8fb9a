"""The sweeps of conf/experiment/advice move what they name and nothing else, and their results become tables."""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from documented import ROOT
from PIL import Image

from maskrcnn_train import load_config
from maskrcnn_train.cli.sweep import jobs_of
from maskrcnn_train.reporting.jobs import find_job, read_jobs, save_job
from maskrcnn_train.settings.overrides import flat_settings
from maskrcnn_train.settings.schema import TrainConfig

ADVICE = runpy.run_path(str(ROOT / "benchmarks/advice.py"))
PAGE = runpy.run_path(str(ROOT / "benchmarks/knobs_page.py"))
LITE0 = {"backbone.name": "timm", "backbone.timm_name": "tf_efficientnet_lite0", "weights.path": "lite0.pth"}
LITE0 |= {f"numerics.{key}": [0.5, 0.5, 0.5] for key in ("pixel_mean", "pixel_std")}


@pytest.fixture(scope="module")
def base() -> dict[str, object]:
    return flat_settings(asdict(load_config(["experiment=advice/_base"])))


@pytest.mark.parametrize("knob", ADVICE["knobs"]())
def test_a_sweep_moves_the_keys_that_it_names_through_the_value_of_the_others(
    knob: str, base: dict[str, object]
) -> None:
    assert "      seed: 0,1,2\n" in (ADVICE["ADVICE"] / f"{knob}.yaml").read_text()
    one_seed = [f"experiment=advice/{knob}", "hydra.sweeper.params.seed='0'"]
    if knob in ADVICE["WEIGHTED"]:
        base, one_seed = base | LITE0, [*one_seed, "weights.path=lite0.pth"]
    configs = [flat_settings(asdict(load_config(job))) for job in jobs_of("train", TrainConfig, one_seed, None)]
    moved = [key for key in configs[0] if len({str(config[key]) for config in configs}) > 1]
    assert sorted(moved) == sorted(ADVICE["swept_keys"](knob))
    assert base in configs


def test_the_tables_have_the_finished_jobs_which_lose_their_checkpoints(tmp_path: Path) -> None:
    sweep = ADVICE["Sweep"]("rpn_iou", "shapes", tmp_path / "rpn_iou_shapes", ())
    for seed, state in enumerate(("finished", "running")):
        config = load_config(["experiment=advice/rpn_iou", f"seed={seed}"])
        job = find_job(sweep.folder, asdict(config), [], seed)
        folder = sweep.folder / str(job.number)
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps({"bbox/AP": 0.25, "segm/AP": 0.2, "segm/AP50": 0.5}))
        (folder / "metrics.jsonl").write_text(json.dumps({"step": 20, "time/step": 0.5}) + "\n")
        (folder / "environment.json").write_text(json.dumps({"gpus": [], "processors": 2}))
        save_job(sweep.folder, job.__class__(**{**vars(job), "state": state}))
    ADVICE["write_tables"](sweep, tmp_path / "tables")
    assert (tmp_path / "tables/rpn_iou_shapes.csv").read_text().splitlines() == [
        "rpn.iou.upper,rpn.iou.lower,seed,bbox/AP,segm/AP,seconds,device",
        "0.7,0.3,0,0.25,0.2,10.0,2 processors",
    ]
    assert [(sweep.folder / f"{job.number}/checkpoints").exists() for job in read_jobs(sweep.folder)] == [False, True]


def test_what_another_sweep_has_trained_is_taken_over_without_its_checkpoint(tmp_path: Path) -> None:
    common, sweep = (ADVICE["Sweep"](knob, "shapes", tmp_path / knob, ()) for knob in ("test_budgets", "rpn_iou"))
    for seed, state in ((0, "finished"), (1, "running")):
        settings = asdict(load_config(["experiment=advice/_base", f"seed={seed}"]))
        job = find_job(common.folder, settings, [f"seed={seed}"], seed)
        (common.folder / str(seed) / "checkpoints").mkdir(parents=True)
        (common.folder / str(seed) / "metrics.json").write_text("{}")
        save_job(common.folder, replace(job, state=state))
    half_done = find_job(sweep.folder, asdict(load_config(["experiment=advice/_base", "seed=0"])), [], 7)
    (sweep.folder / "7").mkdir()
    for _ in range(2):
        ADVICE["adopt"](sweep, common)
        assert [(job.number, job.state) for job in read_jobs(sweep.folder)] == [(half_done.number, "finished")]
        assert [path.name for path in (sweep.folder / "7").iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    ("code", "seconds", "said"),
    [("", 60, ""), ("raise SystemExit(3)", 60, "exit code 3, see"), ("import time; time.sleep(60)", 0.1, "stopped")],
)
def test_a_sweep_that_fails_or_runs_out_of_time_says_so(tmp_path: Path, code: str, seconds: float, said: str) -> None:
    words = [sys.executable, "-c", code]
    fault = ADVICE["_run"](words, tmp_path / "a.log", time.monotonic() + seconds, dict(os.environ))
    assert fault.startswith(said)
    assert bool(fault) == bool(said)


def test_a_table_has_means_and_differences_from_the_trained_value_with_intervals(tmp_path: Path) -> None:
    lines = ["roi_head.num_fcs,seed,segm/AP,seconds,device"]
    lines += [f"{value},{seed},{0.2 + 0.01 * seed + 0.1 * (value == 2)},8,GPU" for value in (2, 1) for seed in (0, 1)]
    (tmp_path / "box_fcs_shapes.csv").write_text("\n".join(lines))
    text = PAGE["table"](PAGE["read"](tmp_path / "box_fcs_shapes.csv"), {"segm/AP": 0.02})
    assert text.splitlines()[2:] == [
        "| 1 | 20.5 (19.1 to 21.9) | -10.0 (-12.0 to -8.0) |",
        "| **2** | 30.5 (29.1 to 31.9) |  |",
    ]


def test_the_tables_of_the_page_are_those_of_the_results() -> None:
    text = (ROOT / "docs/knobs.md").read_text()
    found = [PAGE["read"](path) for path in (ROOT / "docs/knobs").glob("*_shapes.csv")]
    spread = PAGE["spreads"](found)
    assert len({key for measured in found for key in measured.keys}) >= 8
    for measured in found:
        assert f"<!-- {measured.name} -->\n{PAGE['table'](measured, spread)}<!-- end -->" in text
        assert f"](pictures/knobs/{measured.name}.png)" in text
        assert all(len(runs) >= 3 for runs in measured.rows.values())


def test_the_page_gets_pictures_and_new_tables_and_keeps_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, results = tmp_path / "knobs.md", tmp_path / "knobs/proposals_pre_test_photos.csv"
    results.parent.mkdir()
    monkeypatch.setattr(sys, "argv", ["knobs_page.py", "--docs", str(tmp_path)])
    for score in (0.1, 0.3):
        results.write_text(f"rpn.nms.pre_test,seed,segm/AP of one half,milliseconds,device\n2000,0,{score},7,GPU\n")
        PAGE["main"]()
        page.write_text(page.read_text().replace("## proposals", "## These proposals"))
    assert "| **2000** | 30.0 |  | 7.0 |\n<!-- end -->" in page.read_text()
    assert "10.0" not in page.read_text()
    assert "## These proposals" in page.read_text()
    with Image.open(tmp_path / "pictures/knobs/proposals_pre_test_photos.png") as picture:
        assert picture.width > 800
    page.write_text("without a place for it")
    with pytest.raises(AssertionError, match="<!-- proposals_pre_test_photos -->"):
        PAGE["main"]()


def test_the_interval_of_a_mean_is_of_the_deviation_of_all_trainings(tmp_path: Path) -> None:
    values = {"0.7,0.3": (0.2, 0.22, 0.24, 0.22), "0.5,0.5": (0.1, 0.12)}
    lines = ["rpn.iou.upper,rpn.iou.lower,seed,bbox/AP,segm/AP"]
    lines += [f"{key},{seed},0.5,{score}" for key, runs in values.items() for seed, score in enumerate(runs)]
    (tmp_path / "rpn_iou_shapes.csv").write_text("\n".join(lines))
    measured = PAGE["read"](tmp_path / "rpn_iou_shapes.csv")
    spread = PAGE["spreads"]([measured, measured])
    deviation = ((0.0008 + 0.0002) / (3 + 1)) ** 0.5  # of both, with 4 degrees of freedom; t is 2.776
    assert spread["segm/AP"] == pytest.approx(2.776 * deviation, rel=0.1)
    assert measured.mean("0.7 / 0.3", "segm/AP", 0.04) == pytest.approx((0.22, 0.02))
    assert measured.difference("0.5 / 0.5", "segm/AP", 0.04) == pytest.approx((-0.11, 0.04 * (1 / 2 + 1 / 4) ** 0.5))
    assert measured.difference("0.7 / 0.3", "segm/AP", 0.04) is None
