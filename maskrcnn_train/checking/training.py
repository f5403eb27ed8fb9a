"""Checks learning rate, batch size and length of the training."""

from __future__ import annotations

import math
from collections.abc import Iterator

from maskrcnn_train.checking.findings import Finding
from maskrcnn_train.settings.schema import TrainConfig

HIGHEST_LR = {"sgd": 0.04, "adamw": 1e-3}  # sgd: for 16 images a step; twice the usual
FROM_NOTHING = 2000  # training images, below which pretrained weights help much


def check_training(config: TrainConfig, num_images: int) -> Iterator[Finding]:
    """Settings of the training against each other and against the number of training images."""
    yield from _learning_rate(config)
    yield from _steps(config, num_images)
    trains_norms = config.backbone.norm == "batch" or (
        config.backbone.norm == "auto" and config.weights.source == "none"
    )
    if trains_norms and config.trainer.batch_size == 1 and not config.trainer.sync_batchnorm:
        what = "batch norms take their statistics from single images"
        yield Finding("warning", "norm-of-one", what, override={"backbone.norm": "group"})
    if config.weights.source == "none" and config.data.name != "shapes" and 0 < num_images < FROM_NOTHING:
        what = f"random initial weights with {num_images} training images"
        fix = "weights=coco gains more still, where the backbone is resnet50"
        yield Finding("advice", "weights-none", what, override={"weights.source": "imagenet"}, fix=fix)


def _learning_rate(config: TrainConfig) -> Iterator[Finding]:
    section = config.optimizer
    images = config.trainer.batch_size * config.trainer.accumulate
    reference = section.reference_batch_size if section.scale_lr else images
    for_16 = section.lr * 16 / reference if section.name == "sgd" else section.lr
    limit = HIGHEST_LR[section.name]
    if for_16 > limit:
        lr = limit / 2 * (1 if section.name == "adamw" else reference / 16)
        what = f"learning rate {section.lr:g} for {reference} images a step is far above the usual {lr:.2g}"
        yield Finding("warning", "learning-rate-high", what, override={"optimizer.lr": float(f"{lr:.3g}")})


def _steps(config: TrainConfig, num_images: int) -> Iterator[Finding]:
    trainer, warmup = config.trainer, config.schedule.warmup_steps
    steps = trainer.epochs * math.ceil(max(num_images, 1) / (trainer.batch_size * trainer.accumulate))
    steps = min(steps, trainer.max_steps or steps)
    if trainer.max_minutes is None and warmup * 2 > steps:
        what = f"warm-up of {warmup} steps in a training of {steps}"
        yield Finding("warning", "warmup-long", what, override={"schedule.warmup_steps": steps // 10})
    if trainer.batch_size > num_images > 0:
        what = f"a batch of {trainer.batch_size} is more than the {num_images} training images"
        yield Finding("warning", "batch-large", what, override={"trainer.batch_size": num_images})
