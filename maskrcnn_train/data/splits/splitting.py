"""Which images are in which split: finds the files of a data set, reads and checks them, cuts one JSON into parts.

This module never imports torch: a command reads its data first, so that a wrong file is reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from maskrcnn_train.data.coco.index import NO_MASK, AnnotationIndex
from maskrcnn_train.data.coco.skipped import SkippedTable
from maskrcnn_train.data.formats.coco import NAMES
from maskrcnn_train.data.formats.indexing import open_labels
from maskrcnn_train.data.splits.choosing import check_choice
from maskrcnn_train.data.splits.classes import build_class_map, map_categories, match_categories
from maskrcnn_train.data.splits.excluding import EXCLUDED, named_annotations
from maskrcnn_train.data.splits.layouts import Source, found_notes, locate, locate_all
from maskrcnn_train.data.splits.stratifying import count_objects, stratify
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import DataConfig, SplitConfig, TrainConfig
from maskrcnn_train.structures.arrays import Flags, Ints
from maskrcnn_train.structures.classes import ClassMap

REGION = -1  # the label of an annotation whose place is ignored in training


@dataclass
class Split:
    """The images of one split, with their labels and folder.

    rows: int64 [n], its images in `index`. labels: int64 [A], of each annotation of `index`, 0: of no class, or REGION.
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
        """Annotations of its images that have a class, crowd regions included."""
        return int(np.isin(self.index.image_rows[self.labels > 0], self.rows).sum())

    @property
    def is_object(self) -> Flags:
        """Which annotations of the index are objects of its images, with a class and no crowd regions: bool [A]."""
        return (self.labels > 0) & ~self.index.crowd & np.isin(self.index.image_rows, self.rows)

    def count_classes(self, num_classes: int) -> list[int]:
        """Objects of each class, in the order of labels."""
        of_label: list[int] = np.bincount(self.labels[self.is_object], minlength=num_classes + 1).tolist()
        return of_label[1:]

    def with_objects(self) -> Split:
        """Without its images that show no object."""
        return replace(self, rows=self.rows[np.isin(self.rows, self.index.image_rows[self.is_object])])


@dataclass
class Splits:
    """All splits of a data set, its classes, and notes that a person should read once."""

    train: Split
    val: Split
    test: Split | None
    classes: ClassMap
    notes: list[str]

    @property
    def by_name(self) -> dict[str, Split]:
        return {split.name: split for split in (self.train, self.val, self.test) if split is not None}

    @property
    def skipped(self) -> dict[str, SkippedTable]:
        return {name: split.skipped for name, split in self.by_name.items()}


def read_splits(config: TrainConfig) -> Splits:
    """Find, read and check all data of a training. Raises UserError with one line for the first fault."""
    parts, classes, notes = _read(config, NAMES)
    if parts["val"].num_objects == 0:
        notes.append(f"{parts['val'].index.short_name} has no objects for val: its mAP is undefined")
    return Splits(parts["train"], parts["val"], parts.get("test"), classes, notes)


def read_training_split(config: TrainConfig) -> tuple[Split, ClassMap, list[str]]:
    """The training images alone, their classes, and notes; no other split need be there. Raises UserError."""
    parts, classes, notes = _read(config, NAMES[:1])
    return parts["train"], classes, notes


def _read(config: TrainConfig, names: Sequence[str]) -> tuple[dict[str, Split], ClassMap, list[str]]:
    data = config.data
    sources = locate_all(data, names)
    indices = {name: _open(source) for name, source in sources.items()}
    check_choice(indices["train"], data)
    classes, notes = build_class_map(indices["train"], data)
    notes = found_notes(data, sources, indices) + notes
    parts = {}
    for name, index in indices.items():
        labels, more = map_categories(classes, index, data, indices["train"].short_name)
        notes += more if name != "train" else []
        parts[name] = whole_split(name, index, labels, sources[name].images)
    parts = cut_by_fractions(parts, len(classes.names), data.split)
    notes += leave_out(parts["train"], data)
    for split in parts.values():
        _check(split, data, config.mask_head.enabled)
    return parts, replace(classes, objects=parts["train"].count_classes(len(classes.names))), notes


def leave_out(train: Split, data: DataConfig) -> list[str]:
    """Make ignored regions of the labels that `data.exclude` names; returns notes."""
    if data.exclude is None:
        return []
    rows, notes = named_annotations(train.index, Path(data.exclude).expanduser())
    rows = rows[np.isin(train.index.image_rows[rows], train.rows)]
    for item in map(train.index.item, rows.tolist()):
        train.skipped.add(EXCLUDED, item, f"annotation {item}" if train.index.from_json else str(item))
    train.labels = train.labels.copy()
    train.labels[rows] = REGION
    return notes


def whole_split(name: str, index: AnnotationIndex, labels: dict[int, int], images: Path) -> Split:
    """All images of a JSON as one split. labels: by category id; annotations of other categories get 0."""
    used, inverse = np.unique(index.category_ids, return_inverse=True)
    of_each = np.array([labels.get(number, 0) for number in used.tolist()], dtype=np.int64)[inverse]
    return Split(name, index, np.arange(index.num_images), of_each, images, deepcopy(index.skipped))


def cut_by_fractions(splits: dict[str, Split], num_classes: int, section: SplitConfig) -> dict[str, Split]:
    """The splits, or with `data.split.fractions` the parts of train; what was skipped of its JSON stays with it."""
    if section.fractions is None or "train" not in splits:
        return splits
    whole = splits["train"]
    counts = count_objects(whole.index, whole.labels, num_classes)
    return {
        name: replace(whole, name=name, rows=rows, skipped=whole.skipped if name == "train" else SkippedTable())
        for name, rows in zip(NAMES, stratify(counts, section.fractions, section.seed), strict=False)
    }


def read_split(
    data: DataConfig, name: str, classes: ClassMap, *, with_masks: bool, trained: DataConfig | None = None
) -> tuple[Split, list[str]]:
    """One split of a data set, labelled by the classes of a trained model; and notes.

    trained: the data of its training, if not `data`. Its choice of classes decides where `data.split.fractions` cuts:
    another choice would give images of train to the other parts. Raises UserError with one line for the first fault, or
    where the data set has no such split.
    """
    fractions = data.split.fractions
    if fractions is not None and name not in NAMES[: len(fractions)]:
        raise UserError(f"data.split.fractions={fractions} has no part for {name}; give three numbers")
    located = name if fractions is None else "train"
    source = locate(data, located)
    if source is None:
        keys = f"data.{name}.images and data.{name}.annotations"
        raise UserError(f"data={data.name} has no {name} split; give it with {keys}")
    index = _open(source)
    labels, notes = map_categories(classes, index, data, "the model")
    whole = whole_split(located, index, labels, source.images)
    to_cut = whole
    if fractions is not None and trained is not None:
        to_cut = whole_split(located, index, match_categories(classes, index, trained)[0], source.images)
    split = replace(cut_by_fractions({located: to_cut}, len(classes.names), data.split)[name], labels=whole.labels)
    _check(split, data, with_masks)
    return split, notes


def read_parts(data: DataConfig, *, with_images: bool) -> tuple[dict[str, Split], ClassMap, list[str]]:
    """All splits that are there, for commands that pass labels on: their classes, and notes. Raises UserError.

    with_images: whether their files have to be there, as in a training.
    Classes are those of the first part; classes that only others have get ids above.
    """
    sources = locate_all(data, needs_val=False)
    for source in sources.values() if with_images else ():
        source.require_images()
    indices = {name: open_labels(source.files) for name, source in sources.items()}
    check_choice(indices["train"], data)
    classes, notes = build_class_map(indices["train"], data)
    notes = found_notes(data, sources, indices) + notes
    parts = {}
    for name, index in indices.items():
        for category in match_categories(classes, index, data)[1]:
            if category.name not in classes.names:
                number = category.id if category.id not in classes.ids else max(classes.ids) + 1
                classes = ClassMap([*classes.names, category.name], [*classes.ids, number])
        labels, _ = match_categories(classes, index, data)
        parts[name] = whole_split(name, index, labels, sources[name].images)
    parts = cut_by_fractions(parts, len(classes.names), data.split)
    for part in parts.values() if with_images else ():
        leave_out_missing(part, data)
    return parts, classes, notes


def _open(source: Source) -> AnnotationIndex:
    source.require_images()
    index = open_labels(source.files)
    if index.num_images == 0:
        raise UserError(f"{source.name} lists no images")
    return index


def _check(split: Split, data: DataConfig, with_masks: bool) -> None:
    """Check that masks and image files are there; missing files raise, or leave `split` with on_bad_image=skip."""
    leave_out_missing(split, data)
    index = split.index
    if split.name == "train" and split.num_objects == 0:
        reasons = [f"{row.count} left out: {row.reason}" for row in split.skipped if row.dropped]
        why = "; ".join(reasons[:3]) or "no annotations"
        raise UserError(f"{index.short_name} has no usable objects to train on ({why})")
    bare = np.flatnonzero((index.kinds == NO_MASK) & split.is_object)
    if with_masks and len(bare):
        raise UserError(
            f"{len(bare)} of {split.num_objects} annotations in {index.short_name} have no segmentation, first: "
            f"annotation {index.item(bare[0])}; add the masks, or train boxes only with mask_head=none"
        )


def leave_out_missing(split: Split, data: DataConfig | None) -> None:
    """Raise UserError for missing image files; with on_bad_image=skip count them, and take their images away.

    data: None where nothing can be left out.
    """
    index = split.index
    missing = find_missing(index, split.rows, split.images)
    names = [index.file_name(row) for row in missing.tolist()]
    if names and (data is None or data.on_bad_image == "error"):
        raise UserError(
            f"{len(names)} of {len(split)} images named in {index.short_name} are missing in {split.images}, first: "
            f"{', '.join(name[:200] for name in names[:3])}. Correct the folder of images"
            + ("" if data is None else ", or leave them out with data.on_bad_image=skip")
        )
    for image_id, name in zip(index.image_ids[missing].tolist(), names, strict=True):
        split.skipped.add("image file missing", image_id, name)
    split.rows = np.setdiff1d(split.rows, missing)


def find_missing(index: AnnotationIndex, rows: Ints, folder: Path) -> Ints:
    """Rows of the images without a file in `folder`. Lists each folder once."""

    @cache
    def listed(parent: str) -> set[str]:
        try:
            return set(os.listdir(folder / parent))
        except OSError:
            return set()

    def is_there(name: str) -> bool:
        parent, _, base = name.rpartition("/")
        # a name in another letter case or Unicode form may still open
        return base in listed(parent) or os.path.isfile(folder / PurePosixPath(name))

    return np.array([row for row in rows.tolist() if not is_there(index.file_name(row))], dtype=np.int64)


def summarize(splits: Splits) -> dict[str, Any]:
    """For JSON: numbers of images and objects of each split, what is not used of its JSON as it stands, and notes."""
    parts = {name: _summary(split, splits.classes.names) for name, split in splits.by_name.items()}
    return {"splits": parts, "notes": splits.notes}


def _summary(split: Split, names: list[str]) -> dict[str, Any]:
    real = split.is_object
    return {
        "annotations": split.index.source,
        "images": len(split),
        "empty_images": len(split) - len(np.unique(split.index.image_rows[real])),
        "objects": int(real.sum()),
        "crowd": split.num_objects - int(real.sum()),
        "classes": dict(zip(names, split.count_classes(len(names)), strict=True)),
        "not_used": [
            {"reason": row.reason, "count": row.count, "dropped": row.dropped, "first": row.examples[0]}
            for row in split.skipped
        ],
    }
