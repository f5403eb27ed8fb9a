"""The stages of the model that exist twice, and which of the two a device takes. All others are the same code.

On a processor shapes follow the data: there are as many rows as proposals, samples or pairs. A GPU runs behind the
host, and would have to be waited for at each such number; there shapes are fixed, and masks say which rows count. A
processor has nothing to wait for, and would compute the rows that do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from maskrcnn_train.model import mask_targets, outputs, proposals, roi_align, sampling
from maskrcnn_train.model.fixed_shape import detections as fixed_detections
from maskrcnn_train.model.fixed_shape import mask_targets as fixed_mask_targets
from maskrcnn_train.model.fixed_shape import pooling as fixed_pooling
from maskrcnn_train.model.fixed_shape import proposals as fixed_proposals
from maskrcnn_train.model.fixed_shape import sampling as fixed_sampling
from maskrcnn_train.model.proposals import ProposalBudget, Proposals, RPNPredictions
from maskrcnn_train.model.roi_align import PoolingRules
from maskrcnn_train.model.sampling import AnchorSamples, Samples, SamplingRules
from maskrcnn_train.structures.batch import Target
from maskrcnn_train.structures.detections import Detections

Sizes = list[tuple[int, int]]


@dataclass(frozen=True)
class Path:
    """Functions with the same arguments and results in both paths, but for the random draws of samples."""

    select_proposals: Callable[[RPNPredictions, Sizes, ProposalBudget], list[Proposals]]
    sample_anchors: Callable[[Tensor, list[Target], SamplingRules], AnchorSamples]
    sample_proposals: Callable[[list[Tensor], list[Target], SamplingRules], Samples]
    pool: Callable[[list[Tensor], Tensor, Tensor, PoolingRules], Tensor]  # where RoIAlign is no bag
    mask_targets: Callable[[list[Target], Samples, int, str], Tensor]
    select_detections: Callable[[Tensor, Tensor, list[Tensor], Sizes, outputs.DetectionRules], list[Detections]]
    folds_norms: bool  # frozen ones, into the weights of convs


FOLLOWING = Path(
    select_proposals=proposals.select_proposals,
    sample_anchors=sampling.sample_anchors,
    sample_proposals=sampling.sample_proposals,
    pool=roi_align.pool_by_level,
    mask_targets=mask_targets.mask_targets,
    select_detections=outputs.select_detections_of_batch,
    folds_norms=False,
)
FIXED = Path(
    select_proposals=fixed_proposals.select_proposals,
    sample_anchors=fixed_sampling.sample_anchors,
    sample_proposals=fixed_sampling.sample_proposals,
    pool=fixed_pooling.pool_by_level,
    mask_targets=fixed_mask_targets.mask_targets,
    select_detections=fixed_detections.select_detections_of_batch,
    folds_norms=True,
)
PathRule = Callable[[torch.device], Path]


def path_for(device: torch.device) -> Path:
    """The faster path of a device."""
    return FOLLOWING if device.type == "cpu" else FIXED


def always_fixed(device: torch.device) -> Path:
    """The path of a GPU anywhere, so that a processor can test it."""
    return FIXED
