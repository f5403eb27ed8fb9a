"""The folds of a cross-validation: which images each model judges, and what the folder of folds belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from maskrcnn_train.data.pixels import PixelReader
from maskrcnn_train.data.scanning import scan_images
from maskrcnn_train.data.splits.splitting import Split, Splits
from maskrcnn_train.data.splits.stratifying import count_objects, stratify
from maskrcnn_train.evaluation.coco.ground_truth import of_images
from maskrcnn_train.files import write_json
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.classes import ClassMap

FOLDS_FILE = "folds.json"


def cut_folds(whole: Split, classes: ClassMap, *, folds: int, seed: int) -> list[Splits]:
    """For each fold its images as `val` and all others as `train`, with similar shares of every class.

    Raises UserError for fewer images than folds.
    """
    if len(whole) < folds:
        raise UserError(f"{whole.index.short_name} has {len(whole)} images; they cannot be cut into folds={folds}")
    counts = count_objects(whole.index, whole.labels, len(classes.names))[whole.rows]
    parts = [whole.rows[rows] for rows in stratify(counts, [1 / folds] * folds, seed, favour_first=False)]
    return [
        Splits(
            replace(whole, rows=np.setdiff1d(whole.rows, own)), replace(whole, name="val", rows=own), None, classes, []
        )
        for own in parts
    ]


def remember(folder: Path, whole: Split, settings: Sequence[str]) -> None:
    """Note what the folds in a folder belong to. Raises UserError where they belong to something else.

    settings: the overrides that the trainings follow from.
    """
    ours = {"settings": sorted(settings), "labels": _fingerprint(whole)}
    path = folder / FOLDS_FILE
    if not path.is_file():
        write_json(path, ours, indent=2)
        return
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        differing = set(known["settings"]) ^ set(ours["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); choose another output_dir") from None
    if differing:
        raise UserError(
            f"output_dir={folder} holds folds of other settings; they differ in {', '.join(sorted(differing))}. "
            "Give the same settings, or another folder"
        )
    if known.get("labels") != ours["labels"]:
        raise UserError(f"output_dir={folder} holds folds of other labels: the data has changed; give another folder")


def readable(truth: dict[str, Any], folder: Path, workers: int, reader: PixelReader) -> dict[str, Any]:
    """A ground truth without the images that cannot be read: with `data.on_bad_image=skip` no model has judged them."""
    files = [(folder / image["file_name"], (image["height"], image["width"])) for image in truth["images"]]
    facts = scan_images(files, workers, lambda done, total: None, reader)
    return of_images(truth, {image["id"] for image, fact in zip(truth["images"], facts, strict=True) if not fact.fault})


def _fingerprint(whole: Split) -> str:
    """Another text for other images or labels."""
    index = whole.index
    found = hashlib.sha256(repr(index.categories).encode())
    for column in (whole.rows, whole.labels, *index.columns().values()):
        found.update(np.ascontiguousarray(column).tobytes())
    return found.hexdigest()[:16]
