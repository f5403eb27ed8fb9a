"""Settings against objects and against each other, without opening an image: in `check` and as a training starts."""

import math
from collections.abc import Iterator
from dataclasses import replace

from maskrcnn_train.checking.anchors import AnchorRow, anchor_table, check_anchors, fit_anchors
from maskrcnn_train.checking.classes import check_class_balance, check_classes
from maskrcnn_train.checking.findings import Finding, in_order
from maskrcnn_train.checking.objects import check_object_sizes, check_objects_per_image, network_objects
from maskrcnn_train.data.splits.splitting import Split, Splits
from maskrcnn_train.data.tile_layout import epoch_length
from maskrcnn_train.model.weights.published import nearest_published
from maskrcnn_train.settings.optimizers import OPTIMIZERS
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.classes import ClassMap

FROM_NOTHING = 2000  # training images, below which pretrained weights help much


def quick_check(config: TrainConfig, splits: Splits) -> list[Finding]:
    """Doubts about a training that can start: settings against objects. Reads no image, imports no torch."""
    return in_order(check_settings(config, splits.by_name, splits.classes)[0])


def check_settings(
    config: TrainConfig, splits: dict[str, Split], classes: ClassMap, *, offline: bool = False
) -> tuple[list[Finding], list[AnchorRow]]:
    """Classes, sizes and numbers of objects against the settings; and the anchors of the training objects.

    splits: those that can be read. offline: weights cannot be downloaded.
    """
    findings = list(check_classes(splits, classes, config.data)) if "train" in splits else []
    anchors: list[AnchorRow] = []
    for name, split in splits.items():
        objects = network_objects(split, config)
        findings += check_objects_per_image(split, objects, config)
        if name == "train" and len(objects):
            findings += check_object_sizes(split, objects, config)
            fit = fit_anchors(objects, config.rpn.anchors.sizes, config.rpn.anchors.aspect_ratios, config.numerics)
            anchors = anchor_table(fit, config)
            found = list(check_anchors(objects, fit, config))
            if any("data.min_size" in finding.override for finding in findings):  # anchors are fitted to one size
                found = [replace(each, override={}, fix="check again at the size advised") for each in found]
            findings += found
    if "train" in splits:
        findings += check_class_balance(splits["train"], classes, config.data)
        findings += check_training(config, splits["train"], offline=offline)
    return findings, anchors


def check_training(config: TrainConfig, train: Split, *, offline: bool) -> Iterator[Finding]:
    """Settings of the training against each other and against the number of training images."""
    yield from _learning_rate(config)
    yield from _steps(config, epoch_length(train, config.data))
    num_images = len(train)
    norm, from_nothing = config.backbone.norm, config.weights.source == "none"
    trains_norms = norm == "batch" or (norm == "auto" and from_nothing)
    if trains_norms and config.trainer.batch_size == 1 and not config.trainer.sync_batchnorm:
        what = "batch norms take their statistics from single images"
        yield Finding("warning", "norm-of-one", what, override={"backbone.norm": "group"})
    if from_nothing and config.data.name != "shapes" and 0 < num_images < FROM_NOTHING:
        what = f"random initial weights with {num_images} training images"
        override, fix = {"weights.source": "imagenet"}, "weights=coco gains more still, where the backbone is resnet50"
        if (near := nearest_published(config.backbone.name)) != config.backbone.name:
            override = {"backbone.name": near} | override
        if offline:  # nothing that this machine cannot do
            override, fix = {}, "weights help much, but cannot be downloaded here: see weights.path in docs/weights.md"
        yield Finding("advice", "weights-none", what, override=override, fix=fix)


def _learning_rate(config: TrainConfig) -> Iterator[Finding]:
    section = config.optimizer
    images = config.trainer.batch_size * config.trainer.accumulate
    reference = section.reference_batch_size if section.scale_lr else images
    for_16 = section.lr * 16 / reference if section.name == "sgd" else section.lr
    limit = OPTIMIZERS[section.name].highest_lr
    if for_16 > limit:
        lr = limit / 2 * (reference / 16 if section.name == "sgd" else 1)
        what = f"learning rate {section.lr:g} for {reference} images a step is far above the usual {lr:.2g}"
        yield Finding("warning", "learning-rate-high", what, override={"optimizer.lr": float(f"{lr:.3g}")})


def _steps(config: TrainConfig, num_images: int) -> Iterator[Finding]:
    trainer, warmup = config.trainer, config.schedule.warmup_steps
    an_epoch = math.ceil(max(num_images, 1) / (trainer.batch_size * trainer.accumulate))
    steps = an_epoch * trainer.epochs
    if trainer.max_steps is not None and trainer.max_steps > steps:
        what = (
            f"trainer.max_steps={trainer.max_steps} is not reached: trainer.epochs={trainer.epochs} has {steps} steps"
        )
        fix = f"trainer.epochs={math.ceil(trainer.max_steps / an_epoch)} to train that long"
        yield Finding("advice", "steps-unreached", what, fix=fix)
    steps = min(steps, trainer.max_steps or steps)
    if trainer.max_minutes is None and warmup * 2 > steps:
        what = f"warm-up of {warmup} steps in a training of {steps}"
        yield Finding("warning", "warmup-long", what, override={"schedule.warmup_steps": steps // 10})
    if trainer.batch_size > num_images > 0:
        what = f"a batch of {trainer.batch_size} is more than the {num_images} training images"
        yield Finding("warning", "batch-large", what, override={"trainer.batch_size": num_images})
