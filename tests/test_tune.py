"""A search from the command to its folder, on few small images."""

from __future__ import annotations

import csv
import importlib
import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from tiny import TINY

pytest.importorskip("optuna", reason="needs the extra tune")


from maskrcnn_train import load_config
from maskrcnn_train.engine.signals import Interrupted
from maskrcnn_train.settings.command_rules import check_tune_rules
from maskrcnn_train.settings.command_schema import TuneConfig
from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.rules import check_train_rules
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.tune import TuneResult, _next_steps, tune
from maskrcnn_train.tuning.records import TrialRecord
from maskrcnn_train.tuning.search import Search, load_search
from maskrcnn_train.tuning.space import Numbers

SMALL = [*TINY[:-1], "trainer.max_steps=1", "trials=4", "trainer.device=cpu"]  # the search chooses the backbone
SPACE = ["backbone=resnet10,resnet18", "roi_head.num_convs=0,1", "roi_head.num_fcs=1,0"]


def searched(*overrides: str) -> TuneResult:
    search, _ = load_search("tune", TuneConfig, check_tune_rules, list(overrides), None)
    return tune(search)


@pytest.fixture(scope="module")
def result(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> TuneResult:
    folder = tmp_path_factory.mktemp("searches") / "search"
    return searched(*SMALL, *SPACE, shapes, f"output_dir={folder}")


def test_each_trial_is_a_run_with_its_own_settings(result: TuneResult) -> None:
    assert len(result.records) == 4
    for each in result.records:
        if each.state == "complete":
            config = yaml.safe_load((result.folder / str(each.number) / "config.yaml").read_text())
            got = {"backbone": config["backbone"]["name"]}
            got |= {f"roi_head.{key}": str(config["roi_head"][key]) for key in ("num_convs", "num_fcs")}
            assert got == dict(text.split("=") for text in each.overrides)
            assert each.score == json.loads((result.folder / str(each.number) / "metrics.json").read_text())["segm/AP"]


def test_the_checkpoints_of_beaten_trials_are_freed(result: TuneResult) -> None:
    kept = {int(path.parent.name) for path in result.folder.glob("*/checkpoints")}
    failed = {each.number for each in result.records if each.state == "failed"}
    assert kept - failed == {0, result.records[0].number}
    assert (result.folder / "1" / "report.html").exists()


def test_several_metrics_give_a_front_in_a_file_and_on_the_page(shapes: str, tmp_path: Path) -> None:
    options = ["metric=[segm/AP,latency]", "trials=2", "trainer.max_steps=1", f"output_dir={tmp_path / 'search'}"]
    given = [*TINY, "rpn.nms.post_test=10,20", shapes, *options]
    search, warnings = load_search("tune", TuneConfig, check_tune_rules, given, None)
    assert warnings[:1] == ["pruning is off: no trial is stopped early by several metrics"]
    found = tune(search)
    front = list(csv.DictReader((found.folder / "pareto.csv").read_text().splitlines()))
    assert [int(row["trial"]) for row in front] == [each.number for each in found.records if each.front]
    for row in front:
        metrics = json.loads((found.folder / row["trial"] / "metrics.json").read_text())
        assert (float(row["segm/AP"]), float(row["latency"])) == (metrics["segm/AP"], metrics["latency"])
        assert metrics["latency"] > 0
    page = (found.folder / "report.html").read_text()
    assert "The Pareto front" in page
    assert "segm/AP, x 100 against latency, ms" in page


def test_values_that_do_not_go_together_fail_with_their_reason(shapes: str, tmp_path: Path) -> None:
    space = ["roi_head.num_convs=0", "roi_head.num_fcs=0,1"]  # the first trial has an empty head
    search, warnings = load_search("tune", TuneConfig, check_tune_rules, [*SMALL, *space, shapes, "trials=1"], None)
    assert any("some trials with roi_head.num_fcs=0 will fail" in warning for warning in warnings)
    search.config.output_dir = str(tmp_path / "search")
    with pytest.raises(UserError, match=r"^no trial ended well; .* leave the ROI box head empty.*; mend that, then"):
        tune(search)
    (record,) = json.loads((tmp_path / "search/trials.json").read_text())["trials"]
    assert record["state"] == "failed"
    assert "leave the ROI box head empty" in record["reason"]


def test_the_folder_has_table_page_and_the_best_settings(result: TuneResult) -> None:
    names = {path.name for path in result.folder.iterdir()}
    assert {"trials.json", "trials.log", "sweep.csv", "report.html", "experiment"} <= names
    complete = [each for each in result.records if each.state == "complete"]
    rows = list(csv.DictReader((result.folder / "sweep.csv").read_text().splitlines()))
    assert [row["job"] for row in rows] == [str(each.number) for each in complete]
    page = (result.folder / "report.html").read_text()
    assert "Mask R-CNN search" in page
    assert "each trial" in page


@pytest.mark.parametrize(
    ("metric", "scores", "recommended"),
    [("segm/AP", [0.0, 0.0], False), ("segm/AP", [0.1, 0.0], True), ("val_loss/total", [0.0, 0.0], True)],
)
def test_settings_are_recommended_only_where_something_was_learnt(
    metric: str, scores: list[float], recommended: bool, tmp_path: Path
) -> None:
    records = [TrialRecord(number, "complete", score, [], 1.0, "") for number, score in enumerate(scores)]
    text = _next_steps(tmp_path, records, metric)
    assert ("experiment=best" in text) == recommended
    assert ("Nothing was learnt: segm/AP is 0 in every trial" in text) != recommended


def test_the_best_settings_are_an_experiment_that_needs_nothing_else(result: TuneResult) -> None:
    config, _ = load_command_config("train", TrainConfig, check_train_rules, ["experiment=best"], str(result.folder))
    best = yaml.safe_load((result.folder / str(result.records[0].number) / "config.yaml").read_text())
    assert best["trainer"].pop("device") == "cpu"  # of its worker: others may have a GPU
    best["trainer"]["device"] = "auto"
    free = ("output_dir", "resume")
    assert {key: value for key, value in asdict(config).items() if key not in free} == {
        key: value for key, value in best.items() if key not in free
    }


def test_a_space_can_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nspace: ['seed=0,1', 'roi_head.num_fcs=1,2']\ntrials: 3\n"
    (tmp_path / "experiment" / "mine.yaml").write_text(text)
    given = [*TINY[1:], "experiment=[shapes,mine]"]
    search, _ = load_search("tune", TuneConfig, check_tune_rules, given, str(tmp_path))
    assert [each.key for each in search.space] == ["seed", "roi_head.num_fcs"]
    assert search.config.trials == 3


def test_what_all_trials_have_decides_the_metric_and_the_first_values() -> None:
    def loaded(*overrides: str) -> Search:
        return load_search("tune", TuneConfig, check_tune_rules, list(overrides), None)[0]

    assert loaded("seed=0,1").metric == "segm/AP"
    assert loaded("mask_head=conv4,none").metric == "bbox/AP"
    search = loaded("optimizer=adamw,sgd", "optimizer.lr=tag(log,interval(1e-5,1))")
    assert search.first_values()["optimizer.lr"] == load_config(["optimizer=adamw"]).optimizer.lr
    (budget,) = loaded("rpn.nms.post_train=interval(50,100)").space
    assert isinstance(budget, Numbers)
    assert budget.whole


def test_a_finished_search_goes_on_with_more_trials(result: TuneResult, shapes: str) -> None:
    same = searched(*SMALL, *SPACE, shapes, f"output_dir={result.folder}")
    assert same.records == result.records


def test_a_trial_that_is_complete_when_a_signal_comes_is_recorded_by_the_next_worker(
    shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TINY, "trainer.max_steps=1", "trials=1", "seed=0,1", shapes, f"output_dir={tmp_path / 'search'}"]
    module = importlib.import_module("maskrcnn_train.train")
    finish = module._finish
    with monkeypatch.context() as patch:
        patch.setattr(module, "_finish", lambda *given: (finish(*given), signal.raise_signal(signal.SIGTERM)))
        with pytest.raises(Interrupted) as stopped:
            searched(*words)
    assert stopped.value.hint.startswith("go on with the same command and output_dir=")
    log = (tmp_path / "search/0/metrics.jsonl").read_bytes()
    (record,) = searched(*words).records
    assert record.state == "complete"
    assert (tmp_path / "search/0/metrics.jsonl").read_bytes() == log


def test_a_search_by_loss_shows_its_best_first(shapes: str, tmp_path: Path) -> None:
    options = ["metric=val_loss/total", "evaluation.loss=true", "trials=2", f"output_dir={tmp_path / 'search'}"]
    found = searched(*SMALL, "optimizer.lr=0.0001,0.01", shapes, *options)
    first, second = (each.score for each in found.records)
    assert first is not None
    assert second is not None
    assert first <= second
    rows = list(csv.DictReader((found.folder / "sweep.csv").read_text().splitlines()))
    assert [row["job"] for row in rows] == [str(each.number) for each in found.records]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["backbone=resnet18"], "no setting has several values"),
        (["backbone=resnet18,resnet51"], "backbone=resnet51 is not an option; did you mean"),
        (["rpn.nms.post_tran=1,2"], "did you mean rpn.nms.post_train"),
        (["optimizer.lr=interval(-1,1)"], "out of range"),
        (["seed=1,2", "trials=1,2"], "trials cannot be searched"),
        (["seed=1,2", "seed=3"], "seed is given twice"),
        (["seed=1,2", "metric=segm/APx"], "is not a score"),
        (["seed=1,2", "metric=segm/AR7"], "max_detections"),
        (["seed=1,2", "mask_head=none", "metric=segm/AP"], "needs masks"),
        (["seed=1,2", "metric=val_loss/total"], "evaluation.loss=true"),
        (["seed=1,2", "metric=val_loss/foo", "evaluation.loss=true"], "is not a score"),
        (["mask_head=conv4,none", "metric=segm/AP"], "not all trials have"),
        (["mask_head=conv4,none", "metric=[bbox/AP,segm/AP]"], "not all trials have"),
        (["seed=1,2", "metric=[segm/AP,segm/AP]"], "several different ones"),
        (["seed=1,2", "metric=latency"], "must name a score"),
        (["seed=1,2", "metric=[segm/AP,latency]", "sampler=cmaes"], "one metric only"),
        (["optimizer.lr=interval(0.1,1)", "sampler=grid"], "at most 10000 combinations"),
        (["seed=1,2", "storage=search.db"], "is no URL"),
        (["rpn.nms.post_train=interval(0.5,100)"], "takes whole numbers"),
        (["seed=1,2", "resume=auto"], "continue a search with output_dir"),
        (["-m", "seed=1,2"], "without it"),
        (
            ["seed=1,2", "metric=bbox/AP/rhino", "data.shapes.num_train=2", "data.shapes.num_val=1"],
            "names an unknown class",
        ),
        (["seed=1,2", "data=roboflow", "data.root=nowhere"], "nowhere does not exist"),
    ],
)
def test_a_mistake_is_one_line_before_anything_runs(
    overrides: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from maskrcnn_train.tune import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tune", *overrides])
    with pytest.raises(SystemExit) as end:
        main()
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert complaint in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "runs").exists()
