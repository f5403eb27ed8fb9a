"""`python -m maskrcnn_train.split`: cuts the labels of a data set into train, val and test, or into folds."""

import logging
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_train.cli.main import run_command
from maskrcnn_train.data.coco.index import AnnotationIndex
from maskrcnn_train.data.coco.json_file import parse_json
from maskrcnn_train.data.coco.reader import read_coco
from maskrcnn_train.data.coco.results import coco_content
from maskrcnn_train.data.formats.coco import NAMES
from maskrcnn_train.data.formats.indexing import open_labels
from maskrcnn_train.data.formats.labelled import DataSet, LabelFiles
from maskrcnn_train.data.formats.writing import labelled_images, tell_left_out, write_labels
from maskrcnn_train.data.paths import require_folder
from maskrcnn_train.data.pixels import RGB, build_reader
from maskrcnn_train.data.splits.choosing import check_choice, choice_notes, chosen_categories
from maskrcnn_train.data.splits.classes import build_class_map, match_categories
from maskrcnn_train.data.splits.grouping import group_by_field, group_by_looks, group_by_pattern, joined
from maskrcnn_train.data.splits.layouts import Source, as_paths, given_files, locate_all, unused_notes
from maskrcnn_train.data.splits.splitting import leave_out_missing, whole_split
from maskrcnn_train.data.splits.stratifying import count_objects, stratify
from maskrcnn_train.files import write_json
from maskrcnn_train.settings.command_rules import check_split_rules
from maskrcnn_train.settings.command_schema import SplitCommandConfig
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import override_value
from maskrcnn_train.settings.rules import is_json
from maskrcnn_train.structures.arrays import Ints

HELP = """
Cut labels into train, val and test, or into folds, with similar shares of every class.

  python -m maskrcnn_train.split annotations=all.json fractions=[0.8,0.2]
  python -m maskrcnn_train.split annotations=all.json folds=5 seed=1
  python -m maskrcnn_train.split annotations=all.json group_by=video_id            one video, one split
  python -m maskrcnn_train.split annotations=all.json "group_pattern='^(.*)_tile'"
  python -m maskrcnn_train.split annotations=all.json duplicates=true images=FOLDER
  python -m maskrcnn_train.split data=roboflow data.root=DIR duplicates=true       all splits, cut again
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
    from maskrcnn_train.reporting.terminal.tables import unused_table

    files = _files(config)
    content, index = _read(files)
    images = _images(config, files, index)
    check_choice(index, config)
    fractions = [1 / config.folds] * config.folds if config.folds else config.fractions
    if index.num_images < len(fractions):
        raise UserError(f"{index.source} has {index.num_images} images; they cannot be cut into {len(fractions)} parts")
    folder = open_run_folder(config.output_dir, "split")
    setup_logging(folder / "split.log")
    for note in [*unused_notes(files), *choice_notes(index, config)]:
        logger.info("note: %s", note)
    is_kept = config.format == "coco" and len(files) == 1 and files[0].format == "coco"  # faulty annotations too
    if not is_kept and (unused := unused_table({"all": index.skipped})):
        logger.info("%s", unused)
    chosen = chosen_categories(index, config)
    names = {chosen[each.id].id: chosen[each.id].name for each in index.categories if each.id in chosen}
    labels = {number: [*names].index(category.id) + 1 for number, category in chosen.items()}
    counts = count_objects(index, whole_split("all", index, labels, Path()).labels, len(names))
    groups = _groups(config, content["images"], images)
    rows = stratify(counts, fractions, config.seed, groups, favour_first=config.folds is None)
    part_names = [f"fold_{number}" for number in range(len(rows))] if config.folds else list(NAMES)
    parts = dict(zip(part_names, rows, strict=False))
    if empty := [name for name, own in parts.items() if len(own) == 0]:
        what = "%s without images: the %d groups that stay together are too few, or too large"
        logger.warning(what, ", ".join(empty), len(np.unique(groups)))
    written = parts
    if config.folds:  # of each fold its images as val.json, and all others as train.json
        everything = np.arange(index.num_images)
        written = {f"{name}/train": np.setdiff1d(everything, own) for name, own in parts.items()}
        written |= {f"{name}/val": own for name, own in parts.items()}
    if config.format == "coco":
        written_files = _write(content, written, folder)
    else:
        assert images is not None
        written_files = _write_format(config, index, written, folder, images)
    _log_table([*names.values()], counts, parts, groups)
    logger.info("written to %s", folder)
    if not config.folds and config.format == "coco":
        _log_command(written_files, images)
    return SplitResult(folder, written_files, parts)


def _log_command(files: dict[str, Path], images: Path | None) -> None:
    places = [(f"data.{name}.annotations", file) for name, file in files.items()]
    places += [(f"data.{name}.images", images or Path("FOLDER")) for name in files]
    settings = shlex.join(f"{key}={override_value(str(path))}" for key, path in places)
    logger.info("train on them: data=custom %s", settings)


def _files(config: SplitCommandConfig) -> list[LabelFiles]:
    """The labels to cut: those that are named, or of all splits of a data set."""
    if config.data is None:
        images = as_paths(config.images) or ([Path()] if is_json(config.annotations) else [])
        return given_files(as_paths(config.annotations), images, "train", "auto", "")
    sources = locate_all(config.data, needs_val=False)
    return list(dict.fromkeys(files for source in sources.values() for files in source.files))


def _read(files: list[LabelFiles]) -> tuple[dict[str, Any], AnnotationIndex]:
    """The labels as a COCO JSON and as an index; of a single JSON nothing is lost."""
    if len(files) == 1 and files[0].format == "coco":
        content = parse_json(files[0].annotations, exact=True)
        return content, read_coco(files[0].annotations, content)
    index = open_labels(files)
    return coco_content(index), index


def _images(config: SplitCommandConfig, files: list[LabelFiles], index: AnnotationIndex) -> Path | None:
    """The folder of the images, with those that will be copied; None where a JSON was given without it."""
    source = Source(tuple(files))
    is_known = config.data is not None or config.images is not None or files[0].format != "coco"
    if config.format != "coco":
        if not is_known:
            raise UserError(f"images is not set; format={config.format} copies them: images=FOLDER")
        source.require_images()
        leave_out_missing(whole_split("all", index, {}, source.images), None)
    return source.images if is_known else None


def _groups(config: SplitCommandConfig, images: list[dict[str, Any]], pictures: Path | None) -> Ints:
    """The group of each image: int64 [M]; images of one group stay together."""
    from maskrcnn_train.reporting.terminal.progress import Progress

    groupings = [] if config.group_by is None else [group_by_field(images, config.group_by)]
    if config.group_pattern is not None:
        groupings.append(group_by_pattern(images, config.group_pattern))
    if config.duplicates:
        assert pictures is not None
        require_folder(pictures, "set images to the folder that the file names are relative to")
        with Progress("images", log_every=1000) as bar:
            grouping, faults = group_by_looks(
                images,
                pictures,
                distance=config.duplicate_distance,
                workers=config.workers,
                progress=lambda done, total: bar.update(done, total, {}),
                reader=RGB if config.data is None else build_reader(config.data),
            )
        if faults:
            logger.warning("%d images cannot be read and stay alone, first: %s", len(faults), faults[0])
        groupings.append(grouping)
    return joined(groupings, len(images))


def _write(content: dict[str, Any], parts: dict[str, Ints], folder: Path) -> dict[str, Path]:
    """The JSON of each part, with its own images and annotations; everything else, and every order, as it was."""
    files = {}
    for name, rows in parts.items():
        images = [content["images"][row] for row in rows.tolist()]
        ids = {image["id"] for image in images}
        annotations = [each for each in content["annotations"] if each["image_id"] in ids]
        files[name] = write_json(folder / f"{name}.json", content | {"images": images, "annotations": annotations})
    return files


def _write_format(
    config: SplitCommandConfig, index: AnnotationIndex, parts: dict[str, Ints], folder: Path, pictures: Path
) -> dict[str, Path]:
    """The parts as one data set of another format, or a data set for each fold; returns the folder of each part."""
    everything = replace(config, rename=None, merge=None, classes=None)
    classes, _ = build_class_map(index, everything)
    labels = whole_split("all", index, match_categories(classes, index, everything)[0], pictures).labels
    folders, left_out = {name: folder / Path(name).parent for name in parts}, 0
    for own in dict.fromkeys(folders.values()):
        images = {
            Path(name).name: labelled_images(index, rows, labels, classes, pictures)
            for name, rows in parts.items()
            if folders[name] == own
        }
        left_out += write_labels(own, config.format, DataSet(classes.name_of_id, images), tolerance=config.tolerance)
    tell_left_out(left_out // (config.folds or 1))
    return folders


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
