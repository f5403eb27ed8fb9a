"""`python -m maskrcnn_train.split`: cuts one COCO JSON into train, val and test, or into folds."""

import logging
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_train.cli import run_command
from maskrcnn_train.data.coco.json_file import parse_json
from maskrcnn_train.data.coco.reader import read_coco
from maskrcnn_train.data.formats.coco import NAMES
from maskrcnn_train.data.paths import require_file, require_folder
from maskrcnn_train.data.splits.choosing import check_choice, choice_notes, chosen_categories
from maskrcnn_train.data.splits.grouping import group_by_field, group_by_looks, group_by_pattern, joined
from maskrcnn_train.data.splits.splitting import whole_split
from maskrcnn_train.data.splits.stratifying import count_objects, stratify
from maskrcnn_train.files import write_json
from maskrcnn_train.settings.command_rules import check_split_rules
from maskrcnn_train.settings.command_schema import SplitCommandConfig
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.arrays import Ints

HELP = """
Cut one COCO JSON into train, val and test, or into folds, with similar shares of every class.

  python -m maskrcnn_train.split annotations=all.json fractions=[0.8,0.2]
  python -m maskrcnn_train.split annotations=all.json folds=5 seed=1
  python -m maskrcnn_train.split annotations=all.json group_by=video_id            one video, one split
  python -m maskrcnn_train.split annotations=all.json "group_pattern='^(.*)_tile'"
  python -m maskrcnn_train.split annotations=all.json duplicates=true images=FOLDER
"""
logger = logging.getLogger("maskrcnn_train")


@dataclass
class SplitResult:
    """files: the JSONs by name, "train" or "fold_0/train". parts: rows of the images of each (folds: of its val)."""

    folder: Path
    files: dict[str, Path]
    parts: dict[str, Ints]


def split(config: SplitCommandConfig) -> SplitResult:
    """Cut as configured and write the parts; nothing of the JSON is lost. Raises UserError for a faulty JSON."""
    from maskrcnn_train.engine.run_folder import open_run_folder
    from maskrcnn_train.reporting.terminal.progress import setup_logging

    path = Path(config.annotations).expanduser()
    require_file(path, "set annotations to a COCO JSON")
    content = parse_json(path, exact=True)
    index = read_coco(path, content)
    check_choice(index, config)
    fractions = [1 / config.folds] * config.folds if config.folds else config.fractions
    if index.num_images < len(fractions):
        raise UserError(f"{path} has {index.num_images} images; they cannot be cut into {len(fractions)} parts")
    folder = open_run_folder(config, "split")
    setup_logging(folder)
    for note in choice_notes(index, config):
        logger.info("note: %s", note)
    chosen = chosen_categories(index, config)
    names = {chosen[each.id].id: chosen[each.id].name for each in index.categories if each.id in chosen}
    labels = {number: [*names].index(category.id) + 1 for number, category in chosen.items()}
    counts = count_objects(index, whole_split("all", index, labels, Path()).labels, len(names))
    groups = _groups(config, content["images"])
    rows = stratify(counts, fractions, config.seed, groups, favour_first=config.folds is None)
    part_names = [f"fold_{number}" for number in range(len(rows))] if config.folds else list(NAMES)
    parts = dict(zip(part_names, rows, strict=False))
    written = parts
    if config.folds:  # of each fold its images as val.json, and all others as train.json
        everything = np.arange(index.num_images)
        written = {f"{name}/train": np.setdiff1d(everything, own) for name, own in parts.items()}
        written |= {f"{name}/val": own for name, own in parts.items()}
    files = {name: _write(content, own, folder / f"{name}.json") for name, own in written.items()}
    _log_table([*names.values()], counts, parts, groups)
    logger.info("written to %s", folder)
    if not config.folds:
        keys = [
            f"data.{name}.annotations={shlex.quote(str(file))} data.{name}.images=FOLDER"
            for name, file in files.items()
        ]
        logger.info("train on them: data=custom %s", " ".join(keys))
    return SplitResult(folder, files, parts)


def _groups(config: SplitCommandConfig, images: list[dict[str, Any]]) -> Ints:
    """The group of each image: int64 [M]; images of one group stay together."""
    from maskrcnn_train.reporting.terminal.progress import Progress

    groupings = [] if config.group_by is None else [group_by_field(images, config.group_by)]
    if config.group_pattern is not None:
        groupings.append(group_by_pattern(images, config.group_pattern))
    if config.duplicates:
        pictures = Path(str(config.images)).expanduser()
        require_folder(pictures, "set images to the folder that the file names are relative to")
        with Progress("images", log_every=1000) as bar:
            grouping, faults = group_by_looks(
                images,
                pictures,
                distance=config.duplicate_distance,
                workers=config.workers,
                progress=lambda done, total: bar.update(done, total, {}),
            )
        if faults:
            logger.warning("%d images cannot be read and stay alone, first: %s", len(faults), faults[0])
        groupings.append(grouping)
    return joined(groupings, len(images))


def _write(content: dict[str, Any], rows: Ints, path: Path) -> Path:
    """The JSON with these images and their annotations only; everything else of it, and every order, as it was."""
    images = [content["images"][row] for row in rows.tolist()]
    ids = {image["id"] for image in images}
    annotations = [each for each in content["annotations"] if each["image_id"] in ids]
    return write_json(path, content | {"images": images, "annotations": annotations})


def _log_table(names: list[str], counts: Ints, parts: dict[str, Ints], groups: Ints) -> None:
    """Objects of each class in each part, with its share of the class."""
    from maskrcnn_train.reporting.terminal.tables import table

    def row(name: str, total: int, numbers: list[int]) -> list[object]:
        return [name, total, *(f"{number} ({100 * number / max(total, 1):.1f} %)" for number in numbers)]

    inside = np.array([counts[rows].sum(axis=0) for rows in parts.values()]).T.tolist()
    rows = [row(name, total, own) for name, total, own in zip(names, counts.sum(axis=0).tolist(), inside, strict=True)]
    rows.append(row("all objects", int(counts.sum()), [int(counts[part].sum()) for part in parts.values()]))
    rows.append(row("images", len(counts), [len(part) for part in parts.values()]))
    logger.info("%s", table("objects of each class, crowd regions aside", ["class", "all", *parts], rows))
    if len(np.unique(groups)) < len(groups):
        logger.info("%d images in %d groups that stay together", len(groups), len(np.unique(groups)))


def run(config: SplitCommandConfig) -> None:
    split(config)


def main() -> None:
    run_command("split", SplitCommandConfig, check_split_rules, run, HELP)


if __name__ == "__main__":
    main()
