"""The checks that open no image: at the start of every training, and first in `check`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from maskrcnn_train.checking.anchors import AnchorRow, anchor_table, check_anchors, fit_anchors
from maskrcnn_train.checking.classes import check_class_balance, check_classes
from maskrcnn_train.checking.findings import Finding, in_order
from maskrcnn_train.checking.objects import network_objects, training_min_size
from maskrcnn_train.checking.sizes import check_object_sizes, check_objects_per_image
from maskrcnn_train.checking.training import check_training
from maskrcnn_train.data.splits.splitting import Split, Splits
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.classes import ClassMap


def quick_check(config: TrainConfig, splits: Splits) -> list[Finding]:
    """Doubts about a training that can start: settings against objects. Reads no image, imports no torch."""
    return in_order(check_settings(config, splits.by_name, splits.classes)[0])


def check_settings(
    config: TrainConfig, splits: dict[str, Split], classes: ClassMap
) -> tuple[list[Finding], list[AnchorRow]]:
    """Classes, sizes and numbers of objects against the settings; and the anchors of the training objects.

    splits: those that can be read.
    """
    findings = list(check_classes(splits, classes)) if "train" in splits else []
    anchors: list[AnchorRow] = []
    for name, split in splits.items():
        min_size = training_min_size(config) if name == "train" else config.data.min_size
        objects = network_objects(split, min_size=min_size, max_size=config.data.max_size)
        findings += check_objects_per_image(split, objects, config)
        if name == "train" and len(objects):
            findings += check_object_sizes(split, objects, config)
            fit = fit_anchors(objects, config.rpn.anchors.sizes, config.rpn.anchors.aspect_ratios, config.numerics)
            anchors = anchor_table(fit, config)
            findings += _after_resizing(check_anchors(objects, fit, config), findings)
    if "train" in splits:
        findings += check_class_balance(splits["train"], classes, config.data.repeat_threshold)
        findings += check_training(config, len(splits["train"]))
    return findings, anchors


def _after_resizing(anchors: Iterable[Finding], others: list[Finding]) -> list[Finding]:
    """Anchors are fitted to one network size: if another size is advised, anchors must be checked again."""
    if any("data.min_size" in finding.override for finding in others):
        return [replace(finding, override={}, fix="check again at the size advised") for finding in anchors]
    return list(anchors)
