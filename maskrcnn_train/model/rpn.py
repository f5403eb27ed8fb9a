"""The region proposal network: scores anchors, moves them, and proposes the best as objects."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_train.model.anchors import AnchorGrid
from maskrcnn_train.model.matching import IGNORED, match_boxes, sample_balanced
from maskrcnn_train.model.proposals import ANCHOR_CODER, ProposalBudget, Proposals, RPNPredictions, select_proposals
from maskrcnn_train.model.rpn_head import SampledRPNHead
from maskrcnn_train.settings.schema import NumericsConfig, RPNConfig
from maskrcnn_train.structures.batch import Target


class RegionProposalNetwork(nn.Module):
    """Parameters: `head.conv.{i}.0`, `head.cls_logits`, `head.bbox_pred`, as torchvision names them."""

    def __init__(
        self,
        *,
        head: SampledRPNHead,
        anchors: AnchorGrid,
        upper: float,
        lower: float,
        batch_size: int,
        positive_fraction: float,
        train_budget: ProposalBudget,
        test_budget: ProposalBudget,
        smooth_l1_beta: float,
        normalizer: str,
    ) -> None:
        super().__init__()
        self.head = head
        self.anchors = anchors
        self.upper, self.lower = upper, lower
        self.batch_size, self.positive_fraction = batch_size, positive_fraction
        self.train_budget, self.test_budget = train_budget, test_budget
        self.smooth_l1_beta = smooth_l1_beta
        self.normalizer = normalizer
        self.statistics: dict[str, float | Tensor] = {}  # counts of the last training batch

    def predict(self, features: list[Tensor], image_size: tuple[int, int]) -> RPNPredictions:
        """Scores and deltas of all anchors. image_size: (height, width) of the padded batch."""
        hidden = self.head.hidden(features)
        logits, deltas = self.head.predict_all(hidden)
        grids = [(level.shape[2], level.shape[3]) for level in logits]
        num_images = logits[0].shape[0]
        # positions first, then ratios: without a copy where the maps are channels_last
        flat_logits = [level.permute(0, 2, 3, 1).reshape(num_images, -1) for level in logits]
        flat_deltas = [level.permute(0, 2, 3, 1).reshape(num_images, -1, 4) for level in deltas]
        return RPNPredictions(
            hidden=hidden,
            objectness=torch.cat(flat_logits, dim=1),
            deltas=torch.cat(flat_deltas, dim=1),
            anchors=self.anchors(image_size, grids, logits[0].device),
            level_sizes=[level.shape[1] for level in flat_logits],
        )

    def propose(
        self, predictions: RPNPredictions, image_sizes: list[tuple[int, int]], budget: ProposalBudget | None = None
    ) -> list[Proposals]:
        """The proposals of each image, without gradient. budget: None for that of training or test."""
        budget = budget or (self.train_budget if self.training else self.test_budget)
        return select_proposals(predictions, image_sizes, budget)

    def losses(self, predictions: RPNPredictions, targets: list[Target]) -> dict[str, Tensor]:
        """loss_objectness and loss_rpn_box_reg over the sampled anchors of all images."""
        positives, negatives, regression_targets = self._sample(predictions.anchors, targets)
        self.statistics["rpn/positive_anchors"] = len(positives) / max(len(targets), 1)
        sampled = torch.cat((positives, negatives))
        count = len(sampled) if self.normalizer == "sampled" else self.batch_size * len(targets)
        labels = torch.zeros(len(sampled), device=sampled.device)
        labels[: len(positives)] = 1
        logits, deltas = self.head.predict_sampled(predictions.hidden, sampled)
        deltas = deltas[: len(positives)].float()
        objectness = F.binary_cross_entropy_with_logits(logits.float(), labels, reduction="sum")
        box_reg = F.smooth_l1_loss(deltas, regression_targets, beta=self.smooth_l1_beta, reduction="sum")
        return {"loss_objectness": objectness / max(count, 1), "loss_rpn_box_reg": box_reg / max(count, 1)}

    @torch.no_grad()
    def _sample(self, anchors: Tensor, targets: list[Target]) -> tuple[Tensor, Tensor, Tensor]:
        """Indices into [N * A] of sampled positives and negatives, and the deltas [P, 4] of the positives."""
        positives, negatives, regression_targets = [], [], []
        for image, target in enumerate(targets):
            gt_boxes = target["boxes"]
            matches = match_boxes(gt_boxes, anchors, upper=self.upper, lower=self.lower, keep_best=True)
            labels = (matches >= 0).to(torch.int8).masked_fill_(matches == IGNORED, -1)
            positive, negative = sample_balanced(labels, self.batch_size, self.positive_fraction)
            positives.append(positive + image * len(anchors))
            negatives.append(negative + image * len(anchors))
            regression_targets.append(ANCHOR_CODER.encode(gt_boxes[matches[positive]], anchors[positive]))
        return torch.cat(positives), torch.cat(negatives), torch.cat(regression_targets)


def build_rpn(section: RPNConfig, numerics: NumericsConfig, *, in_channels: int) -> RegionProposalNetwork:
    """The RPN that the `rpn` section describes, on feature maps of `in_channels`."""
    nms = section.nms
    anchors = AnchorGrid(**vars(section.anchors), rounding=numerics.anchor_rounding, strides=numerics.anchor_strides)
    limits = nms.threshold, numerics.min_proposal_size
    return RegionProposalNetwork(
        head=SampledRPNHead(in_channels, anchors.num_per_position, conv_depth=section.num_convs),
        anchors=anchors,
        upper=section.iou.upper,
        lower=section.iou.lower,
        batch_size=section.sampling.batch_size,
        positive_fraction=section.sampling.positive_fraction,
        train_budget=ProposalBudget(nms.pre_train, nms.post_train, *limits, nms.train_scope == "batch"),
        test_budget=ProposalBudget(nms.pre_test, nms.post_test, *limits),
        smooth_l1_beta=numerics.rpn_smooth_l1_beta,
        normalizer=numerics.rpn_normalizer,
    )
