"""Timing: on how many images, in which order, and with the model left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from planted_model import BUDGET, RULES, SETTING
from torch import nn

from maskrcnn_train.analysis.budgets import time_settings
from maskrcnn_train.model.outputs import DetectionRules
from maskrcnn_train.model.proposals import ProposalBudget
from maskrcnn_train.structures.batch import ImageBatch, Target

FAST = replace(SETTING, post_test=10, detections_per_image=5)


class Recorder(nn.Module):
    """Writes down for each pass what it was given and with which budgets."""

    def __init__(self) -> None:
        super().__init__()
        self.rpn, self.roi_heads = nn.Module(), nn.Module()
        self.rpn.test_budget, self.roi_heads.rules = BUDGET, RULES
        self.passes: list[tuple[int, int, int]] = []

    def detect(self, images: ImageBatch, budget: ProposalBudget = BUDGET, rules: DetectionRules = RULES) -> None:
        self.passes.append((int(images.pixels.sum()), budget.post_nms, rules.count))


def timed(num_images: int, settings: dict[str, Any]) -> tuple[dict[str, float], Recorder, int]:
    """Times, the model, and how many of the five batches of two images were loaded."""
    loaded = 0

    def loader() -> Iterator[tuple[ImageBatch, list[Target]]]:
        nonlocal loaded
        for number in range(5):
            loaded += 1
            yield ImageBatch(torch.full((1,), number), [(1, 1)] * 2, [(1, 1)] * 2), []

    model = Recorder()
    times = time_settings(model, settings, loader(), num_images, torch.device("cpu"), nullcontext)  # type: ignore[arg-type]
    return times, model, loaded


def test_every_batch_is_passed_once_untimed_and_then_with_each_setting() -> None:
    times, model, _ = timed(4, {"trained": SETTING, "best": SETTING, "fast": FAST})
    untimed = (BUDGET.post_nms, RULES.count)
    each = [untimed, (SETTING.post_test, SETTING.detections_per_image), (FAST.post_test, FAST.detections_per_image)]
    assert model.passes == [(batch, *budgets) for batch in (0, 1) for budgets in each]
    assert times["trained"] == times["best"] > 0  # one setting, timed once
    assert times["fast"] > 0
    assert (model.rpn.test_budget, model.roi_heads.rules) == (BUDGET, RULES)


@pytest.mark.parametrize(("num_images", "batches"), [(0, 0), (1, 1), (2, 1), (3, 2), (100, 5)])
def test_images_are_counted_and_no_more_batches_loaded_than_needed(num_images: int, batches: int) -> None:
    times, _, loaded = timed(num_images, {"trained": SETTING})
    assert loaded == batches
    assert list(times) == ["trained"] * (batches > 0)
