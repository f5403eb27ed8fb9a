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
        if not backbone.training:
            return plain(pixels)
        if pixels.shape not in shapes:
            if len(shapes) == MOST_SHAPES:
                return plain(pixels)
            shapes.add(pixels.shape)
            count, _, height, width = pixels.shape
            logger.info(
                "compiling the backbone for %d images of %d x %d: shape %d of at most %d, half a minute or more",
                count,
                width,
                height,
                len(shapes),
                MOST_SHAPES,
            )
        maps: list[Tensor] = compiled(pixels)
        return maps

    backbone.forward = forward  # type: ignore[method-assign]
