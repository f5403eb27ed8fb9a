"""Reads the data of a training like `read_splits`, but goes on after each fault and lists all of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from maskrcnn_train.checking.findings import Finding, Severity
from maskrcnn_train.data.coco.entries import KINDS, Faults
from maskrcnn_train.data.coco.index import NO_MASK, AnnotationIndex
from maskrcnn_train.data.formats.coco import NAMES
from maskrcnn_train.data.formats.indexing import open_labels
from maskrcnn_train.data.paths import require_folder
from maskrcnn_train.data.splits.choosing import check_choice, chosen_categories
from maskrcnn_train.data.splits.classes import build_class_map, match_categories
from maskrcnn_train.data.splits.layouts import Source, found_notes, locate
from maskrcnn_train.data.splits.splitting import Split, cut_by_fractions, find_missing, leave_out, whole_split
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import DataConfig, TrainConfig
from maskrcnn_train.structures.arrays import Ints
from maskrcnn_train.structures.classes import ClassMap


@dataclass
class CheckedData:
    """What could be read. splits: by name; an annotation of a class unknown to training has label 0.

    classes: of training, or if it cannot be read, of the first split that can; None without any. with_images: the
    splits but for those of which every image is missing.
    """

    splits: dict[str, Split] = field(default_factory=dict)
    with_images: dict[str, Split] = field(default_factory=dict)
    classes: ClassMap | None = None
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_data(config: TrainConfig) -> CheckedData:
    """All splits of a training and their faults. Raises UserError where the settings name no training data."""
    data, checked = config.data, CheckedData()
    sources: dict[str, Source] = {}
    indices: dict[str, AnnotationIndex] = {}
    for name in NAMES:
        try:
            source = locate(data, name)
        except UserError as error:
            if name == "train":
                raise
            checked.findings.append(_no_split(data, name, error))
            continue
        if source is not None and (index := _read_labels(source, name, checked.findings)) is not None:
            sources[name], indices[name] = source, index
    checked.notes = found_notes(data, sources, indices)
    if "train" in indices:
        check_choice(indices["train"], data)
    for name, index in indices.items():  # without those of train, any will do to check the rest
        checked.classes = checked.classes or _read_classes(index, data, name, checked.findings)
    if checked.classes is None:
        return checked
    for name, index in indices.items():
        labels = _label(index, data, checked.classes, name, checked.findings)
        checked.splits[name] = whole_split(name, index, labels, sources[name].images)
    checked.splits = cut_by_fractions(checked.splits, len(checked.classes.names), data.split)
    if "train" in checked.splits:
        checked.notes += leave_out(checked.splits["train"], data)
    for name, split in checked.splits.items():
        missing = find_missing(split.index, split.rows, split.images)
        if len(missing) < len(split) or not len(split):
            checked.with_images[name] = split
        checked.findings += _missing_files(split, missing, data.on_bad_image)
        checked.findings += _content(split, with_masks=config.mask_head.enabled)
    return checked


def _no_split(data: DataConfig, name: str, error: UserError) -> Finding:
    given = getattr(data, name).annotations
    override = {"data.split.fractions": [0.8, 0.2]} if name == "val" and given is None else {}
    return Finding("error", "split-missing", "no JSON for this split", name, override=override, fix=str(error))


def _read_labels(source: Source, split: str, findings: list[Finding]) -> AnnotationIndex | None:
    """The index of the sound labels of a split; faults that would stop a training are added to `findings`."""
    faults = Faults(", ".join(each.annotations.name for each in source.files))
    try:
        index = open_labels(source.files, faults)
        if not index.num_images and not faults:
            raise UserError(f"{source.name} lists no images")
    except UserError as error:
        findings.append(Finding("error", "json", str(error), split, "file", [source.name]))
        return None
    for each in faults.in_order:
        fix = f"first: {each.message}"
        findings.append(Finding("error", each.kind, KINDS[each.kind], split, each.noun, each.items, fix=fix))
    return index


def _read_classes(index: AnnotationIndex, data: DataConfig, split: str, findings: list[Finding]) -> ClassMap | None:
    try:
        classes, _ = build_class_map(index, data)
    except UserError as error:
        findings.append(Finding("error", "no-classes", str(error), split))
        return None
    twice = [name for number, name in classes.name_of_id.items() if name.endswith(f" (id {number})")]
    if twice:
        what, fix = "several classes share a name; each stays a class", "give each its own name, or merge them"
        findings.append(Finding("warning", "class-name-repeated", what, split, "class", twice, fix=fix))
    return classes


def _label(
    index: AnnotationIndex, data: DataConfig, classes: ClassMap, split: str, findings: list[Finding]
) -> dict[int, int]:
    """Label of each category; the classes that training has not are left out."""
    labels, unknown = match_categories(classes, index, data)
    if unknown:
        names = [category.name for category in unknown]
        what, fix = "objects of classes that training has not", "rename them as in training, or add them to it"
        findings.append(Finding("error", "class-unknown", what, split, "class", names, fix=fix))
    chosen = chosen_categories(index, data)
    moved = {classes.name_of(label): 1 for number, label in labels.items() if classes.id_of(label) != chosen[number].id}
    if moved and index.from_json:
        what, fix = "classes with other ids than in training", "nothing: classes are matched by name"
        findings.append(Finding("advice", "class-ids-differ", what, split, "class", [*moved], fix=fix))
    return labels


def _missing_files(split: Split, missing: Ints, on_bad_image: str) -> Iterator[Finding]:
    """Images without a file; they leave `split`. Where there are none at all, all stay: the labels may be sound."""
    severity, override = bad_image_answer(on_bad_image)
    try:
        require_folder(split.images, fix := f"correct data.{split.name}.images")
    except UserError as error:
        yield Finding("error", "folder-missing", str(error), split.name, "folder", [str(split.images)])
        return
    names = [split.index.file_name(row) for row in missing.tolist()]
    if names and len(names) == len(split):
        what = f"{split.images} has none of the images"
        yield Finding("error", "image-missing", what, split.name, "image", names, fix=fix)
    elif names:
        split.rows = np.setdiff1d(split.rows, missing)
        fix = "add the files, or leave the images out"
        yield Finding(severity, "image-missing", "image file missing", split.name, "image", names, override, fix)


def bad_image_answer(on_bad_image: str) -> tuple[Severity, dict[str, str]]:
    """Severity of an image that cannot be used, and the setting that trains without it."""
    return ("error", {"data.on_bad_image": "skip"}) if on_bad_image == "error" else ("warning", {})


def _content(split: Split, *, with_masks: bool) -> Iterator[Finding]:
    """A split without objects, and objects without masks."""
    if split.num_objects == 0 and split.name != "test":
        why = "nothing to train on" if split.name == "train" else "its mAP is undefined"
        yield Finding("error", "no-objects", f"no usable objects: {why}", split.name, fix="annotate some images")
    bare = (split.index.kinds == NO_MASK) & split.is_object
    if with_masks and bare.any():
        share = "all objects are" if bare.sum() == split.is_object.sum() else "objects"
        what, fix = f"{share} without segmentation", "add the masks, or train boxes only"
        ids = split.index.items(np.flatnonzero(bare))
        yield Finding("error", "no-masks", what, split.name, "annotation", ids, {"mask_head.name": "none"}, fix)
