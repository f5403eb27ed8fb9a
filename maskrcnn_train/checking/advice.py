"""The settings that answer what was found, as an option of the `experiment` group."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from maskrcnn_train.checking.findings import Finding, in_order
from maskrcnn_train.files import write_text
from maskrcnn_train.settings.overrides import option_text


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
    reasons = {key: finding for finding in reversed(findings) for key in finding.override}
    head = [
        f"What a check advises. Use it with --config-dir {folder} and experiment=advice, or",
        "experiment=[X,advice] after another one; a key given on the command line wins over it.",
        *(f"{key}: {_sentence(finding)}" for key, finding in sorted(reasons.items())),
    ]
    settings = dict(sorted(combined(findings).items()))
    return write_text(folder / "experiment" / "advice.yaml", option_text(head, settings))


def _sentence(finding: Finding) -> str:
    return f"{finding.split + ': ' if finding.split else ''}{finding.what}"
