"""Frozen norms folded into the convs before them, for a GPU: no pass over the output of each conv, forward and back.

A processor keeps the norms: where images are small, scaling all weights at each step costs more than scaling the maps.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from maskrcnn_train.model.modes import compute_dtype
from maskrcnn_train.model.norms import FrozenNorm2d
from maskrcnn_train.model.paths import PathRule

Layer = tuple[nn.Conv2d, FrozenNorm2d]


def fold_frozen_norms(resnet: nn.Module, path_for: PathRule) -> None:
    """Each residual block of a ResNet computes with folded norms where the path of its input's device says so.

    The parameters stay where they are. Blocks with other norms are left alone. What is compiled is too: torch.compile
    joins the norms with what stands beside them by itself.
    """
    for block in resnet.modules():
        if isinstance(block, BasicBlock | Bottleneck) and isinstance(block.bn1, FrozenNorm2d):
            block.forward = partial(_forward, block, block.forward, path_for)


def _forward(block: BasicBlock | Bottleneck, plain: Any, path_for: PathRule, x: Tensor) -> Tensor:
    if not path_for(x.device).folds_norms or torch.compiler.is_compiling():
        return cast(Tensor, plain(x))
    layers = _layers(block)
    shortcut = [] if block.downsample is None else [cast(Layer, tuple(block.downsample))]
    weights, shifts = _folded(layers + shortcut)
    out = x
    for (conv, _), weight, shift in zip(layers, weights, shifts, strict=False):
        out = _conv(conv, out if conv is block.conv1 else out.relu_(), weight, shift)
    identity = _conv(shortcut[0][0], x, weights[-1], shifts[-1]) if shortcut else x
    return out.add_(identity).relu_()


def _layers(block: BasicBlock | Bottleneck) -> list[Layer]:
    """The convs of the main branch, each with its norm."""
    layers = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    return cast(list[Layer], [*layers, (block.conv3, block.bn3)] if isinstance(block, Bottleneck) else layers)


def _folded(layers: list[Layer]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights and biases of each conv with its norm, in the precision that convs compute in."""
    kernels: list[Tensor] = [conv.weight for conv, _ in layers]
    dtype = compute_dtype(kernels[0])
    scales, shifts = zip(*(norm.scale_and_shift(dtype) for _, norm in layers), strict=True)
    if torch.is_grad_enabled() and any(kernel.requires_grad for kernel in kernels):
        return list(_Scaled.apply(dtype, scales, *kernels)), list(shifts)
    return _scaled(kernels, scales, dtype), list(shifts)


class _Scaled(torch.autograd.Function):
    """kernel * scale for all kernels of a block."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, scales: tuple[Tensor, ...], *kernels: Tensor) -> tuple[Tensor, ...]:
        ctx.scales = scales
        return tuple(_scaled(kernels, scales, dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        products = [gradient * scale for gradient, scale in zip(gradients, ctx.scales, strict=True)]
        return None, None, *products


def _scaled(kernels: Any, scales: Any, dtype: torch.dtype) -> list[Tensor]:
    """The product is taken in float32 and rounded once, in the same launch."""
    return [
        torch.mul(kernel.detach(), scale, out=torch.empty_like(kernel, dtype=dtype, requires_grad=False))
        for kernel, scale in zip(kernels, scales, strict=True)
    ]


def _conv(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
