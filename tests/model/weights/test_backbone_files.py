"""Files that hold a backbone alone: classifiers of torchvision and timm, and what self-supervised training leaves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_model import SMALL
from torch import Tensor
from torchvision.models import resnet18

from maskrcnn_train import build_model, load_config
from maskrcnn_train.model.weights.loading import WeightsReport
from maskrcnn_train.model.weights.pretrained import start_from_weights
from maskrcnn_train.settings.errors import UserError

TIMM = ["backbone=timm", "backbone.timm_name=convnext_atto"]


def start(path: Path, *overrides: str) -> tuple[dict[str, Tensor], WeightsReport]:
    """The model's state after it was started from the file, and the report."""
    config = load_config([*SMALL, "backbone=resnet18", "weights=file", f"weights.path={path}", *overrides])
    model = build_model(config, 3)
    report = start_from_weights(model, config, ["door", "window"])
    assert report is not None
    return model.state_dict(), report


def layers_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("prefix", ["", "module.encoder_q.", "backbone."])
def test_a_resnet_loads_whole_behind_any_prefix(prefix: str, tmp_path: Path) -> None:
    network = resnet18(weights=None).state_dict()
    state = {prefix + name: tensor for name, tensor in network.items()}
    momentum = {f"module.encoder_k.{name}": torch.zeros_like(tensor) for name, tensor in network.items()}
    torch.save({"state_dict": state | momentum, "epoch": 200}, tmp_path / "moco.pth")
    ours, report = start(tmp_path / "moco.pth")
    body = [name for name in layers_of(network) if not name.startswith("fc.")]
    assert all(torch.equal(ours[f"backbone.body.{name}"], network[name]) for name in body)
    assert len(report.loaded) == len(body)
    assert f"{prefix.removeprefix('module.')}fc.weight" in report.unused
    assert {each.reason for each in report.reinitialized} == {"not in the weights"}


@pytest.mark.parametrize("channels", [3, 1])
def test_a_file_of_timm_loads_into_its_feature_extractor(channels: int, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("convnext_atto").state_dict()
    save_file(network, tmp_path / "model.safetensors")
    pixels = [f"numerics.{key}={[0.5] * channels}" for key in ("pixel_mean", "pixel_std")]
    ours, report = start(tmp_path / "model.safetensors", *TIMM, *pixels, f"data.channels={channels}")
    assert not [each for each in report.reinitialized if each.layer.startswith("backbone.body.")]
    deep = "stages.3.blocks.1.mlp.fc1.weight"
    assert torch.equal(ours["backbone.body.features.stages_3.blocks.1.mlp.fc1.weight"], network[deep])
    stem = network["stem.0.weight"] if channels == 3 else network["stem.0.weight"].sum(dim=1, keepdim=True)
    assert torch.equal(ours["backbone.body.features.stem_0.weight"], stem)
    assert report.unused == ["head.fc.bias", "head.fc.weight", "head.norm.bias", "head.norm.weight"]


@pytest.mark.parametrize("overrides", [["backbone=resnet50"], TIMM])
def test_a_file_of_another_network_is_refused_by_name(overrides: list[str], tmp_path: Path) -> None:
    pytest.importorskip("timm")
    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    name = overrides[-1].partition("=")[2]
    with pytest.raises(UserError, match=rf"resnet18\.pth has neither .* backbone={name}; set backbone"):
        start(tmp_path / "resnet18.pth", *overrides)
