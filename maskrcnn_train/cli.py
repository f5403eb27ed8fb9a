"""Finds conf/, composes, converts once to dataclasses, and turns user errors into one clear line.

A single run is composed here, so that a mistake ends in one line and exit code 2 before torch is
imported; sweeps (`-m`), `--cfg`, `--info` and shell completion go through Hydra's own main.
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import is_dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

from maskrcnn_train.config import TrainConfig, check_train_rules, check_values
from maskrcnn_train.engine.run_folder import run_of, saved_overrides
from maskrcnn_train.engine.signals import Interrupted

if TYPE_CHECKING:
    from omegaconf import DictConfig

logger = logging.getLogger("maskrcnn_train")
Schema = TypeVar("Schema")
USER_ERROR = 2  # exit code for the person's mistakes
MAX_CHECKED_JOBS = 200  # of a sweep, before its first job starts


def conf_dir() -> Path:
    """The folder of YAML values: inside the package in a wheel, beside it in a checkout."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "conf"


# ---------------------------------------------------------------- composing


def load_config(overrides: list[str] | None = None) -> TrainConfig:
    """Compose and check the configuration of a training.

    overrides: as on the command line, e.g. ["backbone=resnet18", "rpn.nms.post_train=500"].
    Raises ValueError with one line that says what, where and what is allowed.

    >>> load_config(["backbone=resnet18"]).backbone.name
    'resnet18'
    """
    config, _ = load_command_config("train", TrainConfig, check_train_rules, overrides or [])
    return config


def load_command_config(
    name: str,
    schema: type[Schema],
    check_rules: Callable[[Schema], list[str]],
    overrides: list[str],
    config_dir: str | None = None,
) -> tuple[Schema, list[str]]:
    """Compose `name`.yaml with overrides; returns the checked dataclass and warnings. Raises ValueError."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    outer = GlobalHydra.instance().hydra  # a sweep's own; composing must not end it
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            extra = [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"]
            try:
                composed = compose(name, [*overrides, *extra])
            except (HydraException, OmegaConfBaseException) as error:
                raise ValueError(_explain(schema, overrides, error)) from error
    finally:
        GlobalHydra.instance().clear()
        if outer is not None:
            GlobalHydra.instance().initialize(outer)
    return to_dataclass(composed, schema, check_rules)


def to_dataclass(
    composed: DictConfig, schema: type[Schema], check_rules: Callable[[Schema], list[str]]
) -> tuple[Schema, list[str]]:
    """The one conversion: DictConfig -> checked dataclass and warnings. Raises ValueError."""
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), composed)
        config = cast(Schema, OmegaConf.to_object(merged))
    except ConfigKeyError as error:
        key = str(error.full_key)
        raise ValueError(f"{key} is not a setting{_nearest(key, _schema_keys(schema))}") from error
    except OmegaConfBaseException as error:
        reason = str(error).split("\n", 1)[0]
        raise ValueError(f"{error.full_key}: {reason[:1].lower()}{reason[1:]}") from error
    check_values(config)
    return config, check_rules(config)


def _explain(schema: type[Any], overrides: list[str], error: Exception) -> str:
    """One line for a failed composition: the override at fault and the nearest valid name."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    keys, groups = _schema_keys(schema), _groups()
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            return f"'{text}' is not an override; write key=value, e.g. backbone=resnet101"
        key = override.key_or_group
        if override.is_sweep_override():
            return f"{text} has several values; add -m to run one job for each"
        if key in groups:
            value = str(override.value())
            if value not in groups[key] and override.value() is not None:
                options = ", ".join(groups[key])
                return f"{key}={value} is not an option{_nearest(value, groups[key])}; choose one of {options}"
        elif not override.is_add() and not key.startswith("hydra") and key not in keys:
            return f"{key} is not a setting{_nearest(key, [*keys, *groups])}"
    return str(error).split("\n", 1)[0]


def _nearest(name: str, names: list[str]) -> str:
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if not matches:  # the right leaf under a wrong section, e.g. nms.post_train
        leaf = name.rsplit(".", 1)[-1]
        matches = [known for known in names if known.rsplit(".", 1)[-1] == leaf][:1]
    return f"; did you mean {matches[0]}?" if matches else ""


def _schema_keys(schema: type[Any], prefix: str = "") -> list[str]:
    """Every dotted key of a schema, sections included."""
    found = []
    for name, kind in get_type_hints(schema).items():
        found.append(prefix + name)
        if is_dataclass(kind):
            found += _schema_keys(cast(type[Any], kind), f"{prefix}{name}.")
    return found


def _groups() -> dict[str, list[str]]:
    """Config groups and their options, read from conf/."""
    groups: dict[str, list[str]] = {}
    for path in sorted(conf_dir().rglob("*.yaml")):
        group = path.parent.relative_to(conf_dir()).as_posix()
        if group != "." and not path.stem.startswith("_"):
            groups.setdefault(group, []).append(path.stem)
    return groups


# ---------------------------------------------------------------- running a command


def run_command(
    name: str, schema: type[Schema], check_rules: Callable[[Schema], list[str]], run: Callable[[Schema], Any], help: str
) -> None:
    """The main of every command: `run(config)` once, or once for each job of a sweep.

    run: returns the number a sweeper optimises, or an exit code object is raised by it. Exits with 2 after a
    person's mistake, 128 + n after signal n.
    """
    from hydra._internal.utils import get_args_parser

    if "-h" in sys.argv[1:] or "--help" in sys.argv[1:]:
        print(help_page(name, help))
        return
    arguments = get_args_parser().parse_args()
    try:
        if arguments.multirun:
            _sweep(name, schema, check_rules, run, arguments.overrides, arguments.config_dir)
        elif arguments.cfg or arguments.info or arguments.shell_completion or arguments.hydra_help:
            _hydra_main(name, run)
        else:
            overrides = resumed_overrides(arguments.overrides)
            config, warnings = load_command_config(name, schema, check_rules, overrides, arguments.config_dir)
            _log_warnings(warnings)
            run(config)
    except Interrupted as interrupted:
        print(f"{interrupted}; continue with resume=auto or resume=RUN_FOLDER", file=sys.stderr)
        sys.exit(interrupted.exit_code)
    except Exception as error:
        if not is_user_error(error):
            raise
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(USER_ERROR)


def resumed_overrides(overrides: list[str]) -> list[str]:
    """With resume=PATH: the settings of that run first, so that they need not be given again."""
    paths = [text.split("=", 1)[1] for text in overrides if text.startswith("resume=")]
    if not paths or paths[-1] in ("auto", "null"):
        return overrides
    saved = run_of(Path(paths[-1])) / "overrides.yaml"
    return [*saved_overrides(saved), *overrides] if saved.is_file() else overrides


def is_user_error(error: BaseException) -> bool:
    """Whether an error speaks to the person: a ValueError that our own code raised, or a file problem.

    A ValueError out of a library is our mistake, and keeps its traceback.
    """
    if isinstance(error, OSError):
        return True
    if not isinstance(error, ValueError) or error.__traceback__ is None:
        return False
    innermost = traceback.extract_tb(error.__traceback__)[-1].filename
    return Path(innermost).is_relative_to(Path(__file__).parent)


def one_line(error: BaseException) -> str:
    """The error's message without line breaks."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return " ".join(str(error).split())


def _log_warnings(warnings: list[str]) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _sweep(
    name: str,
    schema: type[Schema],
    check_rules: Callable[[Schema], list[str]],
    run: Callable[[Schema], Any],
    overrides: list[str],
    config_dir: str | None,
) -> None:
    """All jobs of `-m`: every one is checked before the first starts; a failed one does not end the others."""
    folder = Path("runs/sweep") / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    given = [text for text in overrides if text.startswith("output_dir=")]
    if given:
        folder = Path(given[-1].split("=", 1)[1])
    overrides = [text for text in overrides if text not in given]
    if not any(text.startswith("hydra/sweeper=") for text in overrides):
        _check_jobs(name, schema, check_rules, overrides, config_dir)

    def job(composed: DictConfig) -> Any:
        from hydra.core.hydra_config import HydraConfig

        config, warnings = to_dataclass(composed, schema, check_rules)
        config.output_dir = HydraConfig.get().runtime.output_dir  # type: ignore[attr-defined]
        _log_warnings(warnings)
        try:
            return run(config)
        except Exception as error:
            print(f"error in {config.output_dir}: {one_line(error)}", file=sys.stderr)  # type: ignore[attr-defined]
            raise

    sys.argv = [sys.argv[0], "-m", *overrides, f"hydra.sweep.dir={folder}"]
    if config_dir is not None:
        sys.argv += ["--config-dir", config_dir]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints a page of its own and exits with 1
    try:
        _hydra_main(name, job)
    finally:
        if any(folder.glob("*/metrics.json")):
            from maskrcnn_train.reporting.sweep import write_sweep_report

            print(f"sweep: {write_sweep_report(folder)}")


def _check_jobs(
    name: str,
    schema: type[Schema],
    check_rules: Callable[[Schema], list[str]],
    overrides: list[str],
    config_dir: str | None,
) -> None:
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
        jobs = BasicSweeper.split_arguments(parsed, max_batch_size=None)[0]
    except HydraException as error:
        raise ValueError(" ".join(str(error).split())) from error
    for job in jobs[:MAX_CHECKED_JOBS]:
        load_command_config(name, schema, check_rules, [text for text in job if text[:6] != "hydra."], config_dir)


def _hydra_main(name: str, task: Callable[..., Any]) -> None:
    import hydra

    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(task)()


# ---------------------------------------------------------------- help

COMMON_KEYS = (
    ("data=coco data.root=DIR", "your data: coco, roboflow, custom or shapes"),
    ("mask_head=none", "boxes only (Faster R-CNN)"),
    ("data.min_size=640", "shorter image side, network pixels"),
    ("trainer.batch_size=4", "images per device and step"),
    ("trainer.epochs=24", "length; also trainer.max_steps, trainer.max_minutes"),
    ("optimizer.lr=0.01", "learning rate for 16 images a step"),
    ("rpn.nms.post_train=2000", "proposals kept after NMS; also pre_train, pre_test, post_test"),
    ("roi_head.detections_per_image=300", "detections kept per image"),
    ("resume=auto", "continue the newest run of the same settings"),
)


def help_page(name: str, text: str) -> str:
    """The page of `--help`: what the command does, groups, the commonest keys, examples."""
    lines = [text.strip(), "", "Groups (GROUP=OPTION):"]
    for group, options in _groups().items():
        lines.append(f"  {group:<13} {', '.join(options)}")
    if name == "train":
        lines += ["", "Common keys (KEY=VALUE):"]
        lines += [f"  {key:<34} {meaning}" for key, meaning in COMMON_KEYS]
    lines += ["", "  --cfg job     print the whole configuration", "  -m            sweep: KEY=A,B runs a job for each"]
    return "\n".join(lines)
