"""How often the host waits for a GPU and what it launches there, found without one.

Fake tensors hold no data: an operation whose result or shape follows from data raises. The waits that are meant pass
through `waits.read_later` and through NMS of an image, and are answered here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from launches import SMALL, counted, our_step, torchvision_step
from small_model import small_config
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from maskrcnn_train import build_model
from maskrcnn_train.engine.optimizer import build_optimizer
from maskrcnn_train.engine.step import training_step
from maskrcnn_train.model import mask_rcnn
from maskrcnn_train.model.fixed_shape import detections, mask_targets
from maskrcnn_train.model.paths import FIXED, FOLLOWING, always_fixed, path_for
from maskrcnn_train.model.sampling import Samples
from maskrcnn_train.structures import waits
from maskrcnn_train.structures.batch import ImageBatch, MaskCrops, Target, to_device

SETTINGS = {
    "default": (),
    "torchvision's heads": ("experiment=torchvision_v1", "roi_head.fc_dim=32"),
    "class-agnostic heads, IoU losses": (
        "roi_head.class_agnostic=true",
        "mask_head.class_agnostic=true",
        "roi_head.box_loss=ciou",
        "rpn.box_loss=giou",
    ),
}
FOUND = 7  # what every count is said to be


class Waits(TorchDispatchMode):
    """Counts the reads of the host, and copies between it and a GPU that wait for their end."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and not (kwargs or {}).get("non_blocking"):
            devices = {args[0].device.type, result.device.type}
        elif func is torch.ops.aten.copy_.default:
            devices = {args[0].device.type, args[1].device.type}
        else:
            return result
        if len(devices) > 1:
            self.reads.append(f"copy of {tuple(result.shape)}")
        return result

    def read_later(self, numbers: Tensor) -> Callable[[], list[Any]]:
        answer: list[Any] = [FOUND] * len(numbers)
        if not self.reads:
            answer[0] = 0  # suppression has ended
        if numbers.is_floating_point():
            answer = [1.5] * len(numbers)  # losses
        self.reads.append(f"read of {tuple(numbers.shape)}")
        return lambda: answer

    def nms(self, boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
        self.reads.append(f"nms of {len(boxes)}")
        return torch.arange(len(boxes), device=boxes.device)


@contextmanager
def counted_waits(device: str) -> Iterator[Waits]:
    """Fake tensors on `device`, where everything that waits unseen raises; what the host reads of its own is real."""
    counted = Waits()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waits, "read_later", counted.read_later)
        patch.setattr(detections, "nms", counted.nms)
        for module, name in ((mask_rcnn, "checked_targets"), (mask_targets, "_table")):
            patch.setattr(module, name, on_the_host(getattr(module, name)))
        with FakeTensorMode(allow_non_fake_inputs=True), torch.device(device):
            yield counted


def on_the_host(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        with unset_fake_temporarily():  # a fake tensor among the arguments still raises where it is read
            return function(*arguments, **options)

    return call


def host_targets(num_images: int) -> list[Target]:
    """Real tensors on the host, as a loader gives them."""
    with unset_fake_temporarily(), torch.device("cpu"):
        return [host_target(image) for image in range(num_images)]


def host_target(image: int) -> Target:
    crop_boxes = torch.tensor([[3, 4, 33, 44], [10, 10, 90, 60]])
    crops = MaskCrops(torch.ones(5200, dtype=torch.uint8), crop_boxes, torch.tensor([0, 1200, 5200]), (64, 96))
    target: Target = {"boxes": crop_boxes.float(), "labels": torch.tensor([1, 2]), "masks": crops, "image_id": image}
    if image % 2:  # regions to ignore cost no wait
        target["ignored"] = crop_boxes[:1].float() + image
    return target


def images_on_the_device(num_images: int) -> ImageBatch:
    pixels = torch.zeros(num_images, 3, 64, 96, dtype=torch.uint8)
    return ImageBatch(pixels, [(64, 96)] * num_images, [(64, 96)] * num_images)


@pytest.mark.parametrize(
    ("settings", "device"),
    [("default", "cuda"), ("torchvision's heads", "cpu"), ("class-agnostic heads, IoU losses", "cuda")],
)
def test_losses_wait_twice_and_detection_twice_and_once_an_image(settings: str, device: str) -> None:
    with counted_waits(device) as counted:
        config = small_config(*SETTINGS[settings])
        model = build_model(config, 4, path_for=always_fixed if device == "cpu" else path_for)
        for num_images in (1, 4):
            images = images_on_the_device(num_images)
            counted.reads.clear()
            with counted:
                losses = model.train()(images, host_targets(num_images))
            assert {loss.device.type for loss in losses.values()} == {device}
            assert counted.reads == [f"read of ({1 + num_images},)", "read of (1,)"]
            counted.reads.clear()
            with torch.no_grad(), counted:
                found = model.eval()(images)
            assert [tuple(each["masks"].shape[:2]) for each in found] == [(FOUND, 1)] * num_images
            nms = [f"nms of {FOUND}"] * num_images
            assert counted.reads == [f"read of ({1 + num_images},)", f"read of ({num_images},)", *nms]


@pytest.mark.parametrize("optimizer_name", ["sgd", "muon"])
def test_a_whole_training_step_waits_three_times(optimizer_name: str) -> None:
    with counted_waits("cpu") as counted:
        config = small_config("trainer.precision=bf16", f"optimizer={optimizer_name}")
        model = build_model(config, 4, path_for=always_fixed).train()
        optimizer = build_optimizer(config.optimizer, model, images_per_step=2)
        losses = training_step(model, optimizer, images_on_the_device(2), host_targets(2), config)
    assert list(losses.values()) == [1.5] * 5
    assert counted.reads == ["read of (3,)", "read of (1,)", "read of (6,)"]


@pytest.mark.parametrize("training", [True, False])
def test_the_path_of_a_processor_would_wait(training: bool) -> None:
    with counted_waits("cuda"):
        model = build_model(small_config(), 4, path_for=lambda device: FOLLOWING).train(training)
        images = images_on_the_device(2)
        with pytest.raises(DynamicOutputShapeException), torch.no_grad():
            model(images, host_targets(2) if training else None)


def test_mask_targets_need_no_gradient_and_are_pooled_by_the_operator_where_only_deterministic_ones_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pooling = sys.modules["torchvision.ops.roi_align"]
    monkeypatch.setattr(pooling, "is_compile_supported", lambda device: True)
    monkeypatch.setattr(pooling, "_roi_align", None)  # torchvision's Python form, which a GPU gets then
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    with counted_waits("cuda"):
        numbers, rois = torch.zeros(3, dtype=torch.int64), torch.zeros(3, 5)
        targets = to_device(host_targets(1), rois.device)
        foreground = Samples(rois, numbers, numbers + 1, rois[:, 1:])
        found = FIXED.mask_targets(targets, foreground, 28, rule="soft")
    assert tuple(found.shape) == (3, 28, 28)


def test_launches_hardly_grow_with_the_number_of_objects() -> None:
    """On the path of a processor 31 objects an image instead of 2 and 5 take a thousand launches more."""
    few, many = (counted(our_step(counts, *SMALL)).operations.total() for counts in ([2, 5], [31, 31]))
    assert many - few < 20
    assert many < 650


@pytest.mark.slow
def test_a_step_launches_less_than_half_of_torchvisions() -> None:
    ours = counted(our_step([31, 31], "experiment=torchvision_v1")).operations.total()
    assert ours < 0.5 * counted(torchvision_step([31, 31])).operations.total()
