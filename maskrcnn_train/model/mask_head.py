"""The ROI mask head: from pooled features to a mask for each class."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from maskrcnn_train.model.norms import norm_layer
from maskrcnn_train.settings.schema import MaskHeadConfig


class MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    """torchvision's predictor: `conv5_mask` doubles the resolution, `mask_fcn_logits` gives a mask a class.

    num_classes: 1 for one mask that all classes share (Detectron2's CLS_AGNOSTIC_MASK).
    """

    def __init__(self, in_channels: int, width: int, num_classes: int) -> None:
        super().__init__(in_channels, width, num_classes)
        self.class_agnostic = num_classes == 1

    def logits_of_classes(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits [K, M, M] of one class each: features [K, C, M/2, M/2], labels int64 [K].

        Only the class that is asked for is computed; with 90 classes the other 89 cost more than the head.
        """
        if self.class_agnostic:
            labels = torch.zeros_like(labels)
        hidden = F.relu(self._upsample_2x(features), inplace=True)
        count, width, rows, columns = hidden.shape
        pixels = hidden.permute(0, 2, 3, 1).reshape(count, rows * columns * 4, width // 4)
        weights = self.mask_fcn_logits.weight.flatten(1)[labels]
        logits = torch.bmm(pixels, weights[:, :, None].to(pixels.dtype)).view(count, rows, columns, 2, 2)
        bias: Tensor = self.mask_fcn_logits.bias[labels].float()
        return logits.float().transpose(2, 3).reshape(count, 2 * rows, 2 * columns) + bias[:, None, None]

    def _upsample_2x(self, features: Tensor) -> Tensor:
        """What `conv5_mask` makes of each position, its four pixels as 4 x C channels: [K, 4 * C, M/2, M/2].

        With stride 2 the windows of a 2x2 transposed conv do not meet, so it is a 1x1 conv. oneDNN's backward of
        the transposed one takes twice as long.
        """
        weight, bias = self.conv5_mask.weight, self.conv5_mask.bias  # weight: [C in, C out, 2, 2]
        return F.conv2d(features, weight.permute(2, 3, 1, 0).flatten(0, 2)[:, :, None, None], bias.repeat(4))


def build_mask_head(section: MaskHeadConfig, in_channels: int, num_classes: int) -> tuple[nn.Module, MaskPredictor]:
    """Head and predictor: [K, in_channels, P, P] -> [K, C, P, P] -> logits [K, classes or 1, 2P, 2P]."""
    convs = [section.conv_dim] * section.num_convs
    head = MaskRCNNHeads(in_channels, convs, 1, norm_layer=norm_layer(section.norm))
    num_masks = 1 if section.class_agnostic else num_classes
    return head, MaskPredictor(convs[-1] if convs else in_channels, section.conv_dim, num_masks)
