"""The settings that answer what was found: as a command to copy, and as an option of the `experiment` group."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from maskrcnn_train.checking.findings import Finding, in_order
from maskrcnn_train.files import write_text
from maskrcnn_train.settings.command_schema import CheckConfig
from maskrcnn_train.settings.compose import default_config
from maskrcnn_train.settings.overrides import flat_settings, option_text, override_value
from maskrcnn_train.settings.schema import DataConfig, TrainConfig


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
        f"The advice of a check. To use it: --config-dir {folder} experiment=advice, or with another",
        "experiment X: experiment=[X,advice]. A key given on the command line wins over this file.",
        *(f"{key}: {each.split}{': ' if each.split else ''}{each.what}" for key, each in sorted(reasons.items())),
    ]
    settings = dict(sorted(combined(findings).items()))
    return write_text(folder / "experiment" / "advice.yaml", option_text(head, settings))


def training_command(given: Sequence[str], advice: Mapping[str, Any]) -> str:
    """The command that trains with the advice, quoted for a shell.

    given: what `check` was given, flags included; its own keys and those that the advice sets are left out.
    """
    own = {field.name for field in fields(CheckConfig)} - {field.name for field in fields(TrainConfig)}
    replaced = {*own, "output_dir", *advice}
    kept = [text for text in given if text.partition("=")[0] not in replaced]
    settings = [f"{key}={override_value(value)}" for key, value in advice.items()]
    return shlex.join(["python", "-m", "maskrcnn_train", *kept, *settings])


def split_again(data: DataConfig, *options: str) -> str:
    """What to do so that the splits are cut better. options: more settings of the `split` command."""
    usual = flat_settings(asdict(default_config().data))
    # with fractions, train is all data; channels and bits are needed to look at the images
    needed = ("root", "train.", "val.", "test.", "shapes.", "split.fractions", "channels", "bits")
    own = {key: value for key, value in flat_settings(asdict(data)).items() if key.startswith(needed)}
    changed = {key: value for key, value in own.items() if value is not None and value != usual[key]}
    settings = [f"data={data.name}", *(f"data.{key}={override_value(value)}" for key, value in changed.items())]
    return f"cut the data again: {shlex.join(['python', '-m', 'maskrcnn_train.split', *settings, *options])}"
