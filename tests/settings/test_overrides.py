"""Settings as text, and back: overrides on a command line, options in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from maskrcnn_train.files import write_text
from maskrcnn_train.settings.compose import load_command_config, load_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import option_text, overrides_of, overrides_text, quoted, saved_overrides
from maskrcnn_train.settings.rules import check_train_rules
from maskrcnn_train.settings.schema import TrainConfig

GIVEN = [
    "backbone=resnet18",
    "weights.class_map={traffic light: lamp}",
    "optimizer.lr=1e-3",
    "augmentation.min_sizes=[64,96]",
    "trainer.max_minutes=null",
    "data.root='C:\\data\\it\\'s, [here]\\\\'",
]


def test_the_differences_from_the_defaults_rebuild_the_settings(tmp_path: Path) -> None:
    config = load_config(["weights=coco", *GIVEN])
    overrides = overrides_of(config, load_config())
    assert load_config(overrides) == config
    assert saved_overrides(tmp_path) == []
    write_text(tmp_path / "overrides.yaml", yaml.safe_dump(overrides))
    assert load_config(saved_overrides(tmp_path)) == config
    assert load_config(overrides_of(load_config(["resume=auto", "output_dir=x"]), load_config())) == load_config()


@pytest.mark.parametrize(
    "name",
    ["traffic light", "Tür", "driver's seat", 'a "b"', "x: {y}, [z]", "12", "null", "inf", " c", "back\\slash"],
)
def test_any_class_name_can_be_mapped_and_resumed(name: str, tmp_path: Path) -> None:
    class_map = {"weights.class_map": {name: name, "car": "lorry"}}
    write_text(tmp_path / "experiment" / "mine.yaml", option_text([], class_map))
    given = ["experiment=[finetune,mine]", "data=shapes"]
    config, _ = load_command_config("train", TrainConfig, check_train_rules, given, str(tmp_path))
    assert config.weights.class_map == class_map["weights.class_map"]
    assert load_config(overrides_of(config, load_config())) == config


def test_an_option_file_gives_its_settings_under_any_experiment(tmp_path: Path) -> None:
    settings = {"rpn.nms.post_test": 77, "rpn.iou.lower": 0.2, "data.root": "ü b", "trainer.ema": 0.5}
    path = write_text(tmp_path / "experiment" / "mine.yaml", option_text(["why: because"], settings))
    assert path.read_text().startswith("# @package _global_\n# why: because\n")
    given = ["experiment=[finetune,mine]", "trainer.ema=0"]
    config, _ = load_command_config("train", TrainConfig, check_train_rules, [*given, "data=coco"], str(tmp_path))
    assert (config.rpn.nms.post_test, config.rpn.iou.lower, config.data.root) == (77, 0.2, "ü b")
    assert config.trainer.ema == 0  # the command line wins
    assert config.backbone.norm == "frozen"  # of finetune
    assert yaml.safe_load(option_text([], {})) == {}


def test_settings_read_as_on_the_command_line() -> None:
    assert overrides_text({"data.min_size": 800, "tta.flip": True, "a": None, "b": [1.0, 2]}) == (
        "data.min_size=800 tta.flip=true a=null b=[1,2]"
    )


@pytest.mark.parametrize("content", [b"seed: 3\n", b"- seed=3\n- 'half", b"- seed=\xff3", b""])
def test_a_file_that_holds_no_overrides_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "overrides.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"overrides\.yaml is not a list of overrides"):
        saved_overrides(tmp_path)


@pytest.mark.parametrize(
    "path", ["007", "2026_11_27", "1.10", "1e3", "true", "runs/lr=0.1/last.pt", "/data/site (1)/é", "a,b", "$HOME"]
)
def test_a_path_is_taken_as_it_is_written(path: str) -> None:
    given = quoted(path) if "," in path else path
    config = load_config([f"output_dir={given}", f"data.root={given}", f"data.train.images={given}"])
    assert (config.output_dir, config.data.root, config.data.train.images) == (path, path, path)


def test_other_values_are_what_hydra_reads() -> None:
    config = load_config(["output_dir=null", "trainer.max_steps=1_000", "optimizer.lr=1e-3", "data.train.images=[a,b]"])
    assert (config.output_dir, config.trainer.max_steps, config.optimizer.lr) == (None, 1000, 0.001)
    assert config.data.train.images == ["a", "b"]
    assert load_config(["data.root=~/photos"]).data.root == str(Path.home() / "photos")
