"""Modes that a model is in: training, evaluation, and tracing for an export."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside, each in its own mode again afterwards (a frozen norm stays in eval)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def is_tracing() -> bool:
    """Whether the model is traced for an export: a Python number that depends on the image would become a constant."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def compute_dtype(values: Tensor) -> torch.dtype:
    """In which convs and matrix products compute there: that of autocast, or that of the values."""
    kind = values.device.type
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)  # not on the meta device
    return torch.get_autocast_dtype(kind) if enabled else values.dtype
