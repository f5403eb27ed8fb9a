"""Gradient checkpointing (Chen et al. 2016): less memory for a second forward pass through the backbone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from maskrcnn_train.settings.errors import UserError


def checkpoint_activations(body: nn.Module) -> None:
    """Of each block of a backbone's body keep the input only, and compute the rest again in the backward pass.

    Losses, gradients and the statistics of batch norms stay the same. Raises UserError for a body without blocks.
    """
    blocks = list(_blocks(body))
    if not blocks:
        raise UserError("trainer.checkpoint_activations=true finds no blocks in this backbone; leave it out")
    for block in blocks:
        block.forward = partial(_checkpointed, block, block.forward)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """What stands in a row inside the body: residual blocks, for one; single layers are left out."""
    for child in module.children():
        if isinstance(module, nn.Sequential) and any(True for _ in child.children()):
            yield child
        else:
            yield from _blocks(child)


def _checkpointed(block: nn.Module, forward: Any, *inputs: Any) -> Any:
    if not (block.training and torch.is_grad_enabled()):
        return forward(*inputs)
    if torch.compiler.is_compiling():  # the compiler counts a batch once by itself, and knows no such contexts
        return checkpoint(forward, *inputs, use_reentrant=False)
    return checkpoint(  # contexts of the first pass and of the second
        forward, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _keeping_statistics(block))
    )


@contextmanager
def _keeping_statistics(block: nn.Module) -> Iterator[None]:
    """Batch norms count a batch once: inside, they leave their running statistics alone."""
    norms = [each for each in block.modules() if isinstance(each, _BatchNorm) and each.training]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
