"""Frozen norms in the weights of convs give what they give after them."""

from __future__ import annotations

import pickle
from collections import Counter
from copy import deepcopy
from typing import Any

import pytest
import torch
from launches import Launches
from small_model import small_config
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from maskrcnn_train.engine.activations import checkpoint_activations
from maskrcnn_train.model.backbone import Backbone, build_backbone
from maskrcnn_train.model.norms import FrozenNorm2d
from maskrcnn_train.model.paths import PathRule, always_fixed, path_for


def backbone(name: str, rule: PathRule) -> Backbone:
    section = small_config(f"backbone={name}", "backbone.norm=frozen", "backbone.trainable_stages=3").backbone
    torch.manual_seed(0)
    model = build_backbone(section, in_channels=3, stride_in="3x3", pretrained=True, path_for=rule)
    generator = torch.Generator().manual_seed(0)
    for norm in (each for each in model.modules() if isinstance(each, FrozenNorm2d)):
        norm.running_var.uniform_(0.5, 2, generator=generator)
        for buffer in (norm.weight, norm.bias, norm.running_mean):
            buffer.uniform_(-0.5, 0.5, generator=generator)
    return model.train()


def maps_and_gradients(model: Backbone) -> tuple[list[Tensor], dict[str, Tensor]]:
    pixels = torch.randn((2, 3, 64, 96), generator=torch.Generator().manual_seed(1))
    layout = torch.channels_last if not model.body.conv1.weight.is_contiguous() else torch.contiguous_format
    maps = model(pixels.contiguous(memory_format=layout))
    sum(each.float().square().mean() for each in maps).backward()  # type: ignore[union-attr]
    return maps, {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_maps_and_gradients_are_those_of_norms_after_the_convs(name: str) -> None:
    folded, plain = (maps_and_gradients(backbone(name, rule)) for rule in (always_fixed, path_for))
    torch.testing.assert_close(folded[0], plain[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded[1], plain[1], rtol=1e-3, atol=1e-5)


def test_under_autocast_weights_are_rounded_once_and_gradients_are_float32() -> None:
    maps, gradients = maps_and_gradients(backbone("resnet18", always_fixed))
    with torch.autocast("cpu", torch.bfloat16):
        rounded_maps, rounded = maps_and_gradients(backbone("resnet18", always_fixed))
    for ours, exact in zip(rounded_maps, maps, strict=True):
        assert (ours - exact).norm() < 0.02 * exact.norm()
    assert {each.dtype for each in rounded.values()} == {torch.float32}
    name = "body.layer4.1.conv2.weight"
    assert (rounded[name] - gradients[name]).norm() < 0.05 * gradients[name].norm()


class ForeachCalls(TorchDispatchMode):
    """Counts them, and asserts what makes a GPU run one as one kernel: lists of one dtype each, the same layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith("_foreach"):
            self.counts[name] += 1
            first, second = args[:2]
            assert len({each.dtype for each in first}) == len({each.dtype for each in second}) == 1
            assert name == "_foreach_copy_" or first[0].dtype == second[0].dtype
            assert [layout(each) for each in first] == [layout(each) for each in second]
        return func(*args, **(kwargs or {}))


def layout(tensor: Tensor) -> list[tuple[int, int]]:
    """Sizes and strides, but where a side is 1: there the stride says nothing."""
    return [each for each in zip(tensor.shape, tensor.stride(), strict=True) if each[0] > 1]


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_stage_is_scaled_in_one_launch_and_its_gradients_in_another(precision: torch.dtype) -> None:
    model = backbone("resnet50", always_fixed)
    maps_and_gradients(model)
    model.to(memory_format=torch.channels_last)  # the scales that were kept have another layout
    with torch.autocast("cpu", precision, enabled=precision != torch.float32), ForeachCalls() as calls:
        maps_and_gradients(model)
    casts = {"_foreach_copy_": 7} if precision != torch.float32 else {}
    assert calls.counts == {"_foreach_mul": 7, **casts}  # four stages forward, three back


def test_checkpointed_blocks_are_computed_again_with_the_kernels_of_their_stage() -> None:
    model = backbone("resnet18", always_fixed)
    checkpoint_activations(model.body)
    with ForeachCalls() as calls:
        maps_and_gradients(model)
    assert calls.counts == {"_foreach_mul": 7}


def test_a_copy_computes_the_same_and_keeps_no_scales_of_the_first() -> None:
    model, pixels = backbone("resnet18", always_fixed), torch.ones((1, 3, 64, 64))
    with torch.no_grad():
        before = model(pixels)[0]
        copies = [deepcopy(model), pickle.loads(pickle.dumps(model))]
        assert all(torch.equal(copied(pixels)[0], before) for copied in copies)
        for copied in copies:
            copied.get_submodule("body.layer2.0.bn1").weight.zero_()
        assert torch.equal(model(pixels)[0], before)
        assert not any(torch.equal(copied(pixels)[0], before) for copied in copies)
    kernels = sum(each.numel() * each.element_size() for each in model.parameters())
    assert len(pickle.dumps(model)) < 1.1 * kernels


def test_a_block_alone_computes_its_norms() -> None:
    folded, plain = (backbone("resnet18", rule).get_submodule("body.layer2.0") for rule in (always_fixed, path_for))
    pixels = torch.ones((1, 64, 8, 8))
    assert torch.equal(folded(pixels), plain(pixels))


def test_convs_of_one_pixel_are_products_in_16_bits() -> None:
    """The same maps and gradients as convs with norms after them give, within the rounding of bfloat16."""
    with Launches() as launches, torch.autocast("cpu", torch.bfloat16):
        maps, gradients = maps_and_gradients(backbone("resnet50", always_fixed).to(memory_format=torch.channels_last))
    # 16 blocks have two; of the shortcuts the first has stride 1
    assert launches.operations["addmm"] == 33
    expected_maps, expected = maps_and_gradients(backbone("resnet50", path_for))
    for ours, exact in zip(maps, expected_maps, strict=True):
        assert (ours - exact).norm() < 0.05 * exact.norm()
    name = "body.layer2.1.conv3.weight"
    assert gradients[name].dtype == torch.float32
    assert (gradients[name] - expected[name]).norm() < 0.1 * expected[name].norm()


def test_frozen_stages_get_no_gradient_and_activations_can_be_checkpointed() -> None:
    plain, checkpointed = backbone("resnet18", always_fixed), backbone("resnet18", always_fixed)
    checkpoint_activations(checkpointed.body)
    found, again = maps_and_gradients(plain)[1], maps_and_gradients(checkpointed)[1]
    assert not any(name.startswith(("body.conv1", "body.layer1")) for name in found)
    assert found.keys() == again.keys()
    for name, gradient in found.items():
        assert torch.equal(gradient, again[name]), name


def test_a_changed_buffer_changes_the_maps() -> None:
    model, pixels = backbone("resnet18", always_fixed), torch.ones((1, 3, 64, 64))
    with torch.no_grad():
        before = model(pixels)[0]
        norm = model.get_submodule("body.layer2.0.bn1")
        norm.load_state_dict({name: value + 1 for name, value in norm.state_dict().items()})
        assert not torch.equal(model(pixels)[0], before)
    with torch.inference_mode():
        model.double()
        assert model(pixels.double())[0].dtype == torch.float64
