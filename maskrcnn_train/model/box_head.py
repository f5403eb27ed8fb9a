"""The ROI box head: from pooled features to a class and a box."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor

from maskrcnn_train.model.modes import is_tracing
from maskrcnn_train.model.norms import norm_layer
from maskrcnn_train.settings.schema import ROIHeadConfig


class MapLinear(nn.Linear):
    """An FC layer on pooled maps: [K, C, P, P] -> [K, width]."""

    def forward(self, maps: Tensor) -> Tensor:
        if maps.device.type != "cpu" or maps.dtype != torch.float32 or is_tracing():
            return super().forward(maps.flatten(1))
        # As the P x P conv that it is: no copy out of channels_last, and 1.7 times MKL's matrix product on an AMD EPYC.
        return F.conv2d(maps, self.weight.unflatten(1, maps.shape[1:]), self.bias).flatten(1)


class FCHead(nn.Module):
    """FC layers with ReLU, named `fc6`, `fc7`, ... as the head of torchvision's first Mask R-CNN."""

    def __init__(self, *, in_features: int, widths: list[int]) -> None:
        super().__init__()
        for index, width in enumerate(widths):
            kind = MapLinear if index == 0 else nn.Linear
            self.add_module(f"fc{6 + index}", kind(in_features, width))
            in_features = width

    def forward(self, pooled: Tensor) -> Tensor:
        """[K, C, P, P] -> [K, width]."""
        hidden = pooled
        for layer in self.children():
            hidden = F.relu(layer(hidden))
        return hidden


def build_box_head(
    section: ROIHeadConfig, in_channels: int, resolution: int, num_classes: int
) -> tuple[nn.Module, nn.Module]:
    """Head and predictor: [K, in_channels, P, P] -> [K, features] -> logits [K, classes], deltas [K, 4 * classes].

    Class-agnostic, the deltas are [K, 4] (Detectron2's CLS_AGNOSTIC_BBOX_REG).
    With convs the layout, and so the names, are those of torchvision's FastRCNNConvFCHead (`0.0` .. then FCs).
    """
    fcs = [section.fc_dim] * section.num_fcs
    head: nn.Module
    if section.num_convs == 0:
        head = FCHead(in_features=in_channels * resolution**2, widths=fcs)
    else:
        convs, size = [section.conv_dim] * section.num_convs, (in_channels, resolution, resolution)
        head = FastRCNNConvFCHead(size, convs, fcs, norm_layer(section.norm))
    features = section.fc_dim if fcs else section.conv_dim * resolution**2
    predictor = FastRCNNPredictor(features, num_classes)
    if section.class_agnostic:
        predictor.bbox_pred = nn.Linear(features, 4)
    return head, predictor
