"""The checks that open no image: at the start of every training, and first in `check`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from maskrcnn_train.checking.anchors import anchor_table, check_anchors, fit_anchors
from maskrcnn_train.checking.annotations import check_annotations
from maskrcnn_train.checking.classes import check_class_balance, check_classes
from maskrcnn_train.checking.findings import Finding, in_order
from maskrcnn_train.checking.objects import network_objects, training_min_size
from maskrcnn_train.checking.sizes import check_object_sizes, check_objects_per_image
from maskrcnn_train.checking.training import check_training
from maskrcnn_train.data.splits.classes import ClassMap
from maskrcnn_train.data.splits.splitting import Split, Splits
from maskrcnn_train.settings.schema import TrainConfig


@dataclass
class Outcome:
    """Findings, and the rows of `anchor_table` of the training split."""

    findings: list[Finding] = field(default_factory=list)
    anchors: list[tuple[Any, ...]] = field(default_factory=list)


def quick_check(config: TrainConfig, splits: Splits) -> list[Finding]:
    """Doubts about a training that can start: settings against objects. Reads no image, imports no torch."""
    named = {split.name: split for split in (splits.train, splits.val, splits.test) if split is not None}
    return in_order(check_settings(config, named, splits.classes).findings)


def check_content(splits: dict[str, Split]) -> list[Finding]:
    """The annotations of every split that are not used as they stand."""
    return [finding for split in splits.values() for finding in check_annotations(split)]


def check_settings(config: TrainConfig, splits: dict[str, Split], classes: ClassMap) -> Outcome:
    """Classes, sizes and numbers of objects against the settings. splits: those that can be read."""
    outcome = Outcome(check_classes(splits, classes) if "train" in splits else [])
    data = config.data
    for name, split in splits.items():
        min_size = training_min_size(config) if name == "train" else data.min_size
        objects = network_objects(split, min_size=min_size, max_size=data.max_size)
        outcome.findings += check_objects_per_image(split, objects, config)
        if name != "train" or not len(objects):
            continue
        outcome.findings += check_object_sizes(split, objects, config)
        fit = fit_anchors(
            objects,
            config.rpn.anchors.sizes,
            config.rpn.anchors.aspect_ratios,
            rounding=config.numerics.anchor_rounding,
            fixed_strides=config.numerics.anchor_strides == "fixed",
        )
        outcome.anchors = anchor_table(fit, config)
        outcome.findings += _after_resizing(check_anchors(objects, fit, config), outcome.findings)
    if "train" in splits:
        outcome.findings += check_class_balance(splits["train"], classes, data.repeat_threshold)
        outcome.findings += check_training(config, len(splits["train"]))
    return outcome


def _after_resizing(anchors: list[Finding], others: list[Finding]) -> list[Finding]:
    """Anchors are fitted to one network size: if another size is advised, anchors must be checked again."""
    if any("data.min_size" in finding.override for finding in others):
        return [replace(finding, override={}, fix="check again at the size advised") for finding in anchors]
    return anchors
