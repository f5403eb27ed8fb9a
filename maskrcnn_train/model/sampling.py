"""Sampling: which anchors and proposals enter a loss."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_balanced(labels: Tensor, batch_size: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Random indices of positives and of negatives, each ascending: int64 [P], [Q] with P + Q <= batch_size.

    labels: [B]; >= 1 positive, 0 negative, < 0 ignored. The fraction is a cap: few positives leave room for
    negatives, few negatives are not replaced. Draws as torchvision's sampler does, so that the same seed
    gives the same samples.
    """
    positives, negatives = torch.where(labels >= 1)[0], torch.where(labels == 0)[0]
    num_positives = min(len(positives), int(batch_size * positive_fraction))
    num_negatives = min(len(negatives), batch_size - num_positives)
    return _draw(positives, num_positives), _draw(negatives, num_negatives)


def _draw(indices: Tensor, count: int) -> Tensor:
    order = torch.randperm(len(indices), device=indices.device)[:count]
    return indices[order].sort().values
