"""Imports point down the layers only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "maskrcnn_train"
ALLOWED = {
    "config": set(),
    "command_config": {"config"},
    "batch": set(),
    "option_files": set(),
    "data": {"config", "batch", "data"},
    "model": {"config", "batch", "model"},
    "evaluation": {"config", "batch", "data", "model", "evaluation"},
    "analysis": {"config", "command_config", "batch", "data", "model", "evaluation", "analysis"},
    "reporting": {"config", "batch", "data", "model", "evaluation", "analysis", "tuning", "option_files", "reporting"},
    "exporting": {"config", "batch", "data", "model", "evaluation", "exporting"},
    "engine": {"config", "batch", "data", "model", "engine"},
    "checking": {"config", "batch", "data", "model", "engine", "option_files", "checking"},
    "tuning": {"config", "command_config", "composing", "evaluation", "tuning"},
}


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("maskrcnn_train.")}
    return parts


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_down(part: str) -> None:
    folder = PACKAGE / part
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{part}.py"]
    assert files
    for path in files:
        assert imported_parts(path) <= ALLOWED[part], path


def test_conf_holds_no_python() -> None:
    assert not list((PACKAGE.parent / "conf").rglob("*.py"))
