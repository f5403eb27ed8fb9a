"""`report` on a real run: the page of the command is that of the training, and it outlives the data."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from maskrcnn_train.data.splits.layouts import locate
from maskrcnn_train.report import report
from maskrcnn_train.settings.command_rules import check_report_rules
from maskrcnn_train.settings.command_schema import ReportConfig
from maskrcnn_train.settings.compose import config_from_plain, load_command_config


def configured(*overrides: str) -> ReportConfig:
    return load_command_config("report", ReportConfig, check_report_rules, list(overrides))[0]


@pytest.fixture
def run(run_dir: Path, tmp_path: Path) -> Path:
    return Path(
        shutil.copytree(run_dir, tmp_path / run_dir.name, ignore=shutil.ignore_patterns("checkpoints", "events*"))
    )


def test_the_command_makes_the_page_of_the_training(run: Path) -> None:
    made_by_training = (run / "report.html").read_text()
    assert 'class="card"' in made_by_training
    (run / "report.html").unlink()
    path, reason = report(configured(f"run={run}"))
    assert (path, reason) == (run / "report.html", "")
    assert path.read_text() == made_by_training


def test_an_image_that_cannot_be_read_is_left_out_of_the_page_as_of_the_scores(run: Path, tmp_path: Path) -> None:
    """As in the training, where it has no results and no place among the worst images."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    source = locate(config_from_plain(config).data, "val")
    assert source is not None
    images, annotations = shutil.copytree(source.images, tmp_path / "val"), source.files[0].annotations
    name = json.loads(annotations.read_text())["images"][0]["file_name"]
    (images / name).write_text("damaged")
    config["data"]["on_bad_image"] = "skip"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    results = json.loads((run / "predictions.json").read_text())
    (run / "predictions.json").write_text(json.dumps([each for each in results if each["image_id"] != 1]))
    given = [
        f"data.{split}.{key}={path}"
        for split in ("train", "val")
        for key, path in (("images", images), ("annotations", annotations))
    ]
    path, reason = report(configured(f"run={run}", "data=custom", *given))
    assert reason == ""
    assert "All 3 images" in path.read_text()


def test_the_data_of_the_run_are_counted(run: Path) -> None:
    data = json.loads((run / "data.json").read_text())
    assert {name: split["images"] for name, split in data["splits"].items()} == {"train": 12, "val": 4, "test": 1}
    truth = json.loads(Path(data["splits"]["val"]["annotations"]).read_text())
    assert data["splits"]["val"]["objects"] == len([each for each in truth["annotations"] if not each.get("iscrowd")])
    assert sum(data["splits"]["val"]["classes"].values()) == data["splits"]["val"]["objects"]


def test_without_its_data_a_run_keeps_its_pictures_and_says_so(run: Path, tmp_path: Path) -> None:
    config = (run / "config.yaml").read_text().replace("name: shapes", "name: coco")
    (run / "config.yaml").write_text(config)
    path, reason = report(configured(f"run={run}", f"output={tmp_path}/other/page.html"))
    assert path == tmp_path / "other/page.html"
    assert "could not be drawn again" in path.read_text()
    assert reason.replace("'", "&#39;") in path.read_text()
    assert path.read_text().count("ground truth on the left") == 2


def test_data_that_moved_can_be_named(run: Path) -> None:
    """The name of the data's folder in the config is no longer right; data= says where it is."""
    trained = config_from_plain(yaml.safe_load((run / "config.yaml").read_text())).data
    source = locate(trained, "val")
    assert source is not None
    given = {"images": source.images, "annotations": source.name}
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("name: shapes", "name: coco"))
    overrides = [f"data.{name}.{what}={path}" for name in ("train", "val") for what, path in given.items()]
    path, reason = report(configured(f"run={run}", "data=custom", *overrides))
    assert reason == ""
    assert 'class="card"' in path.read_text()


def test_a_sweep_gets_a_page_with_links_from_anywhere(run: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    for number in range(2):
        shutil.copytree(run, sweep / str(number))
        (sweep / str(number) / "overrides.yaml").write_text(f"[seed={number}]")
    page, _ = report(configured(f"run={sweep}", f"output={tmp_path}/pages/sweep.html"))
    text = page.read_text()
    assert 'href="../sweep/sweep.csv"' in text
    assert 'href="../sweep/1/report.html"' in text
    assert "seed=1" in text or ">1</code>" in text


@pytest.mark.parametrize("latencies", [[12.34, None], [None, None]])
def test_the_page_of_a_sweep_has_latencies_where_they_were_measured(
    latencies: list[float | None], run: Path, tmp_path: Path
) -> None:
    for number, latency in enumerate(latencies):
        shutil.copytree(run, tmp_path / f"sweep/{number}")
        metrics = json.loads((run / "metrics.json").read_text()) | ({"latency": latency} if latency else {})
        (tmp_path / f"sweep/{number}/metrics.json").write_text(json.dumps(metrics))
    page, _ = report(configured(f"run={tmp_path}/sweep"))
    rows = list(csv.DictReader((tmp_path / "sweep/sweep.csv").read_text().splitlines()))
    measured = latencies[0] is not None
    assert [row.get("latency") for row in rows] == (["12.34", ""] if measured else [None, None])
    assert ("ms an image" in page.read_text()) == ("<td>12.3</td>" in page.read_text()) == measured


@pytest.mark.parametrize("name", ["overrides.yaml", "config.yaml", "metrics.json"])
def test_a_file_of_a_job_that_was_cut_short_is_named(name: str, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "sweep/0")
    (tmp_path / "sweep/0" / name).write_text('{"a": [')
    with pytest.raises(ValueError, match=rf"{name} is not .*cut short"):
        report(configured(f"run={tmp_path}/sweep"))


def test_classes_without_names_cost_the_new_pictures_only(run: Path) -> None:
    (run / "classes.json").write_text("{}")
    path, reason = report(configured(f"run={run}"))
    assert "the classes need `names` and `ids`" in reason
    assert path.is_file()


def test_a_mistyped_key_is_one_line() -> None:
    line = [sys.executable, "-m", "maskrcnn_train.report", "run=x", "gallery.wrost=3"]
    answer = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert answer.returncode == 2
    assert answer.stderr == "error: gallery.wrost is not a setting; did you mean gallery.worst?\n"


def test_other_mistakes_name_the_setting(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        report(configured(f"run={tmp_path}/nowhere"))
    with pytest.raises(ValueError, match="holds no run"):
        report(configured(f"run={tmp_path}"))
    with pytest.raises(ValueError, match="must be a file"):
        configured("run=x", "output=folder/")


def test_results_with_a_damaged_box_are_one_line_on_the_page(run: Path) -> None:
    results = json.loads((run / "predictions.json").read_text())
    results[0]["bbox"] = [0, 0, 8]
    (run / "predictions.json").write_text(json.dumps(results))
    _, reason = report(configured(f"run={run}"))
    assert "result 0 (image 1) has bbox [0, 0, 8]; it must be [x, y, width, height]" in reason


def test_a_run_without_pictures_says_why(run: Path) -> None:
    (run / "predictions.json").unlink()
    shutil.rmtree(run / "pictures")
    path, _ = report(configured(f"run={run}"))
    assert "has no predictions.json" in path.read_text()
