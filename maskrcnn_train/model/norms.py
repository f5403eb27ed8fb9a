"""Norm layers by their name in the config."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class FrozenNorm2d(FrozenBatchNorm2d):  # type: ignore[misc]
    """torchvision's FrozenBatchNorm2d as one kernel: under autocast it stays in bfloat16, where the
    original's product with float32 buffers makes every following tensor float32."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


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
