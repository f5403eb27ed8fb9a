"""Composes a configuration from conf/ and converts it once to dataclasses; a mistake becomes one clear line.

Nothing outside this module works with a DictConfig. It never imports torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_args, get_type_hints

from maskrcnn_train.settings.errors import UserError, first_line
from maskrcnn_train.settings.idle import idle_keys
from maskrcnn_train.settings.names import nearest, schema_keys
from maskrcnn_train.settings.overrides import flat_settings, overrides_text, resumed_overrides, with_texts
from maskrcnn_train.settings.presets import compose_files, compose_overrides, conf_dir, groups
from maskrcnn_train.settings.rules import check_model_rules, check_train_rules, check_values
from maskrcnn_train.settings.schema import TrainConfig

if TYPE_CHECKING:
    from omegaconf import DictConfig

Schema = TypeVar("Schema")
COMMANDS = ("evaluate", "predict", "check", "split", "convert", "export", "analyze", "report", "tune", "labels")


def load_config(overrides: list[str] | None = None) -> TrainConfig:
    """Compose and check the configuration of a training.

    overrides: as on the command line, e.g. ["backbone=resnet18", "rpn.nms.post_train=500"]; with resume=PATH the run's
    own settings come first, as there.
    Raises UserError with one line that says what, where and what is allowed.

    >>> load_config(["backbone=resnet18"]).backbone.name
    'resnet18'
    """
    given = with_texts(overrides or [], schema_keys(TrainConfig, texts=True))
    composed, _ = beside_resumed("train", TrainConfig, given)
    return load_command_config("train", TrainConfig, check_train_rules, composed)[0]


@functools.cache
def default_config() -> TrainConfig:
    """The values of conf/ without an override: made once, never to be changed."""
    return load_config()


def load_command_config(
    name: str,
    schema: type[Schema],
    check_rules: Callable[[Schema], list[str]],
    overrides: list[str],
    config_dir: str | None = None,
) -> tuple[Schema, list[str]]:
    """Compose `name`.yaml with overrides; returns the checked dataclass and warnings. Raises UserError."""
    _refuse_idle(schema, overrides)
    composed = _compose(name, schema, overrides, config_dir)
    config, warnings = to_dataclass(composed, schema, check_rules)
    given = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    warnings = _overruled(composed, given, config_dir) + warnings
    if getattr(config, "resume", None) in (None, "auto"):  # else the run's own settings come first
        warnings = repeated_keys(overrides) + warnings
        warnings += idle_keys(config, list(given))
    return config, warnings


def swept_in_files(name: str, schema: type[Any], overrides: list[str], config_dir: str | None) -> list[str]:
    """What an experiment among the overrides sweeps over with `-m`, as overrides; overrides: none that sweeps itself.

    It is hydra.sweeper.params, which Hydra puts before the overrides of the command line. Raises UserError.
    """
    with _explained(schema, overrides, config_dir):
        composed = compose_files(name, overrides, config_dir, return_hydra_config=True)
    return [f"{key}={values}" for key, values in (composed.hydra.sweeper.get("params") or {}).items()]


def _compose(name: str, schema: type[Any], overrides: list[str], config_dir: str | None) -> DictConfig:
    with _explained(schema, overrides, config_dir):
        return compose_overrides(name, overrides, config_dir)


@contextmanager
def _explained(schema: type[Any], overrides: list[str], config_dir: str | None) -> Iterator[None]:
    """What Hydra refuses becomes a UserError."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    if config_dir is not None and not Path(config_dir).is_dir():
        raise UserError(f"--config-dir {config_dir} does not exist")
    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: pooler=3, a group
        raise UserError(_explain(schema, overrides, config_dir, error)) from error


def _overruled(composed: DictConfig, given: dict[str, str], config_dir: str | None) -> list[str]:
    """A warning for each preset on the command line whose values an experiment replaces."""
    from omegaconf import OmegaConf

    if "experiment" not in given:
        return []
    warnings, options = [], groups(config_dir)
    for group, option in given.items():
        path = conf_dir() / group / f"{option}.yaml"
        if group not in options or group == "experiment" or not path.is_file():
            continue
        prefix = "" if "@package _global_" in path.read_text(encoding="utf-8") else group.replace("/", ".") + "."
        plain = cast(dict[str, Any], OmegaConf.to_container(OmegaConf.load(path)))
        values = flat_settings({key: each for key, each in plain.items() if key != "defaults"}, prefix)
        lost = [key for key, value in values.items() if OmegaConf.select(composed, key) != value and key not in given]
        if lost:
            shown = ", ".join(f"{key}={OmegaConf.select(composed, key)}" for key in lost)
            warnings.append(f"experiment={given['experiment']} has its own values beside {group}={option}: {shown}")
    return warnings


def beside_resumed(
    name: str, schema: type[Any], given: list[str], config_dir: str | None = None
) -> tuple[list[str], list[str]]:
    """With resume=PATH the run's own settings before those given; and warnings of presets. Raises UserError where
    `experiment` or `weights` would change the run: its weights are its own, and of two mixtures neither is meant.
    """
    saved = resumed_overrides(given)
    if saved is None:
        return given, []
    fixed = [text for text in given if text.split("=", 1)[0].split(".", 1)[0] in ("experiment", "weights")]
    if fixed:
        others = [text for text in given if text not in fixed]
        both, without = (_flat(_compose(name, schema, [*saved, *each], config_dir)) for each in (given, others))
        if changed := {key: value for key, value in both.items() if value != without.get(key)}:
            shown = overrides_text(dict(list(changed.items())[:3])) + (" and more" if len(changed) > 3 else "")
            raise UserError(
                f"{' '.join(fixed)} beside resume= would change the run to {shown}; leave it out: the run goes on with "
                "its own settings and weights, and KEY=VALUE changes single ones"
            )
    return [*saved, *given], _kept_by_run(name, schema, saved, given, config_dir)


def _flat(composed: DictConfig) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return flat_settings(cast(dict[str, Any], OmegaConf.to_container(composed)))


def _kept_by_run(name: str, schema: type[Any], saved: list[str], given: list[str], config_dir: str | None) -> list[str]:
    """A warning for each preset that is given beside a run to resume, and does not change what the run itself set."""
    from omegaconf import OmegaConf

    warnings, options = [], groups(config_dir)
    presets = [text for text in given if text.split("=", 1)[0] in options]
    if not presets:
        return []
    both, alone = (_compose(name, schema, [*before, *given], config_dir) for before in (saved, []))
    for preset in presets:
        start = preset.split("=", 1)[0].replace("/", ".") + "."
        own = {key: text for key, text in ((text.split("=", 1)[0], text) for text in saved) if key.startswith(start)}
        if kept := [text for key, text in own.items() if OmegaConf.select(both, key) != OmegaConf.select(alone, key)]:
            shown = ", ".join(kept)
            warnings.append(f"beside {preset} the run keeps its own values: {shown}; give those to change as KEY=VALUE")
    return warnings


def repeated_keys(overrides: list[str]) -> list[str]:
    """A warning for each key or group with two values."""
    values: dict[str, list[str]] = {}
    for key, _, value in (text.partition("=") for text in overrides):
        values.setdefault(key, []).append(value)
    several = {key: found for key, found in values.items() if len(set(found)) > 1}
    return [f"{key} is given {len(found)} times; the last counts: {key}={found[-1]}" for key, found in several.items()]


def config_from_plain(plain: dict[str, Any]) -> TrainConfig:
    """The settings in a checkpoint; newer ones get their values from conf/. Raises UserError for one that is gone."""
    from omegaconf import OmegaConf

    saved: Any = OmegaConf.create(plain)
    if any(OmegaConf.select(saved, key, default=plain) is plain for key in schema_keys(TrainConfig)):
        saved = OmegaConf.merge(OmegaConf.create(asdict(default_config())), saved)
    return to_dataclass(saved, TrainConfig, check_model_rules)[0]


def to_dataclass(
    composed: DictConfig,
    schema: type[Schema],
    check_rules: Callable[[Schema], list[str]],
) -> tuple[Schema, list[str]]:
    """The one conversion: DictConfig -> checked dataclass and warnings. Raises UserError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException

    _names_as_text(composed)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), composed)
        config = cast(Schema, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        key, reason = str(error.full_key), first_line(error)
        message, group = f"{key}: {reason[:1].lower()}{reason[1:]}", key.replace(".", "/")
        if isinstance(error, ConfigKeyError):
            message = f"{key} is not a setting{nearest(key, schema_keys(schema))}"
        elif isinstance(error, MissingMandatoryValue):
            message = f"{key} is not set; give it on the command line: {key}=..."
        elif "is not a ListConfig" in reason:
            message = f"{key} is a list; write {key}=[A,B]"
        elif "is not a subclass of" in reason and group in groups() and group != key:
            message = f"{key} is a section with presets; write {group}={OmegaConf.select(composed, key)}"
        elif "is not a subclass of Dict" in reason:  # OmegaConf does not say of which key
            message = (
                f"a list or value stands where names do{key and f', in {key}'}; write e.g. data.rename={{car: auto}}"
            )
        elif "NoneType is not a subclass of" in reason:
            message = f"{key} is null; leave it out"
        elif "is not a subclass of" in reason:
            message = f"{key} is a section, not a value; set its keys: {key}.KEY=VALUE"
        raise UserError(message) from error
    check_values(config)
    return config, check_rules(config)


def _names_as_text(composed: DictConfig) -> None:
    """Classes may be called 1, 2, ...: data.rename={1: door}, data.merge={odd: [1,3]}."""
    from omegaconf import DictConfig, OmegaConf

    def text(name: Any) -> Any:
        return str(name) if isinstance(name, int) else name

    for key in ("data.rename", "data.merge"):
        if isinstance(given := OmegaConf.select(composed, key), DictConfig):
            plain: Any = OmegaConf.to_container(given)
            named = {text(name): list(map(text, own)) if isinstance(own, list) else own for name, own in plain.items()}
            OmegaConf.update(composed, key, named, merge=False, force_add=True)


def _explain(schema: type[Any], overrides: list[str], config_dir: str | None, error: Exception) -> str:
    """One line for a failed composition: the faulty override and the nearest valid name."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    keys, options_of = schema_keys(schema), groups(config_dir)
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            if text in COMMANDS:
                return f"'{text}' is a command of its own: python -m maskrcnn_train.{text}"
            return f"'{text}' is not an override; write key=value, e.g. backbone=resnet101"
        key = override.key_or_group
        if override.is_sweep_override():
            return f"{text} has several values; add -m to run one job for each"
        if key in options_of:
            given = override.value()
            for value in map(str, given if isinstance(given, list) else [given] if given is not None else []):
                if value not in options_of[key]:
                    options = ", ".join(options_of[key])
                    return f"{key}={value} is not an option{nearest(value, options_of[key])}; choose one of {options}"
            if f"Could not override '{key}'" in str(error):
                hint = "" if key in groups() else f"; to add it, write +{text}"
                return f"{key} is not a setting of this command{hint}"
        elif not override.is_add() and not key.startswith("hydra") and key not in keys:
            return f"{key} is not a setting{nearest(key, [*keys, *options_of])}"
        group, _, inside = key.partition(".")
        may_be_none = type(None) in get_args(get_type_hints(schema).get(group))
        if inside and group in options_of and may_be_none and not any(t.startswith(f"{group}=") for t in overrides):
            return f"{key} needs {group}=OPTION beside it; choose one of {', '.join(options_of[group])}"
    return first_line(error)


def _refuse_idle(schema: type[Any], overrides: list[str]) -> None:
    """Raises UserError for a key of a section that this command takes from elsewhere."""
    idle = {f"{section.name}.{name}" for section in fields(schema) for name in section.metadata.get("idle", ())}
    for key in (text.split("=", 1)[0] for text in overrides):
        if key in idle:
            raise UserError(f"{key} is a setting of the training and has no effect here; leave it out")
