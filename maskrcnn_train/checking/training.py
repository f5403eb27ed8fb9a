"""Checks learning rate, batch size and length of the training."""

from __future__ import annotations

import math

from maskrcnn_train.checking.findings import Finding
from maskrcnn_train.settings.schema import TrainConfig

HIGHEST_LR = {"sgd": 0.04, "adamw": 1e-3}  # sgd: for 16 images a step; twice the usual
FROM_NOTHING = 2000  # training images, below which pretrained weights help much


def check_training(config: TrainConfig, num_images: int) -> list[Finding]:
    """Settings of the training against each other and against the number of training images."""
    return [
        *_learning_rate(config),
        *_length(config, num_images),
        *_batch(config, num_images),
        *_start(config, num_images),
    ]


def _learning_rate(config: TrainConfig) -> list[Finding]:
    section = config.optimizer
    images = config.trainer.batch_size * config.trainer.accumulate
    reference = section.reference_batch_size if section.scale_lr else images
    for_16 = section.lr * 16 / reference if section.name == "sgd" else section.lr
    limit = HIGHEST_LR[section.name]
    if for_16 <= limit:
        return []
    lr = limit / 2 * (1 if section.name == "adamw" else reference / 16)
    what = f"learning rate {section.lr:g} for {reference} images a step is far above the usual {lr:.2g}"
    return [Finding("warning", "learning-rate-high", what, override={"optimizer.lr": float(f"{lr:.3g}")})]


def _length(config: TrainConfig, num_images: int) -> list[Finding]:
    trainer, warmup = config.trainer, config.schedule.warmup_steps
    images = trainer.batch_size * trainer.accumulate
    steps = trainer.epochs * math.ceil(max(num_images, 1) / images)
    steps = min(steps, trainer.max_steps or steps)
    if trainer.max_minutes is not None or warmup * 2 <= steps:
        return []
    what = f"warm-up of {warmup} steps in a training of {steps}"
    return [Finding("warning", "warmup-long", what, override={"schedule.warmup_steps": steps // 10})]


def _batch(config: TrainConfig, num_images: int) -> list[Finding]:
    trainer, norm = config.trainer, config.backbone.norm
    findings = []
    if trainer.batch_size > num_images > 0:
        what = f"a batch of {trainer.batch_size} is more than the {num_images} training images"
        override = {"trainer.batch_size": num_images}
        findings.append(Finding("warning", "batch-large", what, override=override))
    trains_norms = norm == "batch" or (norm == "auto" and config.weights.source == "none")
    if trains_norms and trainer.batch_size == 1 and not trainer.sync_batchnorm:
        what = "batch norms take their statistics from single images"
        findings.append(Finding("warning", "norm-of-one", what, override={"backbone.norm": "group"}))
    return findings


def _start(config: TrainConfig, num_images: int) -> list[Finding]:
    if config.weights.source != "none" or config.data.name == "shapes" or not 0 < num_images < FROM_NOTHING:
        return []
    what = f"random initial weights with {num_images} training images"
    fix = "weights=coco gains more still, where the backbone is resnet50"
    return [Finding("advice", "weights-none", what, override={"weights.source": "imagenet"}, fix=fix)]
