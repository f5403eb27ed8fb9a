"""The exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

EVERY = 4  # steps between updates: reading and writing every weight at each one costs a tenth of a small model's time


class MovingAverage:
    """A copy of a model whose weights follow it slowly; evaluated and saved in its place.

    decay: share of the old average kept at each step; it starts low and grows to this value, so that
    the random initial weights are forgotten ((1 + step) / (10 + step), as in the TensorFlow rule). Every fourth step
    makes up for four.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        if step % EVERY:
            return
        decay = min(self.decay, (1 + step) / (10 + step)) ** EVERY
        for average, current in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.dtype.is_floating_point:
                average.lerp_(current, 1 - decay)  # on a processor eight times faster than the `foreach` form
            else:
                average.copy_(current)  # counters of batch norm
