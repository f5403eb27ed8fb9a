from __future__ import annotations

import pytest
import torch
from small_model import small_config
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from maskrcnn_train.model.backbone import Backbone, build_backbone
from maskrcnn_train.model.norms import FrozenNorm2d
from maskrcnn_train.model.paths import path_for


def backbone(*overrides: str, stride_in: str = "3x3", pretrained: bool = False) -> Backbone:
    torch.manual_seed(0)
    section, options = small_config(*overrides).backbone, {"stride_in": stride_in, "pretrained": pretrained}
    return build_backbone(section, in_channels=3, path_for=path_for, **options)


def norms(model: nn.Module) -> set[type[nn.Module]]:
    kinds = (nn.BatchNorm2d, nn.GroupNorm, FrozenBatchNorm2d)
    return {type(module) for module in model.modules() if isinstance(module, kinds)}


def trained_stages(model: Backbone) -> list[str]:
    names = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    stages = {name: [p.requires_grad for p in model.body[name].parameters()] for name in names}
    return [name for name, flags in stages.items() if flags and all(flags)]


def test_norm_auto_is_frozen_with_pretrained_weights_and_batch_without() -> None:
    assert norms(backbone(pretrained=True)) == {FrozenNorm2d}
    assert norms(backbone()) == {nn.BatchNorm2d}
    assert norms(backbone("backbone.norm=group")) == {nn.GroupNorm}
    assert norms(backbone("backbone.norm=batch", pretrained=True)) == {nn.BatchNorm2d}


def test_norm_eps_reaches_every_norm() -> None:
    for norm in ("frozen", "batch", "group"):
        model = backbone(f"backbone.norm={norm}", "backbone.norm_eps=0.125")
        assert {module.eps for module in model.modules() if type(module) in norms(model)} == {0.125}


def test_trainable_stages_count_from_the_top_as_torchvisions() -> None:
    assert trained_stages(backbone("backbone.trainable_stages=0")) == []
    assert trained_stages(backbone("backbone.trainable_stages=1")) == ["layer4"]
    assert trained_stages(backbone(pretrained=True)) == ["layer2", "layer3", "layer4"]
    assert trained_stages(backbone("backbone.trainable_stages=4", "backbone.norm=batch"))[0] == "layer1"
    assert trained_stages(backbone())[:2] == ["conv1", "bn1"]
    theirs = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=2, norm_layer=nn.BatchNorm2d)
    ours = backbone("backbone=resnet18", "backbone.trainable_stages=2", "backbone.norm=batch")
    assert {n: p.requires_grad for n, p in ours.named_parameters()} == {
        n: p.requires_grad for n, p in theirs.named_parameters()
    }


def test_fpn_width_and_norm() -> None:
    wide = backbone("backbone.fpn_channels=48")(torch.rand(1, 3, 64, 64))
    assert [tuple(level.shape[1:]) for level in wide] == [(48, s, s) for s in (16, 8, 4, 2, 1)]
    normed = backbone("backbone.fpn_norm=batch", "backbone.norm=frozen")
    assert norms(normed) == {FrozenNorm2d, nn.BatchNorm2d}
    assert normed.fpn.inner_blocks[0][0].bias is None
    assert norms(backbone("backbone.fpn_norm=group", "backbone.norm=frozen")) == {FrozenNorm2d, nn.GroupNorm}


def test_frozen_norm_and_frozen_stages_do_not_drift() -> None:
    for overrides, names in (
        (("backbone.norm=frozen",), [""]),
        (("backbone.norm=batch", "backbone.trainable_stages=2"), ["body.bn1", "body.layer1", "body.layer2"]),
    ):
        model = backbone(*overrides)  # as a training takes it
        before = {name: value.clone() for name, value in model.state_dict().items()}
        for _ in range(2):
            model(torch.rand(2, 3, 64, 64))
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert not [name for name in changed if name.startswith(tuple(names))]
        assert bool(changed) == ("backbone.norm=batch" in overrides)


def test_frozen_norm_has_batch_norms_names_and_torchvisions_values() -> None:
    theirs, ours = FrozenBatchNorm2d(6, eps=1e-3), FrozenNorm2d(6, eps=1e-3)
    for buffer in theirs.buffers():
        buffer.uniform_(0.5, 2)
    trained = nn.BatchNorm2d(6).state_dict()
    assert set(trained) - set(ours.state_dict()) == {"num_batches_tracked"}
    ours.load_state_dict(theirs.state_dict(), strict=True)
    values = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(ours(values), theirs(values))
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(values.bfloat16()).dtype == torch.bfloat16


def test_frozen_norm_has_torchvisions_gradient_and_keeps_no_input() -> None:
    theirs, ours = FrozenBatchNorm2d(6), FrozenNorm2d(6)
    for buffer in theirs.buffers():
        buffer.uniform_(0.5, 2)
    ours.load_state_dict(theirs.state_dict())
    values, weights = torch.randn(2, 6, 5, 5), torch.randn(2, 6, 5, 5)
    kept: list[torch.Size] = []
    gradients = []
    for norm in (theirs, ours):
        x = values.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
            result = norm(x)
        if norm is ours:
            assert kept[-3:] == [(6,)] * 3  # numbers of a channel, where batch_norm keeps its input
        (result * weights).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0])


def test_stride_moves_to_the_first_conv_with_equal_shapes() -> None:
    overrides = ("backbone=resnet50",)
    late, early = backbone(*overrides), backbone(*overrides, stride_in="1x1")
    assert [tuple(late.body.layer2[0].conv1.stride), tuple(late.body.layer2[0].conv2.stride)] == [(1, 1), (2, 2)]
    assert [tuple(early.body.layer2[0].conv1.stride), tuple(early.body.layer2[0].conv2.stride)] == [(2, 2), (1, 1)]
    early.load_state_dict(late.state_dict(), strict=True)
    pixels = torch.rand(1, 3, 64, 64)
    first, second = late.eval()(pixels), early.eval()(pixels)
    assert [level.shape for level in first] == [level.shape for level in second]
    assert not torch.allclose(first[1], second[1])
    assert set(resnet50(weights=None).state_dict()) - {f"{n}" for n in ("fc.weight", "fc.bias")} == set(
        late.body.state_dict()
    )


@pytest.mark.parametrize("name", ["resnet10", "resnet34", "resnext50_32x4d", "wide_resnet50_2"])
def test_other_resnets_give_the_five_levels(name: str) -> None:
    with torch.no_grad():
        levels = backbone(f"backbone={name}")(torch.rand(2, 3, 64, 64))
    assert [tuple(level.shape[1:]) for level in levels] == [(32, s, s) for s in (16, 8, 4, 2, 1)]


def test_a_body_that_waits_keeps_its_statistics_and_frozen_stages_always_do() -> None:
    model = backbone("backbone.norm=batch", "backbone.fpn_norm=batch", "backbone.trainable_stages=2")

    def moved() -> set[str]:
        before = {name: each.clone() for name, each in model.named_buffers() if name.endswith("running_mean")}
        model(torch.randn(2, 3, 64, 64))
        changed = {name for name, each in before.items() if not torch.equal(each, model.get_buffer(name))}
        return {".".join(name.split(".")[:2]) for name in changed}

    everything = moved()
    assert everything == {"body.layer3", "body.layer4", "fpn.inner_blocks", "fpn.layer_blocks"}
    model.keep_body_statistics(True)
    assert moved() == {"fpn.inner_blocks", "fpn.layer_blocks"}
    model.keep_body_statistics(False)
    assert moved() == everything
