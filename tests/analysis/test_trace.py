"""The pass over a split: one precision around all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from maskrcnn_train.analysis.trace import ObjectsOfImages, Trace, trace_batches
from maskrcnn_train.structures.batch import ImageBatch
from maskrcnn_train.structures.classes import ClassMap


class Parts(nn.Module):
    """The stages that a trace asks, without any work."""

    def __init__(self) -> None:
        super().__init__()
        self.rpn = nn.Module()
        self.rpn.predict = lambda features, size: None
        self.prepare = lambda images: SimpleNamespace(padded_size=(1, 1))
        self.features = lambda inputs: []


def test_the_precision_is_entered_once_for_all_batches() -> None:
    """Each time it is entered, all weights are converted anew."""
    entered = 0

    @contextmanager
    def autocast() -> Iterator[None]:
        nonlocal entered
        entered += 1
        yield

    model: Any = Parts()
    loader = [(ImageBatch(torch.zeros(1), [(1, 1)], [(1, 1)]), [{"image_id": number}]) for number in range(3)]
    traces = trace_batches(model, loader, device=torch.device("cpu"), autocast=autocast)  # type: ignore[arg-type]
    for number, trace in enumerate(traces):
        assert trace.image_ids == [number]
        assert torch.is_inference_mode_enabled()
        assert not model.training
    assert entered == 1
    assert model.training
    assert not torch.is_inference_mode_enabled()


def test_crowd_regions_are_no_objects_and_boxes_are_in_network_pixels() -> None:
    region = {"image_id": 1, "category_id": 7, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}
    truth = {"images": [{"id": 1}], "annotations": [region, region | {"area": 32**2, "iscrowd": 1}]}
    objects = ObjectsOfImages(truth, ClassMap(["a"], [7]))
    assert objects.sizes == ["small", "medium"]
    sizes = SimpleNamespace(original_sizes=[(100, 100)], sizes=[(50, 50)])
    own = objects.of(Trace([1], sizes, None, SimpleNamespace(anchors=torch.zeros(1)), 0.0), 0)  # type: ignore[arg-type]
    assert (own.rows, own.labels.tolist(), own.boxes.tolist()) == ([0], [1], [[5, 5, 15, 15]])
