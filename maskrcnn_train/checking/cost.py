"""What a training will take here: one step and one detection, timed on this machine, and the part that dominates."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from maskrcnn_train.checking.findings import Finding
from maskrcnn_train.checking.objects import network_objects
from maskrcnn_train.data.order import percent_of_size
from maskrcnn_train.data.splits.splitting import Split
from maskrcnn_train.data.tile_layout import epoch_length
from maskrcnn_train.engine import precision
from maskrcnn_train.engine.optimizer import build_optimizer, set_lr
from maskrcnn_train.engine.plan import Plan
from maskrcnn_train.engine.state import Position
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.prediction.cost import box_head_gflops
from maskrcnn_train.reporting.terminal.progress import duration
from maskrcnn_train.settings.schema import AugmentationConfig, TrainConfig
from maskrcnn_train.structures.batch import Target, to_device

DOMINATES = 0.4  # share of the time from which a part is worth a finding
MOST_OBJECTS = 50  # of the image that is timed


@dataclass
class TimeForecast:
    """Seconds on this machine. step, training, evaluation: of one step at full size, all steps, and one evaluation.

    parts: seconds of a step by part of the model. image: to detect on one image; its_box_head: of these, the ROI box
    head. steps: of the whole training.
    """

    step: float
    training: float
    evaluation: float
    parts: dict[str, float]
    image: float
    its_box_head: float
    steps: int

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {seconds / self.step:.0%}" for name, seconds in self.parts.items())
        return (
            f"a training step takes about {self.step:.2g} s ({parts}), the training of {self.steps} steps "
            f"{duration(self.training)}, an evaluation {duration(self.evaluation)} ({self.image:.2g} s an image)"
        )


def forecast_time(model: MaskRCNN, config: TrainConfig, train: Split, num_val: int) -> TimeForecast:
    """Times one training step and one detection on an image of the usual size. The model is moved to its device."""
    trainer = config.trainer
    device = precision.resolve_device(trainer.device)
    model = precision.to_device(model, device, channels_last=trainer.channels_last)
    images, targets = _usual_image(config, train, device)

    def losses() -> Tensor:
        return _total(model.losses(images, targets).values())

    with precision.autocast(trainer.precision, device):
        model.train()
        step = _seconds(lambda: losses().backward(), model)
        update = _seconds_of_update(model, config)
        alone = {name: _seconds(lambda: part().backward(), model) for name, part in _parts(model, config, images)}  # noqa: B023
        model.eval()
        with torch.inference_mode():
            image = _seconds(lambda: model.detect(images), model)
            its_box_head = _seconds(lambda: _box_head(model, config, config.rpn.nms.post_test), model)
    # alone, the heads get as many proposals as a step draws at most: together the parts may take longer than a step
    shrunk = min(1.0, step / sum(alone.values()))
    per_step = trainer.batch_size * trainer.accumulate
    parts = {name: seconds * shrunk * per_step for name, seconds in alone.items()}
    whole = step * per_step + update
    mean = whole - parts["backbone and FPN"] * (1 - _mean_area(config.augmentation))
    plan = Plan.of(trainer, math.ceil(epoch_length(train, config.data) / trainer.batch_size))
    training = min(plan.steps(Position()) * mean, plan.seconds or math.inf)
    return TimeForecast(
        step=whole,
        training=training,
        evaluation=image * num_val,
        parts=parts | {"optimizer": update},
        image=image,
        its_box_head=min(its_box_head, image),
        steps=round(training / mean),
    )


def _seconds_of_update(model: MaskRCNN, config: TrainConfig) -> float:
    """Of the optimizer's own work; the model has gradients, and keeps its weights."""
    optimizer = build_optimizer(config.optimizer, model, images_per_step=1)
    set_lr(optimizer, 0.0)
    for _ in range(2):  # the first also makes the moments
        began = time.perf_counter()
        optimizer.step()
        precision.wait_for(next(model.parameters()).device)
        seconds = time.perf_counter() - began
    return seconds


def _mean_area(section: AugmentationConfig) -> float:
    """Of the images over the training, as a share of their full size: with augmentation.start_scale they grow."""
    return float(np.mean([(percent_of_size(section, share) / 100) ** 2 for share in np.linspace(0, 1, 101)]))


def _parts(model: MaskRCNN, config: TrainConfig, images: list[Tensor]) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Each part of a training step alone, for one image: its name, and its forward pass as one number."""
    sampling = config.roi_head.sampling
    positives = max(1, int(sampling.batch_size * sampling.positive_fraction))
    yield "backbone and FPN", lambda: _total(model.features(model.prepare(images)))
    yield "ROI box head", lambda: _box_head(model, config, sampling.batch_size)
    if (head := model.roi_heads.mask_head) is not None:
        yield "mask head", lambda: _total([head(_pooled(model, config, positives, config.mask_head.pooler.resolution))])


def _box_head(model: MaskRCNN, config: TrainConfig, proposals: int) -> Tensor:
    pooled = _pooled(model, config, proposals, config.pooler.resolution)
    return _total(model.roi_heads.box_predictor(model.roi_heads.box_head(pooled)))


def _pooled(model: MaskRCNN, config: TrainConfig, count: int, resolution: int) -> Tensor:
    """Noise in place of pooled features: [count, channels, resolution, resolution]."""
    size = count, config.backbone.fpn_channels, resolution, resolution
    return torch.rand(size, device=model.pixel_mean.device, requires_grad=True)


def _total(tensors: Iterable[Tensor]) -> Tensor:
    return torch.stack([each.float().sum() for each in tensors]).sum()


def check_time(forecast: TimeForecast, config: TrainConfig) -> Iterator[Finding]:
    """A ROI box head that takes most of the time, and what a smaller one would save."""
    head = config.roi_head
    layers = f"roi_head.num_convs={head.num_convs}, roi_head.num_fcs={head.num_fcs}"
    share = forecast.parts["ROI box head"] / forecast.step
    if share >= DOMINATES and head.num_convs:
        smaller = replace(config, roi_head=replace(head, num_convs=0, num_fcs=2))
        saved = share * (1 - min(1.0, box_head_gflops(smaller, 1) / box_head_gflops(config, 1)))
        fix = f"roi_head=fc2 would save about {saved:.0%} of a step; so does a lower roi_head.sampling.batch_size"
        yield Finding("advice", "time-box-head", f"{share:.0%} of a step is the ROI box head ({layers})", fix=fix)
    share = forecast.its_box_head / forecast.image
    if share >= DOMINATES:
        what = f"{share:.0%} of the time of an evaluation is the ROI box head on rpn.nms.post_test="
        fix = "after the training, python -m maskrcnn_train.analyze tells what a lower rpn.nms.post_test costs in AP"
        yield Finding("advice", "time-proposals", f"{what}{config.rpn.nms.post_test} proposals", fix=fix)


def _usual_image(config: TrainConfig, train: Split, device: torch.device) -> tuple[list[Tensor], list[Target]]:
    """One image of noise at the median network size, with as many objects as the median image has."""
    objects = network_objects(train, config)
    sizes = objects.sources * objects.scales[:, None]
    height, width = (max(64, int(side)) for side in np.median(sizes, axis=0))
    count = min(MOST_OBJECTS, max(1, int(np.median(objects.per_image))))
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.75, height * 0.75])
    boxes = torch.cat([corners, corners + torch.tensor([width / 4, height / 4])], dim=1)
    masks = torch.zeros(count, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    target: Target = {"boxes": boxes, "labels": torch.ones(count, dtype=torch.int64), "masks": masks}
    return [torch.rand(config.data.channels, height, width, generator=generator).to(device)], to_device(
        [target], device
    )


def _seconds(work: Callable[[], object], model: MaskRCNN) -> float:
    """Of the second of two times: the first also plans and allocates."""
    for _ in range(2):
        model.zero_grad(set_to_none=True)
        began = time.perf_counter()
        work()
        precision.wait_for(next(model.parameters()).device)
        seconds = time.perf_counter() - began
    return seconds
