"""Gradient checkpointing of the backbone: less is kept for the backward pass, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import TINY
from torch import Tensor, nn

from maskrcnn_train import build_model, load_config, train
from maskrcnn_train.engine import loop
from maskrcnn_train.engine.activations import checkpoint_activations
from maskrcnn_train.engine.state import TrainingState
from maskrcnn_train.settings.errors import UserError


def kept_by_a_pass(backbone: nn.Module) -> int:
    """Bytes that a forward pass keeps for the backward pass, which follows."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        maps = backbone(pixels)
    torch.stack([each.square().mean() for each in maps]).sum().backward()
    return sum(kept.values())


@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_gradients_and_statistics_are_equal_and_less_is_kept(norm: str) -> None:
    config = load_config([*TINY, "backbone=resnet50", "backbone.trainable_stages=5", f"backbone.norm={norm}"])
    plain, saving = (build_model(config, 3).backbone.train() for _ in range(2))
    saving.load_state_dict(plain.state_dict())
    checkpoint_activations(saving.body)
    more, less = kept_by_a_pass(plain), kept_by_a_pass(saving)
    assert less < 0.5 * more
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert one.grad is not None, name
        assert torch.equal(one.grad, other.grad), name
    for name, value in plain.state_dict().items():
        assert torch.equal(value, saving.state_dict()[name]), name


@pytest.mark.slow
def test_a_compiled_backbone_takes_it_too() -> None:
    config = load_config([*TINY, "backbone.trainable_stages=5", "backbone.norm=batch"])
    plain, saving = (build_model(config, 3).backbone.train() for _ in range(2))
    saving.load_state_dict(plain.state_dict())
    checkpoint_activations(saving.body)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for forward in (plain, torch.compile(saving, backend="aot_eager", dynamic=False)):
        torch.stack([each.square().mean() for each in forward(pixels)]).sum().backward()
    for (name, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, msg=name)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(saving.state_dict()[name], value, msg=name)


def test_a_body_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="finds no blocks"):
        checkpoint_activations(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))


@pytest.mark.parametrize("enabled", [True, False])
def test_the_model_that_trains_is_checkpointed_if_asked_and_its_average_is_not(
    enabled: bool, shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    original = loop.take_step

    def taken(state: TrainingState, *arguments: object) -> object:
        assert state.ema is not None
        seen.append(tuple("forward" in vars(each.backbone.body.layer1[0]) for each in (state.model, state.ema.model)))
        return original(state, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "take_step", taken)
    settings = [f"trainer.checkpoint_activations={enabled}", "trainer.max_steps=1", "trainer.ema=0.995"]
    train(load_config([*TINY, shapes, *settings, f"output_dir={tmp_path / 'run'}"]))
    assert seen == [(enabled, False)]
