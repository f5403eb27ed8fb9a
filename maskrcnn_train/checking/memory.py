"""Forecasts the memory of a training step before one is taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from maskrcnn_train.checking.findings import Finding
from maskrcnn_train.engine.precision import resolve_device, resolve_precision
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.settings.schema import TrainConfig

WORKSPACE = 1.25  # gradients of activations and work areas, on top of what is kept for the backward pass
LIBRARIES = 0.6e9  # bytes that a process holds on a processor before its first step
MOST_OF_IT = 0.9  # share of the memory that a step may take without a finding
FULL = 4  # bytes of a float32
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


def forecast_memory(model: MaskRCNN, config: TrainConfig, size: tuple[int, int]) -> MemoryForecast:
    """Forecast of one step. size: (height, width) of the largest padded image. Leaves `model` without its weights.

    Weights, gradients and optimizer are counted; so is what the forward pass keeps for the backward pass, on tensors
    that have a shape and no content, with as many proposals as are sampled.
    """
    device = resolve_device(config.trainer.device)
    number = FULL if resolve_precision(config.trainer.precision, device) == "fp32" else FULL // 2
    weights = sum(each.numel() for each in model.parameters()) * FULL
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad) * FULL
    moments = {"sgd": 1, "adamw": 2}[config.optimizer.name]
    fixed = weights * (2 if config.trainer.ema else 1) + trained * (1 + moments)
    size = (max(SMALLEST, size[0]), max(SMALLEST, size[1]))
    kept = _kept_numbers(model.to("meta").train(), config, size) * number
    return MemoryForecast(
        fixed + WORKSPACE * kept + (LIBRARIES if device.type == "cpu" else 0), _available(device), str(device)
    )


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
        features = model.backbone(torch.zeros(trainer.batch_size, 3, *size))
        model.rpn.head.hidden(features)
        channels, heads = features[0].shape[1], model.roi_heads
        side = config.pooler.resolution
        heads.box_predictor(heads.box_head(torch.zeros(proposals, channels, side, side, requires_grad=True)))
        if heads.mask_head is not None and heads.mask_predictor is not None:
            side = config.mask_head.pooler.resolution
            hidden = heads.mask_head(torch.zeros(objects, channels, side, side, requires_grad=True))
            heads.mask_predictor.of_classes(hidden, torch.ones(objects, dtype=torch.int64))
    return sum(each.untyped_storage().nbytes() // each.element_size() for each in kept.values())


def check_memory(forecast: MemoryForecast, config: TrainConfig) -> list[Finding]:
    """A step that will likely not fit."""
    if forecast.available is None or forecast.step <= MOST_OF_IT * forecast.available:
        return []
    batch = config.trainer.batch_size
    what = f"a training step will likely need more memory than there is: {forecast}"
    if batch == 1:
        smaller = int(0.75 * config.data.min_size) // 32 * 32
        override = {"data.min_size": max(32, smaller)}
    else:
        override = {"trainer.batch_size": batch // 2, "trainer.accumulate": 2 * config.trainer.accumulate}
    return [Finding("warning", "memory", what, override=override)]


def _available(device: torch.device) -> float | None:
    """Of the GPU in all; of the machine, what is free now and what the container may use."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    limits = []
    meminfo, container = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines() if ":" in line)
        limits.append(float(lines["MemAvailable"].split()[0]) * 1024)
    if container.is_file() and (text := container.read_text().strip()).isdigit():
        limits.append(float(text))
    return min(limits, default=None)
