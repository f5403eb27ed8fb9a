"""Which images are in which split: finds the files of a data set, reads and checks them, cuts one JSON into parts.

This module never imports torch: a command reads its data first, so that a wrong file is reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from maskrcnn_train.data.coco.index import NO_MASK, AnnotationIndex, SkippedTable
from maskrcnn_train.data.coco.reader import open_index
from maskrcnn_train.data.paths import require_folder
from maskrcnn_train.data.splits.classes import ClassMap, build_class_map, map_categories
from maskrcnn_train.data.splits.layouts import NAMES, data_root, locate, source_name
from maskrcnn_train.data.splits.stratifying import count_objects, stratify
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import DataConfig, TrainConfig
from maskrcnn_train.structures.arrays import Ints


@dataclass
class Split:
    """The images of one split, with their labels and folder.

    rows: int64 [n], its images in `index`. labels: int64 [A], label of each annotation of `index`.
    images: the folder that file names are relative to. skipped: what is not used of its JSON as it stands.
    """

    name: str
    index: AnnotationIndex
    rows: Ints
    labels: Ints
    images: Path
    skipped: SkippedTable

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_objects(self) -> int:
        """Annotations of its images, crowd regions included."""
        return int((self.index.first[self.rows + 1] - self.index.first[self.rows]).sum())

    @property
    def is_object(self) -> NDArray[np.bool_]:
        """Which annotations of the index are objects of its images and no crowd regions: bool [A]."""
        return ~np.asarray(self.index.crowd) & np.isin(self.index.image_rows, self.rows)


@dataclass
class Splits:
    """All splits of a data set, its classes, and notes that a person should read once."""

    train: Split
    val: Split
    test: Split | None
    classes: ClassMap
    notes: list[str]

    @property
    def skipped(self) -> dict[str, SkippedTable]:
        return {split.name: split.skipped for split in (self.train, self.val, self.test) if split is not None}


def read_splits(config: TrainConfig) -> Splits:
    """Find, read and check all data of a training. Raises UserError with one line for the first fault."""
    data, with_masks = config.data, config.mask_head.name != "none"
    root = data_root(data)
    paths = {name: pair for name in NAMES if (pair := locate(data, root, name)) is not None}
    indices = {name: _open(*pair) for name, pair in paths.items()}
    source = source_name(paths["train"][1])
    used = set(indices["train"].category_ids.tolist())
    classes, notes = build_class_map(indices["train"].categories, used, source)
    parts = {}
    for name, index in indices.items():
        labels, more = _labels(index, classes, source_name(paths[name][1]), source)
        notes += more if name != "train" else []
        parts[name] = Split(name, index, np.arange(index.num_images), labels, paths[name][0], deepcopy(index.skipped))
    if data.split.fractions is not None:
        parts = cut_split(parts["train"], len(classes.names), data.split.fractions, data.split.seed)
    for split in parts.values():
        check_split(split, with_masks=with_masks, on_bad_image=data.on_bad_image)
    if parts["val"].num_objects == 0:
        notes.append(f"{source_name(Path(parts['val'].index.source))} has no objects for val: its mAP is undefined")
    return Splits(parts["train"], parts["val"], parts.get("test"), classes, notes)


def cut_split(whole: Split, num_classes: int, fractions: Sequence[float], seed: int) -> dict[str, Split]:
    """Parts of one split; what was skipped of its JSON stays with the first."""
    counts = count_objects(whole.index, whole.labels, num_classes)
    return {
        name: replace(whole, name=name, rows=rows, skipped=whole.skipped if name == "train" else SkippedTable())
        for name, rows in zip(NAMES, stratify(counts, fractions, seed), strict=False)
    }


def read_split(data: DataConfig, name: str, classes: ClassMap, *, with_masks: bool) -> tuple[Split, list[str]]:
    """One split of a data set, labelled by the classes of a trained model; and notes.

    Raises UserError with one line for the first fault, or where the data set has no such split.
    """
    fractions = data.split.fractions
    if fractions is not None and name not in NAMES[: len(fractions)]:
        raise UserError(f"data.split.fractions={fractions} has no part for {name}; give three numbers")
    paths = locate(data, data_root(data), name if fractions is None else "train")
    if paths is None:
        raise UserError(
            f"data={data.name} has no {name} split; give it with data.{name}.images and data.{name}.annotations"
        )
    index = _open(*paths)
    labels, notes = _labels(index, classes, source_name(paths[1]), "the model")
    split = Split(name, index, np.arange(index.num_images), labels, paths[0], deepcopy(index.skipped))
    if fractions is not None:
        split = cut_split(split, len(classes.names), fractions, data.split.seed)[name]
    check_split(split, with_masks=with_masks, on_bad_image=data.on_bad_image)
    return split, notes


# ---------------------------------------------------------------- checks


def _open(images: Path, annotations: Path) -> AnnotationIndex:
    require_folder(images, f"give the folder of the images that {annotations} names")
    index = open_index(annotations)
    if index.num_images == 0:
        raise UserError(f"{annotations} lists no images")
    return index


def _labels(index: AnnotationIndex, classes: ClassMap, source: str, train_source: str) -> tuple[Ints, list[str]]:
    """Label of each annotation: int64 [A]."""
    used = set(np.unique(index.category_ids).tolist())
    labels, notes = map_categories(classes, index.categories, used, source, train_source)
    return labels_of(index, labels), notes


def labels_of(index: AnnotationIndex, labels: dict[int, int]) -> Ints:
    """Label of each annotation, int64 [A]: by category id, 0 for one without a label."""
    used, inverse = np.unique(index.category_ids, return_inverse=True)
    return np.array([labels.get(number, 0) for number in used.tolist()], dtype=np.int64)[inverse]


def check_split(split: Split, *, with_masks: bool, on_bad_image: str) -> None:
    """Check that masks and image files are there; missing files raise, or leave `split` with on_bad_image=skip."""
    source = source_name(Path(split.index.source))
    missing = find_missing(split.index, split.rows, split.images)
    if len(missing) and on_bad_image == "error":
        names = ", ".join(split.index.file_name(row)[:200] for row in missing[:3].tolist())
        raise UserError(
            f"{len(missing)} of {len(split)} images named in {source} are missing in {split.images}, first: {names}. "
            "Correct the folder of images, or leave them out with data.on_bad_image=skip"
        )
    for row in missing.tolist():
        name = split.index.file_name(row)
        split.skipped.add("image file missing", int(split.index.image_ids[row]), name)
    split.rows = np.setdiff1d(split.rows, missing)
    if split.name == "train" and split.num_objects == 0:
        reasons = [f"{row.count} left out: {row.reason}" for row in split.skipped if row.dropped]
        raise UserError(f"{source} has no usable objects to train on ({'; '.join(reasons[:3]) or 'no annotations'})")
    if with_masks:
        _require_masks(split, source)


def _require_masks(split: Split, source: str) -> None:
    bare = (split.index.kinds == NO_MASK) & split.is_object
    if bare.any():
        first = int(split.index.annotation_ids[np.flatnonzero(bare)[0]])
        raise UserError(
            f"{int(bare.sum())} of {split.num_objects} annotations in {source} have no segmentation, first: annotation "
            f"{first}; add the masks, or train boxes only with mask_head=none"
        )


def find_missing(index: AnnotationIndex, rows: Ints, folder: Path) -> Ints:
    """Rows of the images without a file in `folder`. Lists each folder once."""
    listed: dict[str, set[str]] = {}
    missing = []
    for row in rows.tolist():
        name = index.file_name(row)
        parent, _, base = name.rpartition("/")
        if parent not in listed:
            listed[parent] = _list_folder(folder / parent)
        # a name in another letter case or Unicode form may still open
        if base not in listed[parent] and not os.path.isfile(folder / PurePosixPath(name)):
            missing.append(row)
    return np.array(missing, dtype=np.int64)


def _list_folder(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
