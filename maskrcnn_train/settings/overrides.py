"""Settings as text: overrides, `key=value` in Hydra's grammar, and YAML files of settings."""

import json
import os
import re
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_train.settings.errors import UserError

NOT_PART_OF_A_RUN = ("resume", "replay", "output_dir")  # may change when a run is resumed


def changed_settings(config: Any, defaults: Any) -> dict[str, Any]:
    """The differences of a run from the defaults, by dotted key."""
    usual, own = flat_settings(asdict(defaults)), flat_settings(asdict(config))
    return {key: value for key, value in own.items() if value != usual.get(key) and key not in NOT_PART_OF_A_RUN}


def overrides_of(config: Any, defaults: Any) -> list[str]:
    """The differences from the defaults, as overrides that rebuild the configuration: ["backbone.name=resnet18"]."""
    return [f"{key}={override_value(value)}" for key, value in changed_settings(config, defaults).items()]


def saved_overrides(run: Path) -> list[str]:
    """The content of a run's overrides.yaml; nothing without one. Raises UserError for a file with other content."""
    path = run / "overrides.yaml"
    if not path.is_file():
        return []
    try:
        overrides = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        overrides = None
    if not isinstance(overrides, list) or not all(isinstance(text, str) for text in overrides):
        raise UserError(f"{path} is not a list of overrides (cut short?); restore it, or give the settings without it")
    return overrides


def resumed_overrides(overrides: list[str]) -> list[str] | None:
    """With resume=PATH: the settings of that run, which need not be given again; else None."""
    paths = [plain_value(text) for text in overrides if text.startswith("resume=")]
    if not paths or paths[-1] in ("auto", None):
        return None
    return saved_overrides(run_of(Path(str(paths[-1]))))


def run_of(path: Path) -> Path:
    """The run's folder that holds its last checkpoint; a folder is taken as it is. Raises UserError for another one."""
    if path.suffix != ".pt":
        return path
    if path.name != "last.pt":
        start = f"to start from these weights: weights=file weights.path={path}"
        raise UserError(f"resume={path}: a run goes on from its last.pt; give resume={path.parent.parent}, or {start}")
    return path.parent.parent


def option_text(head: Sequence[str], settings: Mapping[str, Any]) -> str:
    """The YAML of an option of the group `experiment`. head: lines of its comment. settings: values by dotted key."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, leaf = key.split(".")
        reduce(lambda branch, section: branch.setdefault(section, {}), sections, tree)[leaf] = value
    body = yaml.safe_dump(tree, default_flow_style=None, sort_keys=False, allow_unicode=True) if tree else "{}\n"
    return "\n".join(["# @package _global_", *(f"# {line}" for line in head), body])


def flat_settings(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value of every setting that is not a section."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and not key.endswith(("class_map", "rename", "merge")):
            flat |= flat_settings(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def plain_value(override: str) -> Any:
    """The value of KEY=VALUE as plain data: numbers, lists, text. Raises UserError where it is not one value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException:
        raise UserError(f"'{override}' is not an override; write key=value, e.g. backbone=resnet101") from None
    if parsed.is_sweep_override():
        raise UserError(f"{override} has several values; give one")
    return parsed.value()


def with_texts(overrides: Sequence[str], keys: Container[str]) -> list[str]:
    """The overrides, those of `keys`, which take a text, quoted where Hydra would read something else: the number
    20261127 in output_dir=2026_11_27, nothing in checkpoint=runs/lr=0.1/last.pt. A leading ~ is the home folder."""
    return [_with_text(text) if text.partition("=")[0] in keys else text for text in overrides]


def _with_text(override: str) -> str:
    key, _, value = override.partition("=")
    if value in ("", "null") or set(value) & set(",'\"[]{}$\\") or re.match(r"\w+\(", value):
        return override  # in Hydra's grammar: several values, a text in quotes, a function
    with suppress(UserError):
        if plain_value(override) == value:
            return override
    return f"{key}={quoted(os.path.expanduser(value))}"


def override_value(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return repr(value).removesuffix(".0")
    if isinstance(value, list):
        return f"[{','.join(map(override_value, value))}]"
    if isinstance(value, dict):
        if all(_is_plain(str(key)) for key in value):
            return f"{{{','.join(f'{key}:{override_value(item)}' for key, item in value.items())}}}"
        text = json.dumps(value, ensure_ascii=False)  # as YAML in a string: Hydra has no quoted keys
        return quoted("${oc.create:" + quoted(text, '"') + "}")
    return str(value) if _is_plain(str(value)) else quoted(str(value), '"')


def _is_plain(text: str) -> bool:
    """Whether Hydra reads a text without quotes as that text."""
    words = ("null", "true", "false", "nan", "inf")
    return re.fullmatch(r"[A-Za-z_/][\w./+-]*", text, re.ASCII) is not None and text.lower() not in words


def quoted(text: str, quote: str = "'") -> str:
    """A quoted value for an override, e.g. a folder with spaces in its name."""
    # backslashes count as escapes only in front of a quote
    return quote + re.sub(rf"(\\*)({quote}|$)", lambda end: 2 * end[1] + ("\\" + quote if end[2] else ""), text) + quote


def overrides_text(settings: Mapping[str, Any]) -> str:
    """Settings by dotted key, as on the command line: data.min_size=800 data.max_size=1333."""
    return " ".join(f"{key}={override_value(value)}" for key, value in settings.items())
