"""Files that hold settings under their dotted keys, as options of a config group such as `experiment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml


def write_option(
    path: Path, head: Sequence[str], settings: Mapping[str, Any], choices: Mapping[str, str] | None = None
) -> Path:
    """Write a file of settings that count from the top of the configuration; returns its path.

    head: lines of its comment. settings: values by dotted key. choices: options by config group.
    """
    tree: dict[str, Any] = {}
    if choices:
        tree["defaults"] = [{f"override /{group}": option} for group, option in choices.items()]
    for key, value in settings.items():
        *sections, leaf = key.split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[leaf] = value
    body = yaml.safe_dump(tree, default_flow_style=None, sort_keys=False, allow_unicode=True) if tree else "{}\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["# @package _global_", *(f"# {line}" for line in head), body]), encoding="utf-8")
    return path
