"""The ROI mask head: from pooled features to a mask for each class."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from maskrcnn_train.config import MaskHeadConfig
from maskrcnn_train.model.norms import norm_layer


class MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    """torchvision's predictor: `conv5_mask` doubles the resolution, `mask_fcn_logits` gives a mask a class."""

    def of_classes(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits [K, M, M] of one class each: features [K, C, M/2, M/2], labels int64 [K].

        Only the class that is asked for is computed; with 90 classes the other 89 cost more than the head.
        """
        hidden = F.relu(self.conv5_mask(features), inplace=True)
        count, channels, height, width = hidden.shape
        pixels = hidden.permute(0, 2, 3, 1).reshape(count, height * width, channels)
        weights = self.mask_fcn_logits.weight.flatten(1)[labels]
        logits = torch.bmm(pixels, weights[:, :, None].to(pixels.dtype)).view(count, height, width)
        bias: Tensor = self.mask_fcn_logits.bias[labels].float()
        return logits.float() + bias[:, None, None]


def build_mask_head(section: MaskHeadConfig, *, in_channels: int, num_classes: int) -> tuple[nn.Module, MaskPredictor]:
    """Head and predictor: [K, in_channels, P, P] -> [K, C, P, P] -> logits [K, classes, 2P, 2P]."""
    convs = [section.conv_dim] * section.num_convs
    head = MaskRCNNHeads(in_channels, convs, 1, norm_layer=norm_layer(section.norm))
    return head, MaskPredictor(convs[-1] if convs else in_channels, section.conv_dim, num_classes)
