"""The time of the whole model with other test-time settings, measured rather than added up from its stages."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch

from maskrcnn_train.analysis.budgets import Setting
from maskrcnn_train.analysis.trace import now
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.modes import evaluating
from maskrcnn_train.structures.batch import ImageBatch, Target


def time_settings(
    model: MaskRCNN,
    settings: Mapping[str, Setting],
    loader: Iterable[tuple[ImageBatch, list[Target]]],
    num_images: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> dict[str, float]:
    """Median milliseconds of an image with each of the named settings, taken in turn on the first `num_images`."""
    seconds: dict[Setting, list[float]] = {setting: [] for setting in settings.values()}
    left = num_images
    with evaluating(model), torch.inference_mode(), autocast():
        for images, _ in loader if num_images else ():
            batch = images.to(device)
            model.detect(batch)  # untimed: the first pass over an image size costs more
            for setting, own in seconds.items():
                budget, rules = setting.budget(model.rpn.test_budget), setting.rules(model.roi_heads.rules)
                began = now(device)
                model.detect(batch, budget=budget, rules=rules)
                own.append((now(device) - began) / len(batch))
            left -= len(batch)
            if left <= 0:
                break
    return {name: 1000 * statistics.median(seconds[each]) for name, each in settings.items() if seconds[each]}
