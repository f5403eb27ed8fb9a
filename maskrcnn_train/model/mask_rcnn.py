"""Mask R-CNN: backbone, region proposal network, ROI heads."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_train.model.backbone import Backbone, build_backbone
from maskrcnn_train.model.inputs import NetworkInput, checked_targets, normalize_batch, resize_list, resize_targets
from maskrcnn_train.model.kept import Kept
from maskrcnn_train.model.outputs import DetectionRules
from maskrcnn_train.model.paths import PathRule, path_for
from maskrcnn_train.model.proposals import ProposalBudget, Proposals
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.model.roi_heads import ROIHeads, build_roi_heads
from maskrcnn_train.model.rpn import RegionProposalNetwork, build_rpn
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.batch import ImageBatch, Target, to_device
from maskrcnn_train.structures.detections import Detections


class MaskRCNN(nn.Module):
    """Mask R-CNN with torchvision's calling convention and parameter names.

    backbone, rpn, roi_heads: the three parts. num_classes: with background. pixel_mean, pixel_std: of each channel of
    an image in 0..1. min_size, max_size: sides that a list of images is resized to; an ImageBatch is resized already.
    loss_weights: factors of losses, by name; of those that are not named 1.

    The stages can be called one by one: `prepare` -> `features` -> `proposals` -> `detections`.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        rpn: RegionProposalNetwork,
        roi_heads: ROIHeads,
        num_classes: int,
        pixel_mean: list[float],
        pixel_std: list[float],
        min_size: int,
        max_size: int,
        loss_weights: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.num_classes = num_classes
        self.min_size, self.max_size = min_size, max_size
        self.loss_weights = dict(loss_weights)
        self.kept: Kept[tuple[Tensor, Tensor]] = Kept()
        # not in the state dict: torchvision's has none
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std)[:, None, None], persistent=False)

    def forward(self, images: ImageBatch | list[Tensor], targets: list[Target] | None = None) -> Any:
        """Losses in training, detections in evaluation, as torchvision's models give them.

        images: an ImageBatch, or a list of float [C, h, w] in 0..1. targets: boxes and masks in network pixels for an
        ImageBatch, in image pixels for a list. Returns a dict of five losses (four without a mask head), or for each
        image a dict of boxes [N, 4] in image pixels, labels [N], scores [N], masks [N, 1, M, M] inside each box.
        """
        if self.training:
            if targets is None:
                raise ValueError("the model is in training mode and needs targets; call model.eval() to detect")
            return self.losses(images, targets)
        return [each.to_torchvision() for each in self.detect(images)]

    def losses(self, images: ImageBatch | list[Tensor], targets: list[Target]) -> dict[str, Tensor]:
        """The losses, in evaluation mode too: there with the test budgets, as a validation loss.

        Targets may be on the host: there their check does not wait for a GPU.
        """
        targets = checked_targets(targets, len(images), self.num_classes, self.roi_heads.has_masks)
        inputs = self.prepare(images)
        targets = to_device(targets, inputs.pixels.device)
        if not isinstance(images, ImageBatch):
            targets = resize_targets(targets, inputs)
        features = self.features(inputs)
        predictions = self.rpn.predict(features, inputs.padded_size)
        proposals = [each.boxes for each in self.rpn.propose(predictions, inputs.sizes)]
        # the order of these two is torchvision's: both draw random samples
        losses = self.rpn.losses(predictions, targets) | self.roi_heads.losses(features, proposals, targets)
        return losses | {name: weight * losses[name] for name, weight in self.loss_weights.items()}

    def detect(
        self,
        images: ImageBatch | list[Tensor],
        *,
        budget: ProposalBudget | None = None,
        rules: DetectionRules | None = None,
    ) -> list[Detections]:
        """Detections of each image, boxes in image pixels. budget, rules: None for the model's own."""
        inputs = self.prepare(images)
        features = self.features(inputs)
        found = self.detections(features, self.proposals(features, inputs, budget), inputs, rules)
        return [each.resized(original) for each, original in zip(found, inputs.original_sizes, strict=True)]

    def prepare(self, images: ImageBatch | list[Tensor]) -> NetworkInput:
        """Normalised, padded pixels, in the memory format of the model's own weights."""
        first = next(each for each in self.backbone.fpn.parameters() if each.dim() == 4 and each.shape[2] > 1)
        channels_last = not first.is_contiguous()
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        if isinstance(images, ImageBatch):
            return normalize_batch(images, self.pixel_mean, self.pixel_std, memory_format, self.kept)
        return resize_list(list(images), self.pixel_mean, self.pixel_std, self.min_size, self.max_size, memory_format)

    def features(self, inputs: NetworkInput) -> Pyramid:
        """Maps of P2..P6: [N, channels, H / s, W / s], s = 4, 8, 16, 32, 64."""
        return Pyramid(self.backbone(inputs.pixels))

    def proposals(
        self, features: Pyramid, inputs: NetworkInput, budget: ProposalBudget | None = None
    ) -> list[Proposals]:
        """Proposals of each image, network pixels."""
        return self.rpn.propose(self.rpn.predict(features, inputs.padded_size), inputs.sizes, budget)

    def detections(
        self,
        features: Pyramid,
        proposals: list[Proposals],
        inputs: NetworkInput,
        rules: DetectionRules | None = None,
    ) -> list[Detections]:
        """Detections of each image, network pixels."""
        boxes = [each.boxes for each in proposals]
        return self.roi_heads.add_masks(features, self.roi_heads.detect_boxes(features, boxes, inputs.sizes, rules))


def build_model(
    config: TrainConfig, num_classes: int, *, objects: Sequence[int] | None = None, path_for: PathRule = path_for
) -> MaskRCNN:
    """The model that the config describes, with random weights; num_classes with background.

    objects: training objects of each class, for `roi_head.class_balance`: `loaders.classes.objects`.
    path_for: which of the two ways to compute a device takes (see `paths.py`). Raises UserError without `objects`
    where they are needed.

    >>> from maskrcnn_train import build_model, load_config
    >>> model = build_model(load_config(["backbone=resnet18"]), num_classes=4)
    """
    numerics = config.numerics
    weights = {f"loss_{name}": weight for name, weight in vars(config.trainer.loss_weights).items() if weight != 1}
    if not config.mask_head.enabled:
        weights.pop("loss_mask", None)
    backbone = build_backbone(
        config.backbone,
        in_channels=config.data.channels,
        stride_in=numerics.stride_in,
        pretrained=config.weights.source != "none",
        path_for=path_for,
    )
    return MaskRCNN(
        backbone=backbone,
        rpn=build_rpn(config.rpn, numerics, in_channels=backbone.channels, path_for=path_for),
        roi_heads=build_roi_heads(
            config, in_channels=backbone.channels, num_classes=num_classes, objects=objects, path_for=path_for
        ),
        num_classes=num_classes,
        pixel_mean=numerics.pixel_mean,
        pixel_std=numerics.pixel_std,
        min_size=config.data.min_size,
        max_size=config.data.max_size,
        loss_weights=weights,
    )
