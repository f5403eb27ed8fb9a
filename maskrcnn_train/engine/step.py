"""One step: forward, backward, and the optimizer, at the configured precision."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_train.config import TrainConfig
from maskrcnn_train.engine import distributed
from maskrcnn_train.engine.precision import autocast, grad_scaler, resolve_precision

Batch = tuple[Any, list[Any]]


class NonFiniteLoss(ValueError):
    """A loss is NaN or infinite; nothing was changed by the step. Carries what is needed to look into it."""

    def __init__(self, step: int, losses: dict[str, float], batch: Batch) -> None:
        ids = [target.get("image_id") for target in batch[1]]
        parts = ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        super().__init__(
            f"loss is not finite at step {step}: {parts}; images {ids}. "
            "Lower optimizer.lr, set trainer.clip_norm, or look at these images"
        )
        self.step, self.losses, self.batch = step, losses, batch


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Any,
    targets: list[Any],
    config: TrainConfig,
) -> dict[str, float]:
    """One optimizer step at the configured precision, for a loop of one's own.

    images, targets: as a loader of `build_loaders` yields them, or torchvision's lists. Returns each loss.
    Raises ValueError (NonFiniteLoss) before anything is changed when a loss is not finite.
    """
    device = next(model.parameters()).device
    precision = resolve_precision(config.trainer.precision, device)
    scaler = grad_scaler(precision, device)
    losses = accumulate_gradients(model, [(images, targets)], scaler=scaler, precision=precision, step=0)
    apply_gradients(model, optimizer, scaler, clip_norm=config.trainer.clip_norm)
    return losses


def accumulate_gradients(
    model: nn.Module, batches: list[Batch], *, scaler: torch.amp.GradScaler, precision: str, step: int
) -> dict[str, float]:
    """Forward and backward over batches whose gradients are averaged. Returns the mean of each loss."""
    device = next(model.parameters()).device
    sums: dict[str, float] = {}
    for index, (images, targets) in enumerate(batches):
        with distributed.without_sync(model, skip=index + 1 < len(batches)):
            with autocast(precision, device):
                losses: dict[str, Tensor] = model(_to_device(images, device), _to_device(targets, device))
            # One transfer for all losses: each `.item()` would wait for the GPU.
            numbers = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
            values = dict(zip(losses, numbers, strict=True))
            if not all(math.isfinite(value) for value in values.values()):
                raise NonFiniteLoss(step, values, (images, targets))
            scaler.scale(torch.stack(list(losses.values())).sum() / len(batches)).backward()
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value / len(batches)
    return sums


def apply_gradients(
    model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler, *, clip_norm: float
) -> float | None:
    """Clip, step, clear. Returns the gradient norm when clipping is on."""
    norm = None
    if clip_norm > 0:
        scaler.unscale_(optimizer)
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), clip_norm))
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm


def _to_device(value: Any, device: torch.device) -> Any:
    """Tensors, image batches and mask crops of a batch onto the device, without waiting."""
    if hasattr(value, "to"):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: _to_device(item, device) for key, item in value.items()}
    return [_to_device(item, device) for item in value] if isinstance(value, list) else value
