"""Overrides, `key=value` in Hydra's grammar: written from settings and read back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_train.settings.errors import UserError

NOT_PART_OF_A_RUN = ("resume", "replay", "output_dir")  # settings that may differ between the sittings of one run


def overrides_of(config: Any, defaults: Any) -> list[str]:
    """What differs from the defaults, as overrides that rebuild the configuration: ["backbone.name=resnet18", ...]."""
    given, usual = flat_settings(asdict(config)), flat_settings(asdict(defaults))
    skipped = NOT_PART_OF_A_RUN
    return [
        f"{key}={override_value(value)}"
        for key, value in given.items()
        if value != usual.get(key) and key not in skipped
    ]


def saved_overrides(path: Path) -> list[str]:
    """The overrides of a run, from its overrides.yaml. Raises UserError when the file holds anything else."""
    overrides = yaml.safe_load(path.read_text())
    if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
        raise UserError(f"{path} is not a list of overrides; restore it, or give the settings again without resume")
    return overrides


def flat_settings(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of everything that is no section."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and not key.endswith("class_map"):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def override_value(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, list):
        return "[" + ",".join(override_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{override_value(key)}:{override_value(item)}" for key, item in value.items()) + "}"
    text = str(value)
    return text if re.fullmatch(r"[\w./+-]+", text) else json.dumps(text, ensure_ascii=False)


def quoted(text: str) -> str:
    """A value for an override whatever characters it has: a folder may have spaces in its name."""
    return "'" + text.replace("'", "\\'") + "'"


def overrides_text(settings: Mapping[str, Any]) -> str:
    """Settings by dotted key as on the command line: data.min_size=800 data.max_size=1333."""
    return " ".join(f"{key}={override_value(value)}" for key, value in settings.items())
