"""The ROI heads: class, box and mask of each proposal."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_train.model.box_head import build_box_head
from maskrcnn_train.model.mask_head import MaskPredictor, build_mask_head
from maskrcnn_train.model.mask_targets import targets_in_boxes
from maskrcnn_train.model.matching import match_boxes, sample_balanced
from maskrcnn_train.model.outputs import PROPOSAL_CODER, DetectionRules, select_detections
from maskrcnn_train.model.pooling import MultiLevelPooler
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.batch import Target
from maskrcnn_train.structures.detections import Detections


@dataclass
class Samples:
    """The proposals of one image that enter the losses: boxes [S, 4], matches int64 [S] (index of the object; 0 for
    background), labels int64 [S] (0: background), deltas [S, 4] (zeros for background)."""

    boxes: Tensor
    matches: Tensor
    labels: Tensor
    deltas: Tensor

    def __getitem__(self, rows: Tensor) -> Samples:
        return Samples(self.boxes[rows], self.matches[rows], self.labels[rows], self.deltas[rows])


class ROIHeads(nn.Module):
    """Parameters: `box_head`, `box_predictor`, `mask_head`, `mask_predictor`, inside as torchvision names them.

    iou: from which a proposal is its object's class. batch_size, positive_fraction: sampling, per image.
    mask_pooler, mask_head, mask_predictor: all None for plain detection. mask_target_rule: soft, binary.
    """

    mask_head: nn.Module | None
    mask_predictor: MaskPredictor | None

    def __init__(
        self,
        *,
        box_pooler: MultiLevelPooler,
        box_head: nn.Module,
        box_predictor: nn.Module,
        iou: float,
        batch_size: int,
        positive_fraction: float,
        smooth_l1_beta: float,
        rules: DetectionRules,
        mask_pooler: MultiLevelPooler | None = None,
        mask_head: nn.Module | None = None,
        mask_predictor: MaskPredictor | None = None,
        mask_target_rule: str = "soft",
    ) -> None:
        super().__init__()
        self.box_pooler, self.mask_pooler = box_pooler, mask_pooler
        self.box_head, self.box_predictor = box_head, box_predictor
        self.mask_head, self.mask_predictor = mask_head, mask_predictor
        self.iou = iou
        self.batch_size, self.positive_fraction = batch_size, positive_fraction
        self.smooth_l1_beta = smooth_l1_beta
        self.rules = rules
        self.mask_target_rule = mask_target_rule
        self.statistics: dict[str, float | Tensor] = {}  # counts of the last training batch

    @property
    def has_masks(self) -> bool:
        return self.mask_head is not None

    def predict_boxes(self, features: list[Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits [K, classes] and deltas [K, classes, 4], float32, of all boxes of all images."""
        logits, deltas = self.box_predictor(self.box_head(self.box_pooler(features, boxes)))
        return logits.float(), deltas.float().unflatten(1, (-1, 4))

    def predict_masks(self, features: list[Tensor], boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Mask logits float32 [K, M, M] of class labels[k] in each box."""
        assert self.mask_pooler is not None
        assert self.mask_head is not None
        assert self.mask_predictor is not None
        return self.mask_predictor.logits_of_classes(self.mask_head(self.mask_pooler(features, boxes)), labels)

    @torch.no_grad()
    def sample(self, proposals: list[Tensor], targets: list[Target]) -> list[Samples]:
        """Match proposals [P, 4], and the ground-truth boxes among them, to the ground truth; draw those that train."""
        samples = []
        for proposed, target in zip(proposals, targets, strict=True):
            gt_boxes = target["boxes"]
            boxes = torch.cat((proposed, gt_boxes))
            matches = match_boxes(gt_boxes, boxes, upper=self.iou, lower=self.iou, keep_best=False)
            labels = torch.zeros_like(matches)
            matched = torch.where(matches >= 0)[0]
            labels[matched] = target["labels"][matches[matched]]
            index = torch.cat(sample_balanced(labels, self.batch_size, self.positive_fraction)).sort().values
            boxes, matches, labels = boxes[index], matches.clamp(min=0)[index], labels[index]
            deltas = torch.zeros_like(boxes)
            foreground = torch.where(labels > 0)[0]
            deltas[foreground] = PROPOSAL_CODER.encode(gt_boxes[matches[foreground]], boxes[foreground])
            samples.append(Samples(boxes, matches, labels, deltas))
        return samples

    def losses(self, features: list[Tensor], proposals: list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """loss_classifier, loss_box_reg and, with a mask head, loss_mask. Proposals: [P, 4] of each image."""
        samples = self.sample(proposals, targets)
        drawn = max(sum(len(sample.labels) for sample in samples), 1)
        self.statistics["rpn/proposals_kept"] = sum(map(len, proposals)) / max(len(proposals), 1)
        self.statistics["roi/foreground_share"] = sum((sample.labels > 0).sum() for sample in samples) / drawn
        losses = self._box_losses(features, samples)
        if self.has_masks:
            losses["loss_mask"] = self._mask_loss(features, samples, targets)
        return losses

    def _box_losses(self, features: list[Tensor], samples: list[Samples]) -> dict[str, Tensor]:
        labels = torch.cat([sample.labels for sample in samples])
        if len(labels) == 0:  # no proposal and no object in the batch
            zero = _zero_of(self.box_head, self.box_predictor)
            return {"loss_classifier": zero, "loss_box_reg": zero}
        logits, deltas = self.predict_boxes(features, [sample.boxes for sample in samples])
        foreground = torch.where(labels > 0)[0]
        regression_targets = torch.cat([sample.deltas for sample in samples])[foreground]
        box_reg = F.smooth_l1_loss(
            deltas[foreground, labels[foreground]], regression_targets, beta=self.smooth_l1_beta, reduction="sum"
        )
        return {"loss_classifier": F.cross_entropy(logits, labels), "loss_box_reg": box_reg / len(labels)}

    def _mask_loss(self, features: list[Tensor], samples: list[Samples], targets: list[Target]) -> Tensor:
        foreground = [sample[torch.where(sample.labels > 0)[0]] for sample in samples]
        labels = torch.cat([sample.labels for sample in foreground])
        if len(labels) == 0:  # a batch norm would take statistics of nothing
            return _zero_of(self.mask_head, self.mask_predictor)
        logits = self.predict_masks(features, [sample.boxes for sample in foreground], labels)
        drawn = [
            targets_in_boxes(target["masks"], own.boxes, own.matches, logits.shape[-1], rule=self.mask_target_rule)
            for target, own in zip(targets, foreground, strict=True)
            if len(own.labels)
        ]
        mask_targets = torch.cat(drawn)
        self.statistics["roi/mask_accuracy"] = ((logits.detach() > 0) == (mask_targets > 0.5)).float().mean()
        return F.binary_cross_entropy_with_logits(logits, mask_targets)

    @torch.no_grad()
    def detect_boxes(
        self,
        features: list[Tensor],
        proposals: list[Tensor],
        image_sizes: list[tuple[int, int]],
        rules: DetectionRules | None = None,
    ) -> list[Detections]:
        """Detections without masks, network pixels.

        image_sizes: (height, width) without padding; rules: None for its own.
        """
        counts = [len(boxes) for boxes in proposals]
        logits, deltas = self.predict_boxes(features, proposals)
        images = zip(logits.softmax(-1).split(counts), deltas.split(counts), proposals, image_sizes, strict=True)
        return [select_detections(*image, rules or self.rules) for image in images]

    @torch.no_grad()
    def add_masks(self, features: list[Tensor], detections: list[Detections]) -> list[Detections]:
        """Each image's detections, network pixels, with their masks; unchanged without a mask head."""
        if not self.has_masks:
            return detections
        boxes, labels = [each.boxes for each in detections], [each.labels for each in detections]
        probabilities = self.mask_probabilities(features, boxes, labels)
        return [replace(each, probabilities=masks) for each, masks in zip(detections, probabilities, strict=True)]

    @torch.no_grad()
    def mask_probabilities(self, features: list[Tensor], boxes: list[Tensor], labels: list[Tensor]) -> list[Tensor]:
        """Masks float32 [N, 1, M, M] of the labels [N] inside the boxes [N, 4] (network pixels) of each image."""
        counts = [len(each) for each in boxes]
        return list(self.predict_masks(features, boxes, torch.cat(labels)).sigmoid()[:, None].split(counts))


def _zero_of(*modules: nn.Module | None) -> Tensor:
    """0 that depends on every parameter, so that a distributed step still finds all gradients."""
    parameters = [parameter.sum() for module in modules if module is not None for parameter in module.parameters()]
    return 0 * torch.stack(parameters).sum()


def build_roi_heads(config: TrainConfig, *, in_channels: int, num_classes: int) -> ROIHeads:
    """The heads that the config describes; num_classes with background."""
    section, numerics = config.roi_head, config.numerics
    box_head, box_predictor = build_box_head(section, in_channels, config.pooler.resolution, num_classes)
    masks: dict[str, Any] = {}
    if config.mask_head.enabled:
        head, predictor = build_mask_head(config.mask_head, in_channels, num_classes)
        mask_pooler = MultiLevelPooler(**vars(config.mask_head.pooler), level_rule=numerics.level_assignment)
        masks = {"mask_pooler": mask_pooler, "mask_head": head, "mask_predictor": predictor}
    return ROIHeads(
        box_pooler=MultiLevelPooler(**vars(config.pooler), level_rule=numerics.level_assignment),
        box_head=box_head,
        box_predictor=box_predictor,
        iou=section.iou,
        batch_size=section.sampling.batch_size,
        positive_fraction=section.sampling.positive_fraction,
        smooth_l1_beta=numerics.roi_smooth_l1_beta,
        rules=DetectionRules(
            section.score_threshold, section.nms_threshold, section.detections_per_image, numerics.min_detection_size
        ),
        mask_target_rule=numerics.mask_targets,
        **masks,
    )
