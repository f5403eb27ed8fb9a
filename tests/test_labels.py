"""`python -m maskrcnn_train.labels`: folds that go on where they were stopped, and what comes out of them."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_coco import small_coco, write_images
from tiny import TINY, untrained_checkpoint

from maskrcnn_train import load_config
from maskrcnn_train.data.pixels import RGB
from maskrcnn_train.data.splits.splitting import read_training_split
from maskrcnn_train.labelling.folds import cut_folds, readable, remember
from maskrcnn_train.labels import LabelsResult, find_doubtful_labels
from maskrcnn_train.prediction.validation import Validation
from maskrcnn_train.settings.command_rules import check_labels_rules
from maskrcnn_train.settings.command_schema import LabelsConfig
from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.settings.errors import UserError

PLANT = Path(__file__).with_name("planted_fault.py")
SMALL = [*TINY, "trainer.max_steps=2", "folds=2", "suspicion=0", "pictures=5"]


def found(*overrides: str) -> LabelsResult:
    config, _ = load_command_config("labels", LabelsConfig, check_labels_rules, list(overrides))
    return find_doubtful_labels(config)


def written(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def result(shapes: str, tmp_path_factory: pytest.TempPathFactory) -> LabelsResult:
    folder = tmp_path_factory.mktemp("labels") / "out"
    return found(*SMALL, shapes, f"output_dir={folder}", "evaluation.study=true", "evaluation.bootstrap=100")


def test_every_image_is_judged_by_the_model_that_has_not_seen_it(result: LabelsResult) -> None:
    seen, judged = [], []
    for number in range(2):
        fold = result.folder / f"fold_{number}"
        images = {each["image_id"] for each in written(fold, "predictions.json")}
        judged.append(images)
        seen.append(written(fold, "data.json")["splits"])
    assert not judged[0] & judged[1]
    assert [each["train"]["images"] for each in seen] == [6, 6]
    joined = written(result.folder, "predictions.json")
    assert {each["image_id"] for each in joined} == judged[0] | judged[1]
    assert len(judged[0] | judged[1]) >= 10  # of 12


def test_all_images_are_scored_once_and_with_an_interval(result: LabelsResult) -> None:
    assert written(result.folder, "metrics.json") == result.metrics
    assert "AP" in written(result.folder, "study/study.json")["segm"]["intervals"]
    table = (result.folder / "classes.csv").read_text()
    assert table.startswith("category_id,class,objects")


def test_each_label_is_in_the_list_and_the_page_shows_the_first(result: LabelsResult) -> None:
    entries = written(result.folder, "doubts.json")["doubts"]
    labels = [each["annotations"][0] for each in entries if each["annotations"]]
    config = load_config([*TINY, f"data.root={Path(written(result.folder, 'doubts.json')['labels']).parents[2]}"])
    assert sorted(labels) == sorted(read_training_split(config)[0].index.annotation_ids.tolist())
    assert [each["suspicion"] for each in entries] == sorted((each["suspicion"] for each in entries), reverse=True)
    assert (result.folder / "labels.html").read_text().count("<figure") == 5
    assert {each["id"] for each in written(result.folder, "corrected.json")["images"]} == {*range(1, 13)}


def test_the_checkpoints_of_finished_folds_are_freed(result: LabelsResult) -> None:
    assert list(result.folder.glob("fold_*/checkpoints")) == []


def test_the_same_command_trains_nothing_again_and_gives_the_same(result: LabelsResult, shapes: str) -> None:
    before = (result.folder / "fold_0/train.log").stat().st_mtime_ns
    doubts = (result.folder / "doubts.csv").read_bytes()
    again = found(*SMALL, shapes, f"output_dir={result.folder}", "evaluation.study=false")
    assert again.doubts == result.doubts
    assert (result.folder / "doubts.csv").read_bytes() == doubts
    assert (result.folder / "fold_0/train.log").stat().st_mtime_ns == before
    fewer = found(*SMALL, shapes, f"output_dir={result.folder}", "evaluation.study=false", "suspicion=0.9")
    assert len(fewer.doubts) < len(result.doubts)


def test_a_folder_of_other_settings_or_other_labels_is_refused(
    result: LabelsResult, shapes: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="holds folds of other settings; they differ in seed=1"):
        found(*SMALL, shapes, f"output_dir={result.folder}", "seed=1")
    whole, _, _ = read_training_split(load_config([*TINY, shapes]))
    remember(tmp_path, whole, ["seed=1"])
    remember(tmp_path, whole, ["seed=1"])
    labels, index = whole.labels.copy(), whole.index
    labels[0] = 0
    names = [replace(each, name=f"{each.name}s") for each in index.categories]
    for other in (
        replace(whole, labels=labels),
        replace(whole, index=replace(index, crowd=~index.crowd)),
        replace(whole, index=replace(index, coordinates=index.coordinates + 1)),  # a mask redrawn within its box
        replace(whole, index=replace(index, categories=names)),
    ):
        with pytest.raises(UserError, match="the data has changed"):
            remember(tmp_path, other, ["seed=1"])
    (tmp_path / "folds.json").write_text("[]")
    with pytest.raises(UserError, match="is damaged"):
        remember(tmp_path, whole, ["seed=1"])


def test_folds_cover_all_images_and_follow_from_the_seed(shapes: str) -> None:
    whole, classes, _ = read_training_split(load_config([*TINY, shapes]))
    folds = cut_folds(whole, classes, folds=3, seed=0)
    assert np.array_equal(np.sort(np.concatenate([each.val.rows for each in folds])), whole.rows)
    for each in folds:
        assert not np.isin(each.val.rows, each.train.rows).any()
        assert len(each.train) + len(each.val) == 12
    again, other = (cut_folds(whole, classes, folds=3, seed=seed) for seed in (0, 1))
    rows = [[each.val.rows.tolist() for each in cut] for cut in (folds, again, other)]
    assert rows[0] == rows[1] != rows[2]
    with pytest.raises(UserError, match="cannot be cut into folds=13"):
        cut_folds(whole, classes, folds=13, seed=0)


def test_the_labels_of_an_image_that_cannot_be_read_are_not_judged(tmp_path: Path) -> None:
    truth = small_coco(3)
    write_images(tmp_path, truth)
    (tmp_path / "2.png").write_bytes(b"damaged")
    kept = readable(truth, tmp_path, 1, RGB)
    assert [image["id"] for image in kept["images"]] == [1, 3]
    assert [each["id"] for each in kept["annotations"]] == [1, 2, 5, 6]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["resume=auto"], "go on with output_dir"),
        (["folds=1"], "folds=1 is out of range"),
        (["suspicion=2"], "suspicion=2"),
        (["data=custom"], r"data\.train\.images is not set"),
        (["data=custom", "checkpoint=a.pt", "split=val"], r"data\.val\.images is not set"),
    ],
)
def test_a_mistake_is_told_in_one_line(overrides: list[str], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        load_command_config("labels", LabelsConfig, check_labels_rules, overrides)


def test_no_validation_split_is_needed(tmp_path: Path) -> None:
    given = ["data=custom", "data.train.images=DIR", "data.train.annotations=FILE.json"]
    load_command_config("labels", LabelsConfig, check_labels_rules, given)


def test_a_checkpoint_judges_the_split_that_it_has_not_seen(shapes: str, tmp_path: Path) -> None:
    given = [f"checkpoint={untrained_checkpoint(tmp_path)}", *TINY[1:4], shapes, "data.shapes.image_size=64"]
    given += ["suspicion=0", "split=val", "evaluation.study=false", f"output_dir={tmp_path / 'out'}"]
    judged = found(*given, "trainer.num_workers=0", "trainer.precision=fp32")
    assert {each["image_id"] for each in written(judged.folder, "predictions.json")} == {1, 2}
    assert judged.doubts
    assert "fold_0" not in os.listdir(judged.folder)
    _, warnings = load_command_config("labels", LabelsConfig, check_labels_rules, [*given, "optimizer.lr=0.1"])
    assert warnings == ["optimizer.lr: no effect with checkpoint, whose training set them"]


@pytest.mark.parametrize("written_before", [False, True])
def test_a_fold_whose_results_could_not_be_written_keeps_its_checkpoints_and_goes_on(
    written_before: bool, result: LabelsResult, shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """written_before: its metrics, as earlier versions did."""

    def full(validation: Validation, path: Path) -> None:
        if written_before:
            (path.parent / "metrics.json").write_text("{}")
        raise OSError(errno.ENOSPC, "No space left on device")

    given = [*SMALL, shapes, "evaluation.study=false", f"output_dir={tmp_path / 'out'}"]
    monkeypatch.setattr(Validation, "write_predictions", full)
    with pytest.raises(OSError, match="No space left"):
        found(*given)
    monkeypatch.undo()
    assert (tmp_path / "out/fold_0/checkpoints/last.pt").is_file()
    assert found(*given).doubts == result.doubts
    assert len((tmp_path / "out/fold_0/train.log").read_text().split("resumed")) == 2


@pytest.mark.slow
def test_folds_that_were_killed_go_on_and_end_as_undisturbed_ones(
    result: LabelsResult, shapes: str, tmp_path: Path
) -> None:
    given = [*SMALL, shapes, "evaluation.study=true", "evaluation.bootstrap=100", "trainer.interval_unit=step"]
    command = [*given, f"output_dir={tmp_path / 'out'}"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    planted = [sys.executable, str(PLANT), "third step", "SIGKILL", "maskrcnn_train.labels", *command]
    assert subprocess.run(planted, env=env, capture_output=True, timeout=300).returncode == -9
    assert (tmp_path / "out/fold_0/predictions.json").is_file()
    assert not (tmp_path / "out/fold_1/predictions.json").exists()
    first = (tmp_path / "out/fold_0/train.log").stat().st_mtime_ns
    subprocess.run([sys.executable, "-m", "maskrcnn_train.labels", *command], env=env, check=True, timeout=300)
    assert (tmp_path / "out/fold_0/train.log").stat().st_mtime_ns == first
    assert (tmp_path / "out/doubts.csv").read_bytes() == (result.folder / "doubts.csv").read_bytes()
