"""What `check` says to do about splits that should be cut again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from documented import parse
from small_coco import roboflow, small_coco

from maskrcnn_train import load_config
from maskrcnn_train.checking.advice import split_again
from maskrcnn_train.settings.command_rules import check_split_rules
from maskrcnn_train.settings.command_schema import SplitCommandConfig
from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.split import split


@pytest.mark.parametrize("layout", ["roboflow", "auto", "custom"])
def test_the_command_that_cuts_the_data_again_works(layout: str, tmp_path: Path) -> None:
    root = roboflow(tmp_path / "two words", small_coco(4), small_coco(2))
    given = [f"data={layout}", f"data.root='{root}'", "data.min_size=64"]
    if layout == "custom":
        for name, folder in (("train", "train"), ("val", "valid")):
            given.append(f"data.{name}.annotations='{root / folder / '_annotations.coco.json'}'")
            given.append(f"data.{name}.images='{root / folder}'")
    said = split_again(load_config(given).data, "duplicates=true")
    command = parse(said.removeprefix("cut the data again: "))
    overrides = [*command.overrides, "workers=1", "fractions=[0.5,0.5]", f"output_dir={tmp_path / 'out'}"]
    config, warnings = load_command_config("split", SplitCommandConfig, check_split_rules, overrides)
    assert warnings == []
    assert [len(rows) for rows in split(config).parts.values()] == [3, 3]


def test_what_the_pixels_are_is_said_too() -> None:
    data = replace(load_config(["data=roboflow", "data.root=F"]).data, channels=5, bits=16)
    assert "data.channels=5 data.bits=16 duplicates=true" in split_again(data, "duplicates=true")
