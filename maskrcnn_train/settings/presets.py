"""Hydra's composition of conf/: once for each choice of presets, because reading and joining its files takes long.

Values of single keys are then set as Hydra would set them. It never imports torch.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from maskrcnn_train.settings.overrides import quoted

if TYPE_CHECKING:
    from omegaconf import DictConfig


def conf_dir() -> Path:
    """The folder of YAML values: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def groups(config_dir: str | None = None) -> dict[str, list[str]]:
    """Config groups and their options, from conf/ and from the folder given by `--config-dir`, without Hydra's own."""
    found: dict[str, list[str]] = {}
    for root, path in _files(config_dir):
        group, name = path.parent.relative_to(root).as_posix(), path.stem
        if group.startswith("experiment/"):  # folders of experiments are no groups: experiment=FOLDER/NAME
            group, name = "experiment", f"{group.removeprefix('experiment/')}/{name}"
        if group != "." and not group.startswith("hydra/") and not path.stem.startswith("_"):
            found.setdefault(group, []).append(name)
    return found


def compose_overrides(name: str, overrides: list[str], config_dir: str | None) -> DictConfig:
    """`name`.yaml with overrides, for the caller to change. Raises errors of Hydra and OmegaConf."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import OverrideType
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    parsed, options = OverridesParser.create().parse_overrides(overrides), groups(config_dir)
    for each in parsed:
        if each.type is not OverrideType.CHANGE or each.package or each.is_sweep_override() or each.is_hydra_override():
            return compose_files(name, overrides, config_dir)
    presets = tuple(text for text, each in zip(overrides, parsed, strict=True) if each.key_or_group in options)
    composed = copy.deepcopy(_presets(name, presets, config_dir, _versions(config_dir)))
    try:
        for each in parsed:
            if each.key_or_group not in options:
                OmegaConf.update(composed, each.key_or_group, each.value(), merge=True)
    except OmegaConfBaseException:
        return compose_files(name, overrides, config_dir)  # its errors say more
    return composed


def compose_files(
    name: str, overrides: list[str], config_dir: str | None, *, return_hydra_config: bool = False
) -> DictConfig:
    """`name`.yaml with any overrides of Hydra's, from the files."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    path = [] if config_dir is None else [f"hydra.searchpath=[{quoted(f'file://{Path(config_dir).resolve()}')}]"]
    outer = GlobalHydra.instance().hydra  # a sweep's own; composing must not end it
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose(name, [*overrides, *path], return_hydra_config=return_hydra_config)
    finally:
        GlobalHydra.instance().clear()
        if outer is not None:
            GlobalHydra.instance().initialize(outer)


@functools.lru_cache(maxsize=64)
def _presets(name: str, presets: tuple[str, ...], config_dir: str | None, versions: tuple[int, ...]) -> DictConfig:
    return compose_files(name, list(presets), config_dir)


def _versions(config_dir: str | None) -> tuple[int, ...]:
    """Changes when a file of the settings changes."""
    return tuple(path.stat().st_mtime_ns for _, path in _files(config_dir))


def _files(config_dir: str | None) -> list[tuple[Path, Path]]:
    """The folders of settings, and each file in them."""
    roots = [conf_dir(), *([] if config_dir is None else [Path(config_dir)])]
    return [(root, path) for root in roots for path in sorted(root.rglob("*.yaml"))]
