"""trainer.capture: forward and backward pass of the backbone as CUDA graphs, one for each shape of a batch.

Where a step has few images, the host needs longer to launch its operations than the GPU to compute them. A graph is
launched as one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_train.engine.state import RunningStatistics
from maskrcnn_train.model.backbone import Backbone

MOST_SHAPES = 16  # a graph keeps the maps and gradients of its shape on the GPU; other batches are computed as they are
Forward = Callable[[Tensor], list[Tensor]]
Graph = Callable[[Tensor], tuple[Tensor, ...]]
logger = logging.getLogger("maskrcnn_train")


class _Convs(nn.Module):
    """The backbone as a module that gives a tuple, as graphs need it."""

    def __init__(self, backbone: Backbone, forward: Forward) -> None:
        super().__init__()
        self.backbone, self.plain = backbone, forward

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.plain(pixels))


def capture_backbone(backbone: Backbone) -> None:
    """Capture the passes of training; evaluations are left as they are. Needs a GPU, one process, and one batch a step:
    the gradients of a graph are at one place, where the next batch overwrites them."""
    plain, pool = backbone.forward, torch.cuda.graph_pool_handle()
    graphs: dict[torch.Size, Graph] = {}

    def forward(pixels: Tensor) -> list[Tensor]:
        is_new = pixels.shape not in graphs
        if not (backbone.training and torch.is_grad_enabled()) or (is_new and len(graphs) == MOST_SHAPES):
            return plain(pixels)
        if is_new:
            graphs[pixels.shape] = _captured(backbone, plain, pixels, pool)
            batch = f"{len(pixels)} images of {pixels.shape[3]} x {pixels.shape[2]}"
            logger.info("captured the backbone for %s: shape %d of at most %d", batch, len(graphs), MOST_SHAPES)
        return list(graphs[pixels.shape](pixels))

    backbone.forward = forward  # type: ignore[method-assign]


def _captured(backbone: Backbone, plain: Forward, pixels: Tensor, pool: tuple[int, int]) -> Graph:
    """Trial runs come before the capture: they count for no batch norm."""
    statistics = RunningStatistics(backbone)
    warn = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)
    if warn is not None:
        warn(False)  # gradients come from the stream of the capture, and torch waits for it
    dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    # autocast keeps the weights that it has converted for a step: a graph would never convert them again
    with torch.autocast("cuda", dtype, enabled, cache_enabled=False):
        convs = _Convs(backbone, plain).train()
        make: Any = torch.cuda.make_graphed_callables
        # other threads pin batches and checkpoints meanwhile; older versions of torch fail at that
        alone = {"capture_error_mode": "thread_local"} if "capture_error_mode" in signature(make).parameters else {}
        captured: Graph = make(convs, (pixels.clone(),), pool=pool, **alone)
    statistics.put_back()
    return captured
