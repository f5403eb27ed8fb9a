"""The time of the whole model with other test-time settings, measured rather than added up from its stages."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch

from maskrcnn_train.analysis.budgets import Setting
from maskrcnn_train.analysis.trace import now
from maskrcnn_train.evaluation.detect import evaluating
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.outputs import DetectionRules
from maskrcnn_train.structures.batch import ImageBatch, Target


def time_settings(
    model: MaskRCNN,
    settings: Mapping[str, Setting],
    loader: Iterable[tuple[ImageBatch, list[Target]]],
    *,
    num_images: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> dict[str, float]:
    """Median milliseconds of an image with each of the named settings, taken in turn on the first `num_images`."""
    seconds: dict[Setting, list[float]] = {setting: [] for setting in settings.values()}
    with evaluating(model), torch.inference_mode(), autocast():
        for images in _first_batches(loader, num_images):
            batch = images.to(device)
            model(batch)  # untimed: the first pass over an image size costs more
            for setting, own in seconds.items():
                with applied(model, setting):
                    began = now(device)
                    model(batch)
                    own.append((now(device) - began) / len(batch))
    return {name: 1000 * statistics.median(seconds[each]) for name, each in settings.items() if seconds[each]}


def _first_batches(loader: Iterable[tuple[ImageBatch, list[Target]]], num_images: int) -> Iterator[ImageBatch]:
    """Whole batches until `num_images` were in them."""
    if num_images == 0:
        return
    for images, _ in loader:
        yield images
        num_images -= len(images)
        if num_images <= 0:
            return


@contextmanager
def applied(model: MaskRCNN, setting: Setting) -> Iterator[None]:
    """The budgets of a setting in a model, for as long as the context lasts."""
    budget, rules = model.rpn.test_budget, model.roi_heads.rules
    model.rpn.test_budget = replace(
        budget, pre_nms=setting.pre_test, post_nms=setting.post_test, nms_threshold=setting.rpn_threshold
    )
    model.roi_heads.rules = DetectionRules(
        setting.score_threshold, setting.nms_threshold, setting.detections_per_image, rules.min_size
    )
    try:
        yield
    finally:
        model.rpn.test_budget, model.roi_heads.rules = budget, rules
