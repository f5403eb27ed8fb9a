"""The region proposal network: scores anchors, moves them, and proposes the best as objects."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_train.model.anchors import AnchorGrid
from maskrcnn_train.model.box_loss import BoxLoss
from maskrcnn_train.model.paths import PathRule, path_for
from maskrcnn_train.model.proposals import ANCHOR_CODER, ProposalBudget, Proposals, RPNPredictions
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.model.rpn_head import SampledRPNHead
from maskrcnn_train.model.sampling import FILLING, SamplingRules
from maskrcnn_train.settings.schema import NumericsConfig, RPNConfig
from maskrcnn_train.structures.batch import Target


class RegionProposalNetwork(nn.Module):
    """Parameters: `head.conv.{i}.0`, `head.cls_logits`, `head.bbox_pred`, as torchvision names them."""

    def __init__(
        self,
        *,
        head: SampledRPNHead,
        anchors: AnchorGrid,
        sampling: SamplingRules,
        train_budget: ProposalBudget,
        test_budget: ProposalBudget,
        box_loss: BoxLoss,
        normalizer: str,
        path_for: PathRule = path_for,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        self.sampling, self.path_for = sampling, path_for
        self.train_budget, self.test_budget = train_budget, test_budget
        self.box_loss = box_loss
        self.normalizer = normalizer
        # of the last training batch, computed when they are asked for: that is at few steps
        self.statistics: dict[str, Callable[[], Tensor]] = {}

    def predict(self, features: Pyramid, image_size: tuple[int, int]) -> RPNPredictions:
        """Scores and deltas of all anchors. image_size: (height, width) of the padded batch."""
        hidden = self.head.hidden(features)
        objectness, deltas = self.head.predict_all(hidden)
        return RPNPredictions(
            hidden=hidden,
            objectness=objectness,
            deltas=deltas,
            anchors=self.anchors(image_size, hidden.sizes, objectness.device),
            level_sizes=[height * width * self.anchors.num_per_position for height, width in hidden.sizes],
        )

    def propose(
        self, predictions: RPNPredictions, image_sizes: list[tuple[int, int]], budget: ProposalBudget | None = None
    ) -> list[Proposals]:
        """The proposals of each image, without gradient. budget: None for that of training or test."""
        budget = budget or (self.train_budget if self.training else self.test_budget)
        return self.path_for(predictions.anchors.device).select_proposals(predictions, image_sizes, budget)

    def losses(self, predictions: RPNPredictions, targets: list[Target]) -> dict[str, Tensor]:
        """loss_objectness and loss_rpn_box_reg over the sampled anchors of all images."""
        anchors, num_images = predictions.anchors, max(len(targets), 1)
        samples = self.path_for(anchors.device).sample_anchors(anchors, targets, self.sampling)
        positive, drawn = samples.labels > 0, samples.labels != FILLING
        self.statistics["rpn/positive_anchors"] = partial(_mean_positives, positive, num_images)
        logits, deltas = self.head.predict_sampled(predictions.hidden, samples.index)
        count = drawn.sum().clamp(min=1) if self.normalizer == "sampled" else self.sampling.batch_size * num_images
        objectness = F.binary_cross_entropy_with_logits(
            logits.float(), positive.float(), weight=drawn / count, reduction="sum"
        )
        references = partial(_sampled, anchors, samples.index)
        box_reg = self.box_loss(deltas.float(), samples.deltas, positive, references)
        return {"loss_objectness": objectness, "loss_rpn_box_reg": box_reg / count}


def _sampled(anchors: Tensor, index: Tensor) -> Tensor:
    return anchors[index % len(anchors)]


def _mean_positives(positive: Tensor, num_images: int) -> Tensor:
    return positive.sum() / num_images


def build_rpn(
    section: RPNConfig, numerics: NumericsConfig, *, in_channels: int, path_for: PathRule
) -> RegionProposalNetwork:
    """The RPN that the `rpn` section describes, on feature maps of `in_channels`."""
    nms = section.nms
    anchors = AnchorGrid(**vars(section.anchors), rounding=numerics.anchor_rounding, strides=numerics.anchor_strides)
    limits = nms.threshold, numerics.min_proposal_size
    return RegionProposalNetwork(
        head=SampledRPNHead(in_channels, anchors.num_per_position, conv_depth=section.num_convs),
        anchors=anchors,
        sampling=SamplingRules(**vars(section.iou), **vars(section.sampling)),
        train_budget=ProposalBudget(nms.pre_train, nms.post_train, *limits, nms.train_scope == "batch"),
        test_budget=ProposalBudget(nms.pre_test, nms.post_test, *limits),
        box_loss=BoxLoss(section.box_loss, numerics.rpn_smooth_l1_beta, ANCHOR_CODER),
        normalizer=numerics.rpn_normalizer,
        path_for=path_for,
    )
