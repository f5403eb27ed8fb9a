"""The ROI heads: class, box and mask of each proposal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import mean
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_train.model.box_head import build_box_head
from maskrcnn_train.model.box_loss import BoxLoss
from maskrcnn_train.model.mask_head import MaskPredictor, build_mask_head
from maskrcnn_train.model.outputs import PROPOSAL_CODER, DetectionRules
from maskrcnn_train.model.paths import PathRule, path_for
from maskrcnn_train.model.pooling import MultiLevelPooler
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.model.sampling import FILLING, Samples, SamplingRules
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.batch import Target
from maskrcnn_train.structures.detections import Detections
from maskrcnn_train.structures.waits import find_later


class ROIHeads(nn.Module):
    """Parameters: `box_head`, `box_predictor`, `mask_head`, `mask_predictor`, inside as torchvision names them.

    sampling: its upper IoU is that from which a proposal is its object's class.
    mask_pooler, mask_head, mask_predictor: all None for plain detection. mask_target_rule: soft, binary.
    class_weights: factors [classes with background] of the class loss; None: all 1.
    """

    class_weights: Tensor | None
    mask_head: nn.Module | None
    mask_predictor: MaskPredictor | None

    def __init__(
        self,
        *,
        box_pooler: MultiLevelPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        sampling: SamplingRules,
        box_loss: BoxLoss,
        rules: DetectionRules,
        mask_pooler: MultiLevelPooler | None = None,
        mask_head: nn.Module | None = None,
        mask_predictor: MaskPredictor | None = None,
        mask_target_rule: str = "soft",
        class_weights: Tensor | None = None,
        path_for: PathRule = path_for,
    ) -> None:
        super().__init__()
        self.box_pooler, self.mask_pooler = box_pooler, mask_pooler
        self.box_head, self.box_predictor = box_head, box_predictor
        self.mask_head, self.mask_predictor = mask_head, mask_predictor
        self.sampling, self.path_for = sampling, path_for
        self.box_loss = box_loss
        self.rules = rules
        self.mask_target_rule = mask_target_rule
        self.register_buffer("class_weights", class_weights, persistent=False)
        # of the last training batch, computed when they are asked for: that is at few steps
        self.statistics: dict[str, Callable[[], float | Tensor]] = {}

    @property
    def has_masks(self) -> bool:
        return self.mask_head is not None

    def predict_boxes(self, features: Pyramid, boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits [K, classes] and deltas [K, classes, 4], float32, of all boxes of all images."""
        return self._boxes_of(self.box_pooler(features, boxes))

    def predict_masks(self, features: Pyramid, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Mask logits float32 [K, M, M] of class labels[k] in each box."""
        assert self.mask_pooler is not None
        return self._masks_of(self.mask_pooler(features, boxes), labels)

    def _boxes_of(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = self.box_predictor(self.box_head(pooled))
        return logits.float(), deltas.float().unflatten(1, (-1, 4)).expand(-1, logits.shape[1], -1)

    def _masks_of(self, pooled: Tensor, labels: Tensor) -> Tensor:
        assert self.mask_head is not None
        assert self.mask_predictor is not None
        return self.mask_predictor.logits_of_classes(self.mask_head(pooled), labels)

    def losses(self, features: Pyramid, proposals: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """loss_classifier, loss_box_reg and, with a mask head, loss_mask. Proposals: [P, 4] of each image."""
        path = self.path_for(features[0].device)
        samples = path.sample_proposals(proposals, targets, self.sampling)
        positive = samples.labels > 0
        rows = find_later(positive)  # their number is read after the box head has been started
        self.statistics["rpn/proposals_kept"] = partial(mean, list(map(len, proposals)) or [0])
        self.statistics["roi/foreground_share"] = partial(_foreground_share, samples.labels)
        losses = self._box_losses(features, samples, positive)
        if self.has_masks:
            losses["loss_mask"] = self._mask_loss(features, samples[rows()], targets)
        return losses

    def _box_losses(self, features: Pyramid, samples: Samples, positive: Tensor) -> dict[str, Tensor]:
        if len(samples) == 0:  # no proposal and no object in the batch
            zero = _zero_of(self.box_head, self.box_predictor)
            return {"loss_classifier": zero, "loss_box_reg": zero}
        logits, deltas = self._boxes_of(self.box_pooler.pool_rois(features, samples.rois))
        own = samples.labels.clamp(min=0)[:, None, None].expand(-1, 1, 4)  # the deltas of its class
        box_reg = self.box_loss(deltas.gather(1, own)[:, 0], samples.deltas, positive, lambda: samples.boxes)
        count = _number_drawn(samples.labels)
        classifier = F.cross_entropy(logits, samples.labels, self.class_weights, ignore_index=FILLING, reduction="sum")
        return {"loss_classifier": classifier / count, "loss_box_reg": box_reg / count}

    def _mask_loss(self, features: Pyramid, foreground: Samples, targets: list[Target]) -> Tensor:
        if len(foreground) == 0:  # a batch norm would take statistics of nothing
            return _zero_of(self.mask_head, self.mask_predictor)
        assert self.mask_pooler is not None
        logits = self._masks_of(self.mask_pooler.pool_rois(features, foreground.rois), foreground.labels)
        path, size = self.path_for(logits.device), logits.shape[-1]
        mask_targets = path.mask_targets(targets, foreground, size, self.mask_target_rule)
        self.statistics["roi/mask_accuracy"] = partial(_mask_accuracy, logits.detach(), mask_targets)
        return F.binary_cross_entropy_with_logits(logits, mask_targets)

    @torch.no_grad()
    def detect_boxes(
        self,
        features: Pyramid,
        proposals: list[Tensor],
        image_sizes: list[tuple[int, int]],
        rules: DetectionRules | None = None,
    ) -> list[Detections]:
        """Detections without masks, network pixels.

        image_sizes: (height, width) without padding; rules: None for its own.
        """
        logits, deltas = self.predict_boxes(features, proposals)
        select = self.path_for(logits.device).select_detections
        return select(logits.softmax(-1), deltas, proposals, image_sizes, rules or self.rules)

    @torch.no_grad()
    def add_masks(self, features: Pyramid, detections: list[Detections]) -> list[Detections]:
        """Each image's detections, network pixels, with their masks; unchanged without a mask head."""
        if not self.has_masks:
            return detections
        boxes, labels = [each.boxes for each in detections], [each.labels for each in detections]
        probabilities = self.mask_probabilities(features, boxes, labels)
        return [replace(each, probabilities=masks) for each, masks in zip(detections, probabilities, strict=True)]

    @torch.no_grad()
    def mask_probabilities(self, features: Pyramid, boxes: list[Tensor], labels: list[Tensor]) -> list[Tensor]:
        """Masks float32 [N, 1, M, M] of the labels [N] inside the boxes [N, 4] (network pixels) of each image."""
        counts = [len(each) for each in boxes]
        return list(self.predict_masks(features, boxes, torch.cat(labels)).sigmoid()[:, None].split(counts))


def _number_drawn(labels: Tensor) -> Tensor:
    return (labels != FILLING).sum().clamp(min=1)


def _foreground_share(labels: Tensor) -> Tensor:
    return (labels > 0).sum() / _number_drawn(labels)


def _mask_accuracy(logits: Tensor, mask_targets: Tensor) -> Tensor:
    return ((logits > 0) == (mask_targets > 0.5)).float().mean()


def _zero_of(*modules: nn.Module | None) -> Tensor:
    """0 that depends on every parameter, so that a distributed step still finds all gradients."""
    parameters = [parameter.sum() for module in modules if module is not None for parameter in module.parameters()]
    return 0 * torch.stack(parameters).sum()


def _class_weights(objects: Sequence[int] | None, balance: float) -> Tensor | None:
    """Factors of the class loss, [classes with background]: objects ^ -balance, 1 in the mean of all objects.

    objects: how many there are of each class. The background keeps 1. None where all are 1.
    """
    if balance == 0:
        return None
    if objects is None:
        raise UserError("roi_head.class_balance needs how many objects each class has: build_model(..., objects=...)")
    counts = torch.tensor(objects, dtype=torch.float32).clamp(min=1)
    factors = counts**-balance
    return torch.cat([torch.ones(1), factors * (counts.sum() / (counts * factors).sum())])


def build_roi_heads(
    config: TrainConfig, *, in_channels: int, num_classes: int, objects: Sequence[int] | None, path_for: PathRule
) -> ROIHeads:
    """The heads that the config describes; num_classes with background. objects: as for `build_model`."""
    section, numerics = config.roi_head, config.numerics
    box_head, box_predictor = build_box_head(section, in_channels, config.pooler.resolution, num_classes)
    masks: dict[str, Any] = {}
    pooling: dict[str, Any] = {"level_rule": numerics.level_assignment, "path_for": path_for}
    if config.mask_head.enabled:
        head, predictor = build_mask_head(config.mask_head, in_channels, num_classes)
        mask_pooler = MultiLevelPooler(**vars(config.mask_head.pooler), **pooling)
        masks = {"mask_pooler": mask_pooler, "mask_head": head, "mask_predictor": predictor}
    return ROIHeads(
        box_pooler=MultiLevelPooler(**vars(config.pooler), **pooling),
        box_head=box_head,
        box_predictor=box_predictor,
        sampling=SamplingRules(upper=section.iou, lower=section.iou, **vars(section.sampling)),
        box_loss=BoxLoss(section.box_loss, numerics.roi_smooth_l1_beta, PROPOSAL_CODER),
        rules=DetectionRules(
            section.score_threshold, section.nms_threshold, section.detections_per_image, numerics.min_detection_size
        ),
        mask_target_rule=numerics.mask_targets,
        class_weights=_class_weights(objects, section.class_balance),
        path_for=path_for,
        **masks,
    )
