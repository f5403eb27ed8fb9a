"""Frozen norms folded into the convs before them, for a GPU: no pass over the output of each conv, forward and back.

A processor keeps the norms: where images are small, scaling all weights at each step costs more than scaling the maps.
A GPU of few images waits for each launch of the host, so the kernels of a whole stage are scaled in one.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from maskrcnn_train.model.kept import Kept
from maskrcnn_train.model.modes import compute_dtype
from maskrcnn_train.model.norms import FrozenNorm2d
from maskrcnn_train.model.paths import PathRule

Tensors = tuple[Tensor, ...] | list[Tensor]
Layer = tuple[nn.Conv2d, FrozenNorm2d]
Constants = tuple[list[Tensor], list[Tensor]]  # x * scale + shift is a norm: scale for a kernel, shift [C]
Folded = tuple[Tensor, Tensor]  # weight and bias of a conv, in the precision that convs compute in


def fold_frozen_norms(resnet: nn.Module, path_for: PathRule) -> None:
    """Each stage of a ResNet computes with folded norms where the path of its input's device says so.

    The parameters stay where they are. Stages with other norms are left alone. What is compiled is too: torch.compile
    joins the norms with what stands beside them by itself. A block that is called alone computes its norms.
    """
    for stage in resnet.children():
        if isinstance(stage, nn.Sequential) and all(map(_is_foldable, stage)):
            for block in stage:
                block.forward = partial(_block, block, block.forward)
            stage.forward = partial(_stage, stage, stage.forward, path_for, Kept())  # type: ignore[method-assign]


def _is_foldable(block: nn.Module) -> bool:
    return isinstance(block, BasicBlock | Bottleneck) and isinstance(block.bn1, FrozenNorm2d)


def _stage(stage: nn.Sequential, plain: Any, path_for: PathRule, kept: Kept[Constants], x: Tensor) -> Tensor:
    """The gradients of a stage come together. Those of the whole backbone would come last of all, and
    DistributedDataParallel could not send some while others are computed."""
    if not path_for(x.device).folds_norms or torch.compiler.is_compiling():
        return cast(Tensor, plain(x))
    layers = [_layers(cast(Any, block)) for block in stage]
    folded = iter(_folded([layer for block in layers for layer in block], kept))
    for block, own in zip(stage, layers, strict=True):
        x = block(x, [next(folded) for _ in own])
    return x


def _block(block: BasicBlock | Bottleneck, plain: Any, x: Tensor, folded: list[Folded] | None = None) -> Tensor:
    """folded: of each of its layers, from its stage. As an argument it is there again when the backward pass computes a
    checkpointed block a second time."""
    if folded is None:
        return cast(Tensor, plain(x))
    convs = [conv for conv, _ in _layers(block)]
    shortcut = None if block.downsample is None else convs.pop()
    out, last = x, convs.pop()
    for conv, own in zip(convs, folded, strict=False):
        out = _conv(conv, out, *own, relu=True)
    identity = x if shortcut is None else _conv(shortcut, x, *folded[-1])
    return _conv(last, out, *folded[len(convs)], add=identity, relu=True)


def _layers(block: BasicBlock | Bottleneck) -> list[Layer]:
    """The convs of the main branch, then that of the shortcut if it has one, each with its norm."""
    layers = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    layers += [(block.conv3, block.bn3)] if isinstance(block, Bottleneck) else []
    return cast(list[Layer], layers if block.downsample is None else [*layers, tuple(block.downsample)])


def _folded(layers: list[Layer], kept: Kept[Constants]) -> list[Folded]:
    """Kept are the scales and shifts of the norms. The scales have the size and layout of the kernels, because
    `_foreach_mul` of other ones is a launch each; they take as much memory as the kernels, 94 MB in a ResNet-50."""
    kernels: list[Tensor] = [conv.weight for conv, _ in layers]
    dtype = compute_dtype(kernels[0])
    buffers = [buffer for _, norm in layers for buffer in norm.numbers]
    state = dtype, tuple(kernel.stride() for kernel in kernels)
    scales, shifts = kept.get(state, buffers, partial(_scales_and_shifts, layers, kernels, dtype))
    if torch.is_grad_enabled() and any(kernel.requires_grad for kernel in kernels):
        return list(zip(_Scaled.apply(dtype, scales, *kernels), shifts, strict=True))
    return list(zip(_scaled(kernels, scales, dtype), shifts, strict=True))


def _scales_and_shifts(layers: list[Layer], kernels: list[Tensor], dtype: torch.dtype) -> Constants:
    pairs = [norm.scale_and_shift() for _, norm in layers]
    scales = [
        torch.empty_like(kernel, requires_grad=False).copy_(scale[:, None, None, None])
        for kernel, (scale, _) in zip(kernels, pairs, strict=True)
    ]
    return scales, [shift.to(dtype) for _, shift in pairs]


class _Scaled(torch.autograd.Function):
    """kernel * scale for all kernels of a stage."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, scales: list[Tensor], *kernels: Tensor) -> tuple[Tensor, ...]:
        ctx.scales = scales
        return tuple(_scaled(kernels, scales, dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *torch._foreach_mul(_rounded(gradients, ctx.scales[0].dtype), ctx.scales)


def _scaled(kernels: Tensors, scales: list[Tensor], dtype: torch.dtype) -> Tensors:
    """The product is taken in float32 and rounded once."""
    return _rounded(torch._foreach_mul(kernels, scales), dtype)


def _rounded(tensors: Tensors, dtype: torch.dtype) -> Tensors:
    if tensors[0].dtype == dtype:
        return tensors
    results = [torch.empty_like(each, dtype=dtype) for each in tensors]
    torch._foreach_copy_(results, tensors)
    return results


def _conv(
    conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor, *, add: Tensor | None = None, relu: bool = False
) -> Tensor:
    """The conv with this weight and bias, plus `add`, through ReLU. A conv of 1 x 1 is a product of its pixels with the
    weight: in 16 bits cuBLAS is called faster than cuDNN, forward and back, and adds the bias by itself. (In float32
    cuDNN rounds to TF32, and cuBLAS does not.)"""
    rows = x.permute(0, 2, 3, 1)
    by_rows = conv.kernel_size == conv.stride == (1, 1) and conv.groups == 1 and weight.itemsize == 2
    if by_rows and rows.is_contiguous():
        # finished before it is seen as maps: in place on a view, autograd would copy
        out = F.linear(rows.flatten(0, 2), weight.flatten(1), bias)
        out = out if add is None else out.add_(add.permute(0, 2, 3, 1).flatten(0, 2))
        return (out.relu_() if relu else out).view(*rows.shape[:3], -1).permute(0, 3, 1, 2)
    out = F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)
    out = out if add is None else out.add_(add)
    return out.relu_() if relu else out
