"""CONTRIBUTING.md: the files that it names exist, its recipe works, and its checks are those of scripts/lint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from documented import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
LOSSES = """
import json, sys, torch
from maskrcnn_train import build_model, load_config
from maskrcnn_train.settings.errors import UserError
small = ["backbone=resnet18", "backbone.fpn_channels=16", "roi_head=fc2", "roi_head.fc_dim=16", "mask_head=none"]
small += ["data.min_size=64", "data.max_size=64"]
target = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 48.0]]), "labels": torch.tensor([1])}
image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
found = []
for setting in sys.argv[1:]:
    torch.manual_seed(0)
    try:
        losses = build_model(load_config([*small, setting]), 3).train()([image], [target])
    except UserError as refusal:
        found.append(str(refusal))
    else:
        found.append({name: float(loss) for name, loss in losses.items()})
print(json.dumps(found))
"""


def test_every_file_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`((?:[\w.-]+/)*[\w-]*\.?[\w-]+(?:\.(?:py|md|yaml)|/))(?:: \w+)?`", PAGE))
    assert {
        "maskrcnn_train/settings/schema.py",
        "conf/backbone/",
        "command_rules.py",
        ".pre-commit-config.yaml",
    } <= named
    for name in named - {".venv", "config.yaml"}:
        assert (ROOT / name).exists() or list(ROOT.glob(f"maskrcnn_train/**/{name}")), name
    for name in re.findall(r"`([A-Z_]{5,}|_[A-Z]+|[a-z]+_[a-z_]+)`", PAGE):
        assert any(re.search(rf"\b{name}\b", path.read_text()) for path in ROOT.glob("maskrcnn_train/**/*.py")), name


def hunks() -> list[tuple[str, str, str]]:
    """(file, old text, new text) of every change in the page's diff."""
    (diff,) = re.findall(r"^```diff\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    found = []
    for part in re.split(r"^\+\+\+ ", diff, flags=re.MULTILINE)[1:]:
        name, *changes = re.split(r"\n@@\n", part)
        for change in changes:
            lines = change.rstrip("\n").split("\n")
            old, new = ("\n".join(line[1:] for line in lines if line[0] != sign) for sign in "+-")
            found.append((name, old, new))
    return found


def losses(package: Path, *overrides: str) -> list[Any]:
    """The losses with each override, or what it is refused with."""
    done = subprocess.run(
        [sys.executable, "-c", LOSSES, *overrides],
        capture_output=True,
        text=True,
        cwd=package,
        env={"PYTHONPATH": str(package)},
    )
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_a_key_that_is_added_as_the_page_says_changes_the_loss(tmp_path: Path) -> None:
    for name in ("maskrcnn_train", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, old, new in hunks():
        text = (tmp_path / name).read_text()
        assert text.count(old) == 1, (name, old)
        (tmp_path / name).write_text(text.replace(old, new))
    shares = [f"roi_head.label_smoothing={share}" for share in (0, 1, 2)]
    plain, smoothed, refusal = losses(tmp_path, *shares)
    for name, loss in plain.items():
        assert (smoothed[name] == pytest.approx(loss, rel=1e-5)) == (name != "loss_classifier"), name
    assert re.search(r"roi_head\.label_smoothing=2(\.0)? is out of range; it must be from 0 to 1", refusal)


def test_the_hooks_are_the_checks_of_lint() -> None:
    lint = re.findall(r"^\.venv/bin/(.+)", (ROOT / "scripts/lint").read_text(), flags=re.MULTILINE)
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = [hook["entry"].removeprefix(".venv/bin/") for hook in repo["hooks"]]
    assert hooks == [re.sub(r"( --check)? \.$", "", line) for line in lint]
