"""Every option composes; every mistake is one line with the right name."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import pytest

from maskrcnn_train import __version__
from maskrcnn_train.cli.help import help_page
from maskrcnn_train.cli.main import run_command
from maskrcnn_train.settings.command_rules import check_evaluate_rules
from maskrcnn_train.settings.command_schema import EvaluateConfig
from maskrcnn_train.settings.compose import config_from_plain, load_command_config, load_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.presets import groups
from maskrcnn_train.settings.rules import check_train_rules
from maskrcnn_train.settings.schema import TrainConfig

NEEDS = {
    "data=custom": [f"data.{split}.{key}=x" for split in ("train", "val") for key in ("images", "annotations")],
    "weights=file": ["weights.path=x.pt"],
    "weights=detectron2": ["weights.path=x.pkl"],
}
OPTIONS = [f"{group}={option}" for group, options in groups().items() for option in options]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes(option: str) -> None:
    group, name = option.split("=")
    extra = ["data.root=/data"] if "facade" in name or "finetune" in name or group == "data" else []
    config = load_config([option, *NEEDS.get(option, []), *extra])
    section = asdict(config).get(group, {})
    if "name" in section and group != "augmentation":
        assert section["name"] == name


def test_every_name_of_a_section_has_a_preset() -> None:
    for section in fields(TrainConfig):
        names = getattr(section.type, "__dataclass_fields__", {}).get("name")
        assert names is None or set(names.metadata["options"]) == set(groups()[section.name]), f"conf/{section.name}"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["rpn.nms.post_tran=5"], ["rpn.nms.post_tran", "did you mean rpn.nms.post_train?"]),
        (["nms.post_train=5"], ["did you mean rpn.nms.post_train?"]),
        (["+rpn.nms.post_tran=5"], ["did you mean rpn.nms.post_train?"]),
        (["rpn.iou.lower=0.8"], ["rpn.iou.lower=0.8", "above rpn.iou.upper=0.7"]),
        (["data.channels=17"], ["data.channels=17", "from 1 to 16"]),
        (["data.bits=12"], ["data.bits=12", "8, 16"]),
        (["data.channels=5"], ["numerics.pixel_mean has 3 values for data.channels=5", "maskrcnn_train.check"]),
        (["numerics.pixel_std=[0.2]"], ["numerics.pixel_std has 1 values for data.channels=3"]),
        (["numerics.pixel_mean=[123.7,116.3,103.5]"], ["numerics.pixel_mean=[123.7", "divide", "by 255"]),
        (["data.picture_channels=[1,2]"], ["data.picture_channels=[1, 2]", "one or three"]),
        (["data.picture_channels=[1,2,4]"], ["data.picture_channels=[1, 2, 4]", "from 1 to 3"]),
        (["rpn.iou.upper=1.5"], ["rpn.iou.upper=1.5", "from 0 to 1"]),
        (["backbone=resnet51"], ["did you mean resnet50?", "resnet152"]),
        (["rpn/nms=fsat"], ["did you mean fast?", "per_batch"]),
        (["experiment=shaped"], ["did you mean shapes?"]),
        (["data=custom"], ["data.train.images is not set"]),
        (["data=coco"], ["data.root is not set"]),
        (["weights=file"], ["weights.path is not set"]),
        (["rpn.nms.post_train=many"], ["rpn.nms.post_train", "Integer"]),
        (["rpn.nms.post_train=0"], ["rpn.nms.post_train=0", "at least 1"]),
        (["rpn.anchors.sizes=[8,16]"], ["2 sizes", "P6"]),
        (["roi_head.num_convs=0", "roi_head.num_fcs=0"], ["roi_head.num_convs=0", "empty"]),
        (["backbone.trainable_stages=6"], ["backbone.trainable_stages=6", "auto"]),
        (["trainer.precision=fp8"], ["trainer.precision=fp8", "bf16"]),
        (["trainer.device=gpu"], ["trainer.device=gpu", "cuda"]),
        (["augmentation.rotation=90"], ["augmentation.rotation=90", "from 0 to 45"]),
        (["augmentation.min_crop=0"], ["augmentation.min_crop=0", "from 0.05 to 1"]),
        (["augmentation.copy_paste=2"], ["augmentation.copy_paste=2", "from 0 to 1"]),
        (["data.repeat_threshold=-1"], ["data.repeat_threshold=-1", "from 0 to 1"]),
        (["augmentation=stong"], ["did you mean strong?"]),
        (["seed=null"], ["seed"]),
        (["seed"], ["key=value"]),
        (["rpn.nms.post_train=5,6"], ["add -m"]),
        (["optimizer.lr=nan"], ["optimizer.lr", "not a finite number"]),
        (["weights=coco", "backbone.norm=batch"], ["backbone.norm_eps=0", "backbone.norm_eps=1.0e-5"]),
        (["weights=coco", "backbone.fpn_norm=batch"], ["backbone.norm_eps=0", "backbone.fpn_norm=batch"]),
        (["backbone.norm_eps=0"], ["backbone.norm_eps=0 divides by zero with backbone.norm=batch"]),
        (["optimizer=adamw", "optimizer.betas=[0.9,1.0]"], ["optimizer.betas=[0.9, 1.0]", "below 1"]),
        (["seed=10000000000"], ["seed=10000000000", "from 0 to 4294967295"]),
        (["evaluation.size_limits=[1e-9,1e200]"], ["evaluation.size_limits", "from 1 to 100000"]),
        (["pooler.sampling_ratio=61"], ["pooler.sampling_ratio", "from 0 to 16"]),
        (["rpn.anchors.sizes=[1,1,1,1,1e200]"], ["rpn.anchors.sizes", "100000"]),
        (["evaluation.iou_thresholds=[0]"], ["evaluation.iou_thresholds", "above 0 and at most 1"]),
        (["evaluation.max_detections=[1,1,1]"], ["evaluation.max_detections", "ascending"]),
        (["augmentation.scale_jitter=[2,0.1]"], ["augmentation.scale_jitter", "[smallest, largest]"]),
        (["optimizer.lr=inf"], ["optimizer.lr=inf", "finite"]),
        (["data.min_size=32", "data.max_size=32"], ["images of 32 pixels", "backbone.norm=batch"]),
        (
            ["data.min_size=32", "backbone.norm=group", "backbone.fpn_norm=group", "backbone.fpn_channels=32"],
            ["fpn_norm"],
        ),
        (["rpn.sampling.positive_fraction=0"], ["rpn.sampling.positive_fraction=0", "rpn.sampling.batch_size=256"]),
        (["roi_head.norm=batch", "pooler.resolution=1"], ["roi_head.norm=batch", "pooler.resolution"]),
        (["mask_head.norm=group", "mask_head.pooler.resolution=1"], ["mask_head.norm=group", "at least 2"]),
        (["output_dir="], ["output_dir is empty"]),
        (["data.split.fractions=[1,0]"], ["data.split.fractions=[1.0, 0.0]", "above 0"]),
        (["data=coco", "data.root=' '"], ["data.root is empty"]),
        (["rpn.nms=fast"], ["write rpn/nms=fast"]),
        (["mask_head.pooler=align"], ["mask_head.pooler is a section", "mask_head.pooler.KEY=VALUE"]),
        (["pooler=3"], ["pooler=3 is not an option", "align"]),
        (["check", "data=shapes"], ["python -m maskrcnn_train.check"]),
    ],
)
def test_a_mistake_is_one_clear_line(overrides: list[str], said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_config(overrides)
    message = str(caught.value)
    assert "\n" not in message
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["pooler=pool", "pooler.sampling_ratio=2"], "pooler.sampling_ratio"),
        (["roi_head=fc2", "roi_head.norm=group"], "roi_head.norm"),
        (["rpn.nms.pre_train=10"], "rpn.nms.post_train"),
        (["weights.path=x.pt"], "weights.path"),
        (["augmentation=lsj", "augmentation.min_crop=0.5"], "augmentation.min_crop"),
        (
            ["trainer.capture=true", "augmentation.start_scale=0.5"],
            "trainer.capture serves only the first, small",
        ),
        (["mask_head=none", "augmentation.copy_paste=0.5"], "augmentation.copy_paste"),
        (["data.picture_channels=[3,2,1]"], "data.picture_channels has no effect with data.channels=3 data.bits=8"),
        (["data.bits=16", "augmentation=strong"], "augmentation.color_jitter has no effect with data.channels=3"),
        (["mask_head=none", "mask_head.num_convs=2"], "mask_head.num_convs has no effect with mask_head=none"),
        (["optimizer=adamw", "optimizer.momentum=0.9"], "optimizer.momentum has no effect with optimizer=adamw"),
        (["schedule=cosine", "schedule.milestones=[0.5]"], "schedule.milestones has no effect with schedule=cosine"),
        (["schedule.milestones=[]", "schedule.gamma=0.5"], "schedule.gamma has no effect with schedule.milestones=[]"),
        (["schedule.warmup_steps=9", "schedule.warmup_factor=1"], "warmup_steps has no effect with schedule.warmup_fa"),
        (["schedule.final_factor=0.1"], "schedule.final_factor has no effect with schedule=multistep"),
        (
            ["roi_head.box_loss=giou", "numerics.roi_smooth_l1_beta=0"],
            "roi_smooth_l1_beta has no effect with roi_head.box_loss=giou",
        ),
        (["augmentation.full_size_from=0.5"], "full_size_from has no effect with augmentation.start_scale=1"),
        (["trainer.early_stopping=3", "trainer.evaluate_every=0"], "trainer.early_stopping has no effect"),
        (["data.tile.overlap=0.3"], "data.tile.overlap has no effect with data.tile.size=null"),
    ],
)
def test_a_setting_without_effect_is_a_warning(overrides: list[str], key: str) -> None:
    _, warnings = load_command_config("train", TrainConfig, check_train_rules, overrides)
    assert any(key in warning for warning in warnings)


def test_the_idle_keys_of_a_resumed_run_are_not_told_again() -> None:
    given = ["optimizer=adamw", "optimizer.momentum=0.9", "resume=runs/a"]
    assert load_command_config("train", TrainConfig, check_train_rules, given)[1] == []


def test_the_defaults_give_no_warning() -> None:
    assert load_command_config("train", TrainConfig, check_train_rules, [])[1] == []


def test_seed_hyperparameters_are_the_defaults() -> None:
    config = load_config()
    assert (config.rpn.iou.upper, config.rpn.iou.lower) == (0.7, 0.3)
    assert (config.roi_head.num_convs, config.roi_head.num_fcs) == (4, 2)
    nms = config.rpn.nms
    assert (nms.pre_train, nms.post_train, nms.pre_test, nms.post_test) == (4000, 1000, 2000, 1000)
    assert (nms.train_scope, config.pooler.type, config.pooler.resolution) == ("image", "align", 7)


def run(*arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "maskrcnn_train", *arguments], capture_output=True, text=True)
    return done, time.perf_counter() - began


def test_version_is_that_of_the_package() -> None:
    done, _ = run("--version")
    assert (done.returncode, done.stdout) == (0, f"maskrcnn_train {__version__}\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lr", "0.01"], "unrecognized arguments: --lr; settings are written KEY=VALUE, e.g. optimizer.lr=0.01"),
        (["hydra.run.dir=DIR"], "hydra.run.dir=DIR has no effect; write output_dir=DIR"),
        (["-m", "seed=0,1", "output_dir="], "output_dir is empty; write output_dir=FOLDER, or leave it out"),
        (["-m", "seed=0,1", "hydra.sweep.dir=DIR"], "hydra.sweep.dir=DIR has no effect; write output_dir=DIR"),
    ],
)
def test_a_flag_or_key_that_is_not_ours_is_one_line_with_the_right_way(words: list[str], said: str) -> None:
    done, _ = run(*words)
    assert (done.returncode, done.stderr) == (2, f"error: {said}\n")


@pytest.mark.parametrize("flags", [[], ["-m", "seed=0,1"]])
def test_a_command_takes_a_path_as_it_is_written(flags: list[str]) -> None:
    done, _ = run(*flags, "data.root=runs/lr=0.1", "rpn.nms.post_tran=5")
    assert done.stderr == "error: rpn.nms.post_tran is not a setting; did you mean rpn.nms.post_train?\n"


@pytest.mark.parametrize("arguments", [["rpn.nms.post_tran=5"], ["-m", "rpn.nms.post_train=500,0"]])
def test_the_command_ends_with_code_2_and_no_traceback(arguments: list[str]) -> None:
    done, _ = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: rpn.nms.post_tra")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("ask", [[], ["--cfg", "job"]])
def test_a_flag_may_stand_between_settings(
    place: int, ask: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pt").touch()
    (tmp_path / "budgets").mkdir()
    (tmp_path / "budgets" / "few.yaml").write_text("# @package _global_\nrpn: {nms: {post_test: 7}}\n")
    settings = ["checkpoint=a.pt", "seed=3", "+budgets=few"]
    words = [*settings[:place], "--config-dir", str(tmp_path), *ask, *settings[place:]]
    monkeypatch.setattr(sys, "argv", ["evaluate", *words])
    seen: list[EvaluateConfig] = []
    run_command("evaluate", EvaluateConfig, check_evaluate_rules, seen.append, "help")
    if ask:
        assert "post_test: 7" in capsys.readouterr().out
    else:
        assert (seen[0].rpn.nms.post_test, seen[0].seed) == (7, 3)


@pytest.mark.parametrize(
    ("overrides", "config_dir", "said"),
    [
        (["+budgets=few"], "no/such/folder", "--config-dir no/such/folder does not exist"),
        (["backbone=resnet101"], None, "backbone is not a setting of this command"),
        (["tta.scales=800"], None, "tta.scales is a list; write tta.scales=[A,B]"),
        (["evaluation.bootstrap=7"], None, "too few for an interval"),
        (["max_images=8"], None, "max_images is not a setting"),
    ],
)
def test_a_mistake_in_an_evaluation_is_one_clear_line(overrides: list[str], config_dir: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        load_command_config(
            "evaluate", EvaluateConfig, check_evaluate_rules, ["checkpoint=a.pt", *overrides], config_dir
        )
    assert "did you mean" not in str(caught.value)


def test_a_preset_whose_values_an_experiment_replaces_is_a_warning() -> None:
    def warnings_of(*overrides: str) -> list[str]:
        return load_command_config("train", TrainConfig, check_train_rules, list(overrides))[1]

    (warning,) = warnings_of("experiment=finetune", "rpn/nms=high_recall", "rpn.nms.pre_test=1500")
    assert warning.startswith(
        "experiment=finetune has its own values beside rpn/nms=high_recall: rpn.nms.pre_train=2000"
    )
    assert "rpn.nms.pre_test" not in warning
    assert warnings_of("rpn/nms=high_recall") == []
    assert warnings_of("experiment=finetune", "weights=coco") == []


def test_another_main_configuration_is_refused_rather_than_ignored() -> None:
    done, _ = run("--config-name=mine")
    assert done.returncode == 2
    assert done.stderr == (
        "error: --config-name and --config-path are fixed; give --config-dir=FOLDER experiment=FILE\n"
    )


def test_neither_help_nor_the_package_imports_torch() -> None:
    code = "import sys, maskrcnn_train.__main__ as command; sys.argv = ['x', '--help']; command.main()"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; assert 'torch' not in sys.modules"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "resnext101_64x4d" in done.stdout


def test_the_package_gives_functions_even_after_their_modules_were_imported() -> None:
    code = (
        "import maskrcnn_train.cli; from maskrcnn_train.train import train as a; from maskrcnn_train import train as b"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", f"{code}; assert a is b"], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_help_names_groups_keys_and_examples() -> None:
    page = help_page("evaluate", "text")
    assert "predictions: null" in page
    assert "pycocotools" not in page.split("Keys and their defaults")[0]
    assert "  backbone" not in page
    page = help_page("train", "text")
    assert "high_recall" in page
    assert "resume=auto" in page


def test_a_checkpoint_of_an_older_version_gets_todays_values_for_newer_settings() -> None:
    plain = asdict(load_config(["rpn.nms.post_test=77", "backbone=resnet18"]))
    del plain["evaluation"]["size_limits"], plain["trainer"]["profile"]
    config = config_from_plain(plain)
    assert config.rpn.nms.post_test == 77
    assert config.backbone.name == "resnet18"
    assert config.evaluation.size_limits == [32, 96]
    plain["trainer"]["sprockets"] = 3
    with pytest.raises(ValueError, match=r"trainer\.sprockets is not a setting"):
        config_from_plain(plain)


def test_two_values_for_one_key_are_a_warning() -> None:
    def warnings(*overrides: str) -> list[str]:
        found = load_command_config("train", TrainConfig, check_train_rules, list(overrides))[1]
        return [text for text in found if "times" in text]

    both = ["experiment=finetune", "seed=1", "experiment=scratch", "seed=1", "data.root=."]
    assert warnings(*both) == ["experiment is given 2 times; the last counts: experiment=scratch"]
    assert warnings("seed=1", "seed=2", "resume=runs/old") == []  # those of the run resumed come first


def test_classes_may_be_called_by_numbers() -> None:
    data = load_config(["data.rename={1:door}", "data.merge={2:[3,4],odd:[5,x]}", "data.classes=[2,odd]"]).data
    assert (data.rename, data.merge) == ({"1": "door"}, {"2": ["3", "4"], "odd": ["5", "x"]})
    assert data.classes == ["2", "odd"]


def test_intervals_of_a_step_are_a_warning() -> None:
    def warnings(*overrides: str) -> list[str]:
        return load_command_config("train", TrainConfig, check_train_rules, list(overrides))[1]

    (warning,) = warnings("trainer.interval_unit=step", "trainer.checkpoint_every=500")
    assert warning.startswith("trainer.evaluate_every=1 with trainer.interval_unit=step is after every step")
    assert warnings("trainer.interval_unit=step", "trainer.checkpoint_every=500", "trainer.evaluate_every=0") == []
