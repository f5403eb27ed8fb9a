"""Checks the model that the training would build: its initial weights, and the memory of a step."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from maskrcnn_train.checking.cost import TimeForecast, check_time, forecast_time
from maskrcnn_train.checking.findings import Finding
from maskrcnn_train.checking.objects import at_min_size, largest_size, training_min_size
from maskrcnn_train.data.splits.splitting import Split
from maskrcnn_train.engine.precision import resolve_device, resolve_precision
from maskrcnn_train.model.mask_rcnn import MaskRCNN, build_model
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.model.weights.loading import WeightsReport
from maskrcnn_train.model.weights.pretrained import start_from_weights
from maskrcnn_train.settings.errors import UserError, is_out_of_memory
from maskrcnn_train.settings.optimizers import OPTIMIZERS
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.classes import ClassMap

WORKSPACE = 1.25  # gradients of activations and work areas, on top of what is kept for the backward pass
LIBRARIES = 0.6e9  # bytes that a process holds on a processor before its first step
MOST_OF_IT = 0.9  # share of the memory that a step may take without a finding
SMALLEST = 64  # side of an image; below it a batch norm may see a single value


@dataclass
class MemoryForecast:
    """Bytes. step: of a training step at its peak; available: on the device, None where that cannot be known."""

    step: float
    available: float | None
    device: str

    def __str__(self) -> str:
        there = "" if self.available is None else f" of {self.available / 1e9:.1f} GB"
        return f"about {self.step / 1e9:.1f} GB{there} on {self.device}"


@dataclass
class Forecasts:
    """Of the training that was checked. time: None where nothing was timed, or memory ran out."""

    memory: MemoryForecast
    time: TimeForecast | None


def check_model(
    config: TrainConfig, train: Split, classes: ClassMap, *, num_val: int, timing: bool
) -> tuple[list[Finding], Forecasts]:
    """Initial weights, memory and time, with the model that the training would build."""
    torch.manual_seed(config.seed)
    model = build_model(config, classes.num_classes, objects=classes.objects)
    try:
        report = start_from_weights(model, config, classes.names)
        findings = [] if report is None else list(check_weights(report))
    except UserError as error:
        findings = [Finding("error", "weights", str(error))]
    with torch.device("meta"):
        shapes = build_model(config, classes.num_classes, objects=classes.objects)
    memory = forecast_memory(shapes, config, largest_size(train, config))
    findings += check_memory(memory, config)
    took = None
    try:
        if timing:
            took = forecast_time(model, config, train, num_val)
            findings += check_time(took, config)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        what = f"one image of the usual size, trained and detected on to time it, ran out of memory on {memory.device}"
        fix = "end what else runs there, or train with smaller images or a smaller model"
        findings.append(Finding("error", "memory-of-one", what, override=_smaller_images(config), fix=fix))
    return findings, Forecasts(memory, took)


def check_weights(report: WeightsReport) -> Iterator[Finding]:
    """Which layers the initial weights leave random and why, which classes start fresh, and warnings."""
    reasons: dict[str, list[str]] = {}
    for each in report.reinitialized:
        reasons.setdefault(each.reason, []).append(each.layer)
    for reason, layers in reasons.items():
        fix = f"set {reason} as in the weights to keep them" if "." in reason else ""
        yield Finding("advice", "weights-fresh", f"layers re-initialised: {reason}", "", "layer", layers, fix=fix)
    if fresh_classes := [name for name, source in report.classes.items() if source is None]:
        what = f"classes that {report.origin} does not know: their predictor rows start fresh"
        fix = "weights.class_map={name in the weights: name here}, where they are the same thing"
        yield Finding("advice", "weights-classes", what, "", "class", fresh_classes, fix=fix)
    for warning in report.warnings:
        yield Finding("warning", "weights-differ", warning)


def forecast_memory(model: MaskRCNN, config: TrainConfig, size: tuple[int, int]) -> MemoryForecast:
    """Forecast of one step. size: (height, width) of the largest padded batch. Leaves `model` without its weights.

    Weights, gradients and optimizer are counted; so is what the forward pass keeps for the backward pass, on tensors
    that have a shape and no content, with as many proposals as are sampled.
    """
    device = resolve_device(config.trainer.device)
    number = 4 if resolve_precision(config.trainer.precision, device) == "fp32" else 2
    weights = sum(each.nbytes for each in model.parameters())
    trained = sum(each.nbytes for each in model.parameters() if each.requires_grad)
    moments = OPTIMIZERS[config.optimizer.name].moments
    fixed = weights * (2 if config.trainer.ema else 1) + trained * (1 + moments)
    size = (max(SMALLEST, size[0]), max(SMALLEST, size[1]))
    step = fixed + WORKSPACE * number * _kept_numbers(model.to("meta").train(), config, size)
    return MemoryForecast(step + (LIBRARIES if device.type == "cpu" else 0), _available(device), str(device))


def _kept_numbers(model: MaskRCNN, config: TrainConfig, size: tuple[int, int]) -> int:
    """Numbers that the forward pass of a batch keeps for its backward pass, weights aside."""
    kept: dict[int, Tensor] = {}  # by storage; holding the tensors keeps an address from being used again
    parameters = {each.untyped_storage()._cdata for each in model.parameters()}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in parameters:
            kept[storage] = tensor
        return tensor

    trainer, head = config.trainer, config.roi_head
    proposals = trainer.batch_size * head.sampling.batch_size
    objects = max(1, int(proposals * head.sampling.positive_fraction))
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.device("meta"):
        features = Pyramid(model.backbone(torch.zeros(trainer.batch_size, config.data.channels, *size)))
        model.rpn.head.hidden(features)
        channels, heads = features[0].shape[1], model.roi_heads
        side = config.pooler.resolution
        heads.box_predictor(heads.box_head(torch.zeros(proposals, channels, side, side, requires_grad=True)))
        if heads.mask_head is not None and heads.mask_predictor is not None:
            side = config.mask_head.pooler.resolution
            hidden = heads.mask_head(torch.zeros(objects, channels, side, side, requires_grad=True))
            heads.mask_predictor.logits_of_classes(hidden, torch.ones(objects, dtype=torch.int64))
    return sum(each.untyped_storage().nbytes() // each.element_size() for each in kept.values())


def check_memory(forecast: MemoryForecast, config: TrainConfig) -> Iterator[Finding]:
    """A step that will likely not fit."""
    if forecast.available is not None and forecast.step > MOST_OF_IT * forecast.available:
        what = f"a training step will likely need more memory than there is: {forecast}"
        batch = config.trainer.batch_size
        override = {"trainer.batch_size": batch // 2, "trainer.accumulate": 2 * config.trainer.accumulate}
        if batch == 1:
            override = _smaller_images(config)
        yield Finding("warning", "memory", what, override=override)


def _smaller_images(config: TrainConfig) -> dict[str, Any]:
    return at_min_size(config, max(32, int(0.75 * training_min_size(config)) // 32 * 32))


def _available(device: torch.device) -> float | None:
    """Of the GPU in all; of the machine, what is free now and what the container may use."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    limits = []
    meminfo, container = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text("utf-8").splitlines() if ":" in line)
        limits.append(float(lines["MemAvailable"].split()[0]) * 1024)
    if container.is_file() and (text := container.read_text("utf-8").strip()).isdigit():
        limits.append(float(text))
    return min(limits, default=None)
