"""`check`: every planted fault by name, none where there is none, and settings that answer them."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from planted_data import DataSet, Found, planted
from small_coco import FACADE
from tiny import TINY
from torch import nn

from maskrcnn_train import load_config, train
from maskrcnn_train.check import CheckResult, check, run
from maskrcnn_train.checking import cost
from maskrcnn_train.checking.advice import combined
from maskrcnn_train.checking.settings import quick_check
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.settings.command_rules import check_preflight_rules, check_split_rules
from maskrcnn_train.settings.command_schema import CheckConfig, SplitCommandConfig
from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.settings.overrides import overrides_text
from maskrcnn_train.settings.rules import check_train_rules
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.split import split


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKRCNN_TRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())


def configured(*overrides: str) -> CheckConfig:
    return load_command_config("check", CheckConfig, check_preflight_rules, ["workers=1", "timing=false", *overrides])[
        0
    ]


def checked(folder: Path, *overrides: str) -> CheckResult:
    return check(configured(*overrides, f"output_dir={folder}"))


def found_in(result: CheckResult) -> dict[Found, list[int | str]]:
    found: dict[Found, list[int | str]] = {}
    for finding in result.findings:
        found.setdefault((finding.severity, finding.kind, finding.split), []).extend(finding.items)
    return found


def only_faults(found: dict[Found, list[int | str]]) -> dict[Found, list[int | str]]:
    return {key: items for key, items in found.items() if key[0] != "advice"}


def test_every_planted_fault_is_found_and_nothing_else(tmp_path: Path) -> None:
    overrides, expected = planted(tmp_path / "data")
    assert len(expected) >= 25
    result = checked(tmp_path / "check", *overrides)
    found = found_in(result)
    unordered = {key: sorted(map(str, items)) for key, items in only_faults(found).items()}
    assert unordered == {key: sorted(map(str, items)) for key, items in only_faults(expected).items()}
    assert found["advice", "image-unlisted", "train"] == ["spare.png"]
    reasons = [finding.what for finding in result.findings if finding.kind == "annotation-left-out"]
    assert len(set(reasons)) == len(expected["warning", "annotation-left-out", "train"])


def test_a_sound_data_set_has_no_fault(tmp_path: Path) -> None:
    result = checked(tmp_path / "check", *DataSet(tmp_path / "data").write())
    assert only_faults(found_in(result)) == {}
    assert not result.has_errors


def test_everything_is_in_the_json(tmp_path: Path) -> None:
    overrides, _ = planted(tmp_path / "data")
    result = checked(tmp_path / "check", *overrides, "decode=false")
    plain = json.loads((tmp_path / "check/findings.json").read_text())
    assert [row["kind"] for row in plain["findings"]] == [finding.kind for finding in result.findings]
    assert [row["items"] for row in plain["findings"]] == [list(finding.items) for finding in result.findings]
    assert plain["classes"]["names"] == ["door", "window", "arch", "attic"]
    assert sum(row["objects"] for row in plain["anchors"]) == sum(plain["classes"]["train"])
    assert plain["memory"]["step_bytes"] > 1e8


def test_time_is_forecast_from_a_step_and_the_part_that_dominates_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, took = cost._seconds, iter([1.0, 0.6, 0.9, 0.8, 0.5])  # step, backbone, box head; image, its box head

    def seconds(work: Callable[[], object], model: nn.Module) -> float:
        assert really(work, model) > 0
        return next(took)

    monkeypatch.setattr(cost, "_seconds", seconds)
    update, images = cost._seconds_of_update, ["augmentation.start_scale=0.6", "augmentation.full_size_from=1"]
    monkeypatch.setattr(cost, "_seconds_of_update", lambda *of: 0.5 if update(*of) > 0 else 0.0)
    small = ["backbone=resnet18", "backbone.fpn_channels=32", "data.min_size=64", "data.max_size=64", "mask_head=none"]
    heavy = [
        "roi_head.conv_dim=64",
        "roi_head.fc_dim=64",
        "roi_head.sampling.batch_size=128",
        "trainer.epochs=3",
        "trainer.batch_size=2",
        "trainer.precision=fp32",
    ]
    data = [text for text in DataSet(tmp_path / "data").write() if text.startswith("data")]
    result = checked(tmp_path / "check", *data, *small, *heavy, *images, "timing=true", "decode=false")
    plain = json.loads((tmp_path / "check/findings.json").read_text())["time"]
    parts = {"backbone and FPN": 0.8, "ROI box head": 1.2, "optimizer": 0.5}  # of two images, no more than the step
    assert (plain["step"], plain["parts"]) == (2.5, pytest.approx(parts))
    assert plain["steps"] == 3 * -(-len(read_splits(load_config(data)).train) // 2)
    area = (1 - 0.6**3) / (3 * 0.4)  # the mean of the squares from 0.6 to 1
    assert plain["training"] == pytest.approx(plain["steps"] * (2.5 - 0.8 * (1 - area)), rel=1e-3)
    assert (plain["image"], plain["its_box_head"]) == (0.8, 0.5)
    advice = {finding.kind: f"{finding.what}: {finding.fix}" for finding in result.findings}
    assert "roi_head.num_convs=4" in advice["time-box-head"]
    assert "roi_head=fc2 would save" in advice["time-box-head"]
    assert "rpn.nms.post_test=1000" in advice["time-proposals"]


def test_weights_that_cannot_be_downloaded_are_not_advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    data = DataSet(tmp_path / "data").write()
    assert combined(checked(tmp_path / "online", *data, "decode=false").findings)["weights.source"] == "imagenet"
    small = combined(checked(tmp_path / "small", *data, "decode=false", "backbone=resnet10").findings)
    assert (small["backbone.name"], small["weights.source"]) == ("resnet18", "imagenet")
    monkeypatch.setattr(socket, "create_connection", unreachable)
    assert "weights.source" not in combined(checked(tmp_path / "offline", *data, "decode=false").findings)


def test_the_advice_composes_with_a_training_and_answers_what_was_found(tmp_path: Path) -> None:
    overrides, _ = planted(tmp_path / "data")
    result = checked(tmp_path / "check", *overrides)
    bad = "# @package _global_\noptimizer: {lr: 1.0}\nroi_head: {detections_per_image: 5}\n"
    bad += "rpn: {anchors: {sizes: [8, 12, 16, 24, 32]}}\n"
    (result.folder / "experiment/mine.yaml").write_text(bad)
    given = ("optimizer", "roi_head", "rpn")  # what the command line says wins over an experiment
    settings = [*(text for text in overrides if not text.startswith(given)), "experiment=[mine,advice]"]
    config, _ = load_command_config("train", TrainConfig, check_train_rules, settings, str(result.folder))
    assert (config.data.on_bad_image, config.optimizer.lr) == ("skip", 0.02)
    assert config.roi_head.detections_per_image == 50
    with_advice = [*settings, "workers=1", "timing=false", f"output_dir={tmp_path}/again"]
    again = check(load_command_config("check", CheckConfig, check_preflight_rules, with_advice, str(result.folder))[0])
    answered = {"learning-rate-high", "detections-too-few", "anchors-better"}
    assert answered <= {finding.kind for finding in result.findings}
    assert not answered & {finding.kind for finding in again.findings}
    skipped = [each.severity for each in again.findings if each.kind in ("image-missing", "image-unreadable")]
    assert skipped == ["warning", "warning"]


def test_config_dir_finds_the_advice(tmp_path: Path) -> None:
    overrides, _ = planted(tmp_path / "data")
    result = checked(tmp_path / "check", *overrides, "decode=false")
    settings = [text for text in overrides if not text.startswith("optimizer.lr")]
    folder = str(result.folder)
    config, _ = load_command_config("train", TrainConfig, check_train_rules, [*settings, "experiment=advice"], folder)
    assert config.optimizer.lr == 0.02
    wrong = [*settings, "experiment=advice", "rpn.nms.post_tran=5"]
    with pytest.raises(ValueError, match=r"rpn\.nms\.post_tran is not a setting"):
        load_command_config("train", TrainConfig, check_train_rules, wrong, folder)


def composed(command: str) -> TrainConfig:
    python, dash_m, package, *given = shlex.split(command)
    assert (python, dash_m, package) == ("python", "-m", "maskrcnn_train")
    config, warnings = load_command_config("train", TrainConfig, check_train_rules, given)
    assert not [warning for warning in warnings if "times" in warning]
    return config


def test_the_printed_command_is_the_training_with_the_advice(tmp_path: Path) -> None:
    overrides = DataSet(tmp_path / "two words").write()
    given = [text for text in overrides if not text.startswith(("data.root", "backbone"))]
    given += [
        "experiment=scratch",
        "augmentation.start_scale=1",
        f"data.root='{tmp_path}/two words'",
        "optimizer.lr=1.0",
    ]
    own = ["decode=false", f"output_dir={tmp_path}/typed"]
    typed = check(configured(*given, *own), [*given, *own])
    settings = checked(tmp_path / "settings", *given, "decode=false")  # without a command line to repeat
    advice = combined(typed.findings)
    assert advice["optimizer.lr"] == 0.002
    assert typed.command is not None
    assert settings.command is not None
    assert "experiment=scratch" in typed.command
    assert typed.command in (tmp_path / "typed/check.log").read_text()
    expected = load_config([*given[:-1], *overrides_text(advice).split()])
    assert composed(typed.command) == composed(settings.command) == expected


def test_the_command_against_leaks_takes_them_away(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "two words")
    for number in range(2, 24):
        shutil.copy(data.path("train", 1 + number % 2), data.path("train", number))
    overrides = data.write()
    result = checked(tmp_path / "check", *overrides[1:-1], "data=roboflow",
                     f"data.root='{data.root}'", "data.split.fractions=[0.5,0.5]")  # fmt: skip
    (leak,) = [finding for finding in result.findings if finding.kind == "leak"]
    assert f" {leak.fix}\n" in (tmp_path / "check/check.log").read_text()
    python, dash_m, command, *given = shlex.split(leak.fix.partition(": ")[2])
    assert (python, dash_m, command) == ("python", "-m", "maskrcnn_train.split")
    given = [*given, f"output_dir={tmp_path}/split", "workers=1"]
    parts = split(load_command_config("split", SplitCommandConfig, check_split_rules, given)[0]).files
    paths = [f"data.{name}.annotations='{parts[name]}'" for name in ("train", "val")]
    paths += [f"data.{name}.images='{data.folders['train']}'" for name in ("train", "val")]
    again = checked(tmp_path / "again", *overrides[1:-1], "data=custom", *paths)
    assert "leak" not in {finding.kind for finding in again.findings}


@pytest.mark.parametrize("broken", ["train", "valid"])
def test_a_json_that_is_none_does_not_hide_the_other(tmp_path: Path, broken: str) -> None:
    data = DataSet(tmp_path / "data")
    for content in data.content.values():
        content["annotations"][0]["bbox"] = [5, 5, 0, 9]
    overrides = data.write()
    (tmp_path / "data" / broken / "_annotations.coco.json").write_text("{")
    found = found_in(checked(tmp_path / "check", *overrides))
    name, other = ("train", "val") if broken == "train" else ("val", "train")
    assert len(found["error", "json", name]) == 1
    assert found["warning", "annotation-left-out", other] == [1]


def test_a_missing_val_can_be_cut_from_train(tmp_path: Path) -> None:
    overrides = DataSet(tmp_path / "data").write()
    (tmp_path / "data/valid/_annotations.coco.json").unlink()
    result = checked(tmp_path / "check", *overrides, "decode=false")
    (finding,) = [finding for finding in result.findings if finding.severity == "error"]
    assert (finding.kind, finding.override) == ("split-missing", {"data.split.fractions": [0.8, 0.2]})
    again = checked(tmp_path / "again", *overrides, "decode=false", "data.split.fractions=[0.8,0.2]")
    assert not again.has_errors


def test_boxes_without_masks_are_an_error_that_says_how_to_train_them(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for content in data.content.values():
        for each in content["annotations"]:
            del each["segmentation"]
    overrides = data.write()
    errors = [finding for finding in checked(tmp_path / "a", *overrides).findings if finding.severity == "error"]
    assert {finding.kind for finding in errors} == {"no-masks"}
    assert errors[0].override == {"mask_head.name": "none"}
    assert not checked(tmp_path / "b", *overrides, "mask_head=none").has_errors


def test_missing_weights_are_a_finding(tmp_path: Path) -> None:
    overrides = [*DataSet(tmp_path / "data").write(), "weights=file", "weights.path=nowhere.pt", "decode=false"]
    (finding,) = [each for each in checked(tmp_path / "check", *overrides).findings if each.severity == "error"]
    assert "nowhere.pt does not exist" in finding.what


def test_the_exit_code_is_1_for_errors_0_without_2_for_settings(tmp_path: Path) -> None:
    overrides = [*DataSet(tmp_path / "data").write(), "decode=false", f"output_dir={tmp_path}/check"]
    run(configured(*overrides))
    (tmp_path / "data/train/train1.png").unlink()
    with pytest.raises(SystemExit) as ended:
        run(configured(*overrides[:-1], f"output_dir={tmp_path}/again"))
    assert ended.value.code == 1
    command = [sys.executable, "-m", "maskrcnn_train.check", "data=roboflow", f"data.root={tmp_path}/nowhere"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path}/nowhere does not exist; set data.root to the folder of the data set\n"


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    overrides, _ = planted(tmp_path / "data")
    one = found_in(checked(tmp_path / "one", *overrides))
    two = found_in(checked(tmp_path / "two", *overrides, "workers=2"))
    assert one == two


def test_a_training_says_at_its_start_what_it_doubts(tmp_path: Path) -> None:
    crowded = ["trainer.max_steps=1", "evaluation.max_detections=[1,2,3]"]
    config = load_config([*TINY, f"data.root={tmp_path}/shapes", *crowded])
    kinds = {finding.kind for finding in quick_check(config, read_splits(config))}
    assert "detections-too-few" in kinds
    config.output_dir = str(tmp_path / "run")
    train(config)
    assert "roi_head.detections_per_image" in (tmp_path / "run/train.log").read_text()


def test_neither_the_command_nor_the_quick_check_imports_torch() -> None:
    code = "import sys, maskrcnn_train.check, maskrcnn_train.checking.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_facade_data_has_no_error(tmp_path: Path) -> None:
    if not FACADE.is_dir():
        pytest.skip("the facade data set is not beside the repository")
    overrides = ["data=roboflow", f"data.root={FACADE}", "backbone=resnet18", "trainer.device=cpu"]
    result = checked(tmp_path / "check", *overrides)
    assert [finding for finding in result.findings if finding.severity == "error"] == []
    assert "leak-similar" not in {finding.kind for finding in result.findings}


def test_a_folder_that_splits_share_holds_no_unlisted_picture(tmp_path: Path) -> None:
    data = DataSet(tmp_path / "data")
    for file in data.folders["val"].glob("*.png"):
        file.rename(data.folders["train"] / file.name)
    shared = dict.fromkeys(data.folders, data.folders["train"])
    result = checked(tmp_path / "check", *data.write_custom(shared))
    assert not {"image-unlisted", "image-missing"} & {finding.kind for finding in result.findings}


@pytest.mark.parametrize(("folder", "kind"), [("nowhere", "folder-missing"), ("", "image-missing")])
def test_a_wrong_folder_of_images_brings_no_fault_of_the_labels(tmp_path: Path, folder: str, kind: str) -> None:
    data = DataSet(tmp_path / "data")
    images = {"train": tmp_path / folder, "val": data.folders["val"]}
    result = checked(tmp_path / "check", *data.write_custom(images))
    errors = {(finding.kind, finding.split) for finding in result.findings if finding.severity == "error"}
    assert errors == {(kind, "train")}
    assert "class-absent" not in {finding.kind for finding in result.findings}
