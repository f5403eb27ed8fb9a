"""trainer.capture: forward and backward pass of the backbone as CUDA graphs, one for each shape of a batch.

Where a step has few images, the host needs longer to launch its operations than the GPU to compute them. A graph is
launched as one.
"""

from __future__ import annotations

import logging
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_train.engine.passes import Pass, replace_passes
from maskrcnn_train.engine.state import RunningStatistics
from maskrcnn_train.model.backbone import Backbone

MOST_SHAPES = 16  # a graph keeps the maps and gradients of its shape on the GPU
logger = logging.getLogger("maskrcnn_train")


class _Convs(nn.Module):
    """The backbone as a module that gives a tuple, as graphs need it."""

    def __init__(self, backbone: Backbone, forward: Pass) -> None:
        super().__init__()
        self.backbone, self.plain = backbone, forward

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.plain(pixels))


def capture_backbone(backbone: Backbone) -> None:
    """Capture the passes of training. Needs a GPU, one process, and one batch a step: the gradients of a graph are at
    one place, where the next batch overwrites them."""
    pool = torch.cuda.graph_pool_handle()

    def capture(plain: Pass, pixels: Tensor, which: str) -> Pass:
        captured = _captured(backbone, plain, pixels, pool)
        logger.info("captured the backbone for %s", which)
        return captured

    replace_passes(backbone, capture, most=MOST_SHAPES)


def _captured(backbone: Backbone, plain: Pass, pixels: Tensor, pool: tuple[int, int]) -> Pass:
    """Trial runs come before the capture: they count for no batch norm."""
    statistics = RunningStatistics(backbone)
    warn = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
    if warn is not None:
        warn(False)  # gradients come from the stream of the capture, and torch waits for it
    dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    make: Any = torch.cuda.make_graphed_callables
    # other threads pin batches and checkpoints meanwhile; older versions of torch fail at that
    alone = {"capture_error_mode": "thread_local"} if "capture_error_mode" in signature(make).parameters else {}
    # autocast keeps the weights that it has converted for a step: a graph would never convert them again
    with torch.autocast("cuda", dtype, enabled, cache_enabled=False):
        captured: Pass = make(_Convs(backbone, plain), (pixels.clone(),), pool=pool, **alone)
    statistics.put_back()
    return captured
