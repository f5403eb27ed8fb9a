"""Faster passes of the backbone in training, made for one shape of a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from maskrcnn_train.model.backbone import Backbone

Pass = Callable[[Tensor], Sequence[Tensor]]


def replace_passes(backbone: Backbone, make: Callable[[Pass, Tensor, str], Pass], *, most: int) -> None:
    """Let `make` give the forward pass for each of the first `most` shapes; other batches are computed as they are, and
    so are evaluations, whose shapes are others. When other parameters begin to train, all passes are made anew: a graph
    has no gradients but those of its making.

    make: gets the present pass, the first batch of a shape, and words for the log that say which shape it is.
    """
    plain = backbone.forward
    passes: dict[torch.Size, Pass] = {}
    trained: list[bool] = []

    def forward(pixels: Tensor) -> list[Tensor]:
        if not (backbone.training and torch.is_grad_enabled()):
            return plain(pixels)
        if trained != (now := [each.requires_grad for each in backbone.parameters()]):
            passes.clear()
            trained[:] = now
        is_new = pixels.shape not in passes
        if is_new and len(passes) == most:
            return plain(pixels)
        if is_new:
            batch = f"{len(pixels)} images of {pixels.shape[3]} x {pixels.shape[2]}"
            passes[pixels.shape] = make(plain, pixels, f"{batch}: shape {len(passes) + 1} of at most {most}")
        return list(passes[pixels.shape](pixels))

    backbone.forward = forward  # type: ignore[method-assign]
