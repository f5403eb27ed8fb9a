"""Norm layers by their name in the config."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class FrozenNorm2d(FrozenBatchNorm2d):  # type: ignore[misc]
    """torchvision's FrozenBatchNorm2d as one kernel: under autocast it stays in bfloat16, where the
    original's product with float32 buffers makes every following tensor float32."""

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps)
        self.register_buffer("zeros", torch.zeros(num_features), persistent=False)

    @property
    def numbers(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.running_mean, self.running_var, self.weight, self.bias

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            scaled: Tensor = _FrozenNorm.apply(x, *self.numbers, self.zeros, self.eps)
            return scaled
        return _scaled(x, *self.numbers, self.eps)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """x * scale + shift is this norm: both [C], in the precision of its buffers."""
        mean, var, weight, bias = self.numbers
        scale = weight * (var + self.eps).rsqrt()
        return scale, bias - mean * scale


class _FrozenNorm(torch.autograd.Function):
    """The gradient needs the scale alone. `F.batch_norm` would keep its input for it, the output of each conv, and
    compute it by a kernel that is slower than that of the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, zeros: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(var, weight, zeros)
        ctx.eps = eps
        return _scaled(x, mean, var, weight, bias, eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        var, weight, zeros = ctx.saved_tensors
        return _scaled(gradients[0], zeros, var, weight, zeros, ctx.eps), None, None, None, None, None, None


def _scaled(x: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias."""
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


def group_norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    """GroupNorm in 32 groups (its paper's number), or one a channel where there are fewer."""
    return nn.GroupNorm(min(32, channels), channels, eps=eps)


def norm_layer(name: str, eps: float = 1e-5) -> Callable[..., nn.Module] | None:
    """A constructor that takes the number of channels; None for `none`."""
    layers: dict[str, Callable[..., nn.Module] | None] = {
        "none": None,
        "frozen": partial(FrozenNorm2d, eps=eps),
        "batch": partial(nn.BatchNorm2d, eps=eps),
        "group": partial(group_norm, eps=eps),
    }
    return layers[name]
