"""The backbone: a ResNet, or a feature extractor of timm, and a feature pyramid on it, P2..P6."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from maskrcnn_train.model.folding import fold_frozen_norms
from maskrcnn_train.model.norms import norm_layer
from maskrcnn_train.model.paths import PathRule
from maskrcnn_train.settings.schema import BackboneConfig

PHOTO_CHANNELS = 3  # of the images that published weights were trained on
RESNET_STAGES = (("layer4",), ("layer3",), ("layer2",), ("layer1",), ("conv1", "bn1"))  # from the top


class Backbone(nn.Module):
    """Body + FPN. Parameters of a ResNet: `body.conv1 ... layer4`, `fpn.inner_blocks`, `fpn.layer_blocks`.

    body: gives a dict of four maps of strides 4..32, `widths` channels wide. stages: names of the body's children
    that belong together, from the top. trainable_stages: how many of them train. Nothing in the others changes: no
    gradient, and a batch norm there keeps its statistics (torchvision lets them drift).
    """

    def __init__(
        self,
        *,
        body: nn.Module,
        widths: list[int],
        stages: tuple[tuple[str, ...], ...],
        channels: int,
        fpn_norm: str,
        norm_eps: float,
        trainable_stages: int,
    ):
        super().__init__()
        self.body = body
        self.fpn = FeaturePyramidNetwork(
            widths, channels, extra_blocks=LastLevelMaxPool(), norm_layer=norm_layer(fpn_norm, norm_eps)
        )
        self.channels = channels
        self.frozen_stages = [name for stage in stages[trainable_stages:] for name in stage]
        for name in self.frozen_stages:
            body.get_submodule(name).requires_grad_(False)
        self.train()  # a module begins in training mode, and nobody calls this for it

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for name in self.frozen_stages:
            self.body.get_submodule(name).eval()
        return self

    def keep_body_statistics(self, keep: bool) -> None:
        """Whether the batch norms of the body leave their statistics alone, as those of frozen stages always do."""
        self.train()
        for module in self.body.modules() if keep else ():
            if isinstance(module, _BatchNorm):
                module.eval()

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Five maps [N, channels, H / s, W / s] for s = 4, 8, 16, 32, 64 of pixels [N, C, H, W]."""
        return list(self.fpn(self.body(pixels)).values())


def build_backbone(
    section: BackboneConfig, *, in_channels: int, stride_in: str, pretrained: bool, path_for: PathRule
) -> Backbone:
    """The backbone that the section describes, with random weights; `pretrained` resolves its `auto`s.

    in_channels: of an image. A stem that was pretrained on three and gets others must train, and so must all above it.
    """
    norm, trainable = section.norm, section.trainable_stages
    if norm == "auto":
        norm = "frozen" if pretrained else "batch"
    if trainable == "auto":
        trainable = 3 if pretrained and in_channels == PHOTO_CHANNELS else 5
    stages: tuple[tuple[str, ...], ...] = RESNET_STAGES
    if section.name == "timm":
        from maskrcnn_train.model.timm_body import build_timm_body

        assert section.timm_name is not None
        body, widths, stages = build_timm_body(section.timm_name, in_channels=in_channels, frozen_norm=norm == "frozen")
    else:
        network = _resnet(section.name, norm_layer(norm, section.norm_eps))
        if in_channels != PHOTO_CHANNELS:
            network.conv1 = first_conv(network.conv1, in_channels)
        if stride_in == "1x1":
            stride_in_first_conv(network)
        fold_frozen_norms(network, path_for)
        widths = [network.inplanes // 8 * 2**stage for stage in range(4)]
        body = IntermediateLayerGetter(network, {f"layer{stage + 1}": str(stage) for stage in range(4)})
    return Backbone(
        body=body,
        widths=widths,
        stages=stages,
        channels=section.fpn_channels,
        fpn_norm=section.fpn_norm,
        norm_eps=section.norm_eps,
        trainable_stages=int(trainable),
    )


def _resnet(name: str, norm: Callable[[int], nn.Module] | None) -> resnet.ResNet:
    """torchvision's network of this name, or a resnet10: a resnet18 with one block a stage in place of two."""
    if name == "resnet10":
        return resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], norm_layer=norm)
    network: resnet.ResNet = getattr(resnet, name)(weights=None, norm_layer=norm)
    return network


def first_conv(conv: nn.Conv2d, in_channels: int) -> nn.Conv2d:
    """A ResNet's first conv for images of other channels, with random weights drawn as torchvision draws them."""
    sizes: dict[str, Any] = {"kernel_size": conv.kernel_size, "stride": conv.stride, "padding": conv.padding}
    conv = nn.Conv2d(in_channels, conv.out_channels, **sizes, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def stride_in_first_conv(body: resnet.ResNet) -> None:
    """Move each bottleneck's stride from its 3x3 to its first 1x1 conv, as MSRA's (Detectron2's) ResNets have it.

    The tensors keep their shapes, so weights of the other placement load without an error and work badly.
    """
    for module in body.modules():
        if isinstance(module, resnet.Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
