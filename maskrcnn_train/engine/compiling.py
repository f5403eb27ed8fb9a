"""trainer.compile: the backbone by torch.compile, once for each shape of a batch."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from maskrcnn_train.engine.passes import Pass, replace_passes
from maskrcnn_train.model.backbone import Backbone

MOST_SHAPES = 8  # as many as torch keeps of one function
logger = logging.getLogger("maskrcnn_train")


def compile_backbone(backbone: Backbone) -> None:
    """Compile the forward and backward passes of training.

    Each shape by itself: one program for all of them takes torch three times as long, and again for later shapes.
    """
    compiled = torch.compile(backbone.forward, dynamic=False)

    def announce(_: Pass, __: Tensor, which: str) -> Pass:
        logger.info("compiling the backbone for %s, half a minute or more", which)
        return compiled

    replace_passes(backbone, announce, most=MOST_SHAPES)
