"""A trained model ready for use: the network, its classes, and the configuration that it was built from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from maskrcnn_train.composing import config_from_plain
from maskrcnn_train.config import TestMaskHeadConfig, TestROIHeadConfig, TestRPNConfig, TrainConfig
from maskrcnn_train.data.classes import ClassMap
from maskrcnn_train.engine import precision
from maskrcnn_train.engine.checkpoint import read_checkpoint
from maskrcnn_train.model.mask_rcnn import MaskRCNN, build_model


class TestSettings(Protocol):
    """Settings that may differ between training and use; None leaves them as trained."""

    rpn: TestRPNConfig
    roi_head: TestROIHeadConfig
    mask_head: TestMaskHeadConfig


@dataclass
class Predictor:
    """model: in eval mode on its device. classes: label -> category id and name. config: what it was built from."""

    model: MaskRCNN
    classes: ClassMap
    config: TrainConfig

    @classmethod
    def from_model(cls, model: MaskRCNN, config: TrainConfig, class_names: list[str]) -> Predictor:
        """A predictor around a model of one's own; class_names: label 1 first."""
        if len(class_names) + 1 != model.num_classes:
            raise ValueError(
                f"the model has {model.num_classes - 1} classes without the background, not {len(class_names)}"
            )
        classes = ClassMap(list(class_names), list(range(1, len(class_names) + 1)))
        return cls(model.eval(), classes, config)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device


def load_checkpoint(
    path: Path | str, *, device: str = "auto", number_format: str | None = None, settings: TestSettings | None = None
) -> Predictor:
    """The model of a checkpoint of ours, its moving average if it has one.

    number_format: `trainer.precision` to compute in; None: as trained. settings: budgets and thresholds to use instead
    of those in the checkpoint. Raises ValueError for a missing, damaged or foreign file, or a device that is not there.
    """
    content = read_checkpoint(Path(path))
    config = config_from_plain(content["config"])
    if settings is not None:
        apply_test_settings(config, settings)
    if number_format is not None:
        config.trainer = replace(config.trainer, precision=number_format)
    classes = ClassMap.from_plain(content["classes"])
    model = build_model(config, classes.num_classes)
    model.load_state_dict(content.get("ema") or content["model"])
    place = precision.resolve_device(device)
    model = precision.place(model, place, channels_last=config.trainer.channels_last)
    return Predictor(model.eval(), classes, config)


def apply_test_settings(config: TrainConfig, settings: TestSettings) -> None:
    """Put every setting that is not None into the configuration."""
    pairs = (
        (settings.rpn.nms, config.rpn.nms),
        (settings.roi_head, config.roi_head),
        (settings.mask_head, config.mask_head),
    )
    for section, target in pairs:
        for key, value in vars(section).items():
            if value is not None:
                setattr(target, key, value)
