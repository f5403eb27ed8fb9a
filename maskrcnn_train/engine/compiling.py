"""trainer.compile: the backbone by torch.compile, once for each shape of a batch."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from maskrcnn_train.model.backbone import Backbone

MOST_SHAPES = 8  # as many as torch keeps of one function; batches of other shapes are computed as they are
logger = logging.getLogger("maskrcnn_train")


def compile_backbone(backbone: Backbone) -> None:
    """Compile the forward and backward passes of training. Evaluations, whose shapes are others, are left as they are.

    Each shape by itself: one program for all of them takes torch three times as long, and again for later shapes.
    """
    plain = backbone.forward
    compiled = torch.compile(plain, dynamic=False)
    shapes: set[torch.Size] = set()

    def forward(pixels: Tensor) -> list[Tensor]:
        is_new = pixels.shape not in shapes
        if not backbone.training or (is_new and len(shapes) == MOST_SHAPES):
            return plain(pixels)
        if is_new:
            shapes.add(pixels.shape)
            batch = f"{len(pixels)} images of {pixels.shape[3]} x {pixels.shape[2]}"
            which = f"shape {len(shapes)} of at most {MOST_SHAPES}"
            logger.info("compiling the backbone for %s: %s, half a minute or more", batch, which)
        maps: list[Tensor] = compiled(pixels)
        return maps

    backbone.forward = forward  # type: ignore[method-assign]
