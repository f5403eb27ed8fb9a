"""Composing once for each choice of presets gives what Hydra gives, each time anew."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from maskrcnn_train import load_config
from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.presets import compose_files, compose_overrides
from maskrcnn_train.settings.schema import TrainConfig

OVERRIDES = [
    [],
    ["trainer.max_steps=7", "backbone=resnet18", "trainer.max_steps=9"],
    ["experiment=shapes", "rpn.anchors.sizes=[8,16,32,64,128]", "data.rename={box: crate, disc: [a, b]}"],
    ["rpn/nms=per_batch", "pooler.resolution=9", "optimizer=muon", "output_dir='a b,c=d'", "seed=null"],
    ["+data.rename.more=other", "~trainer.ema", "++seed=4"],  # Hydra's own alone
]


@pytest.mark.parametrize("overrides", OVERRIDES, ids=range(len(OVERRIDES)))
def test_values_over_kept_presets_are_those_that_hydra_composes(overrides: list[str]) -> None:
    for _ in range(2):  # the second from what the first has kept
        assert compose_overrides("train", overrides, None) == compose_files("train", overrides, None)


def test_what_is_kept_is_not_what_callers_get() -> None:
    composed = compose_overrides("train", ["backbone=resnet34"], None)
    OmegaConf.update(composed, "backbone.fpn_channels", 8)
    assert load_config(["backbone=resnet34"]).backbone.fpn_channels == 256


def test_presets_are_composed_anew_when_a_file_changes(tmp_path: Path) -> None:
    own = tmp_path / "experiment" / "own.yaml"
    own.parent.mkdir()

    def seed() -> int | None:
        return load_command_config("train", TrainConfig, lambda _: [], ["experiment=own"], str(tmp_path))[0].seed

    own.write_text("# @package _global_\nseed: 3\n")
    assert seed() == 3
    own.write_text("# @package _global_\nseed: 4\n")
    assert seed() == 4


def test_a_mistake_among_the_values_is_still_told_by_its_key() -> None:
    load_config(["backbone=resnet18"])
    with pytest.raises(UserError, match=r"did you mean rpn\.nms\.post_train"):
        load_config(["backbone=resnet18", "rpn.nms.post_trian=3"])
