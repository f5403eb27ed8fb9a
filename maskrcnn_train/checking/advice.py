"""The settings that answer what was found, as an option of the `experiment` group."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_train.checking.findings import Finding, in_order

HEAD = """# @package _global_
# What a check advises. Use it with --config-dir {folder} and experiment=advice, or
# experiment=[X,advice] after another one; a key given on the command line wins over it.
"""


def combined(findings: Iterable[Finding]) -> dict[str, Any]:
    """One value for each key: where several findings set it, that of the most severe, of equal ones the first."""
    overrides: dict[str, Any] = {}
    for finding in in_order(findings):
        for key, value in finding.override.items():
            overrides.setdefault(key, value)
    return overrides


def write_advice(findings: Iterable[Finding], folder: Path) -> Path:
    """Write `folder`/experiment/advice.yaml, with a comment for each setting that says why."""
    findings = in_order(findings)
    path = folder / "experiment" / "advice.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = {key: finding for finding in reversed(findings) for key in finding.override}
    notes = [f"# {key}: {_sentence(finding)}\n" for key, finding in sorted(reasons.items())]
    tree = _nested(combined(findings))
    body = yaml.safe_dump(tree, default_flow_style=None, sort_keys=True) if tree else "{}\n"
    path.write_text(HEAD.format(folder=folder) + "".join(notes) + body)
    return path


def _sentence(finding: Finding) -> str:
    return f"{finding.split + ': ' if finding.split else ''}{finding.what}"


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """{"a.b": 1} -> {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = value
    return tree
