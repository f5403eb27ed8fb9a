"""Parameter groups and the learning rate for the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from maskrcnn_train.cli import load_config
from maskrcnn_train.engine.optimizer import build_optimizer, parameter_groups, scaled_lr


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_every_optimizer_steps(name: str, kind: type) -> None:
    model = network()
    before = model[0].weight.clone()
    optimizer = build_optimizer(load_config([f"optimizer={name}"]).optimizer, model, images_per_step=16)
    model(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    assert isinstance(optimizer, kind)
    assert not torch.equal(before, model[0].weight)


def test_learning_rate_follows_the_batch_only_when_asked() -> None:
    section = load_config(["optimizer=sgd"]).optimizer
    assert scaled_lr(section, 4) == pytest.approx(0.02 * 4 / 16)
    assert scaled_lr(load_config(["optimizer=sgd", "optimizer.scale_lr=false"]).optimizer, 4) == 0.02


def test_norms_and_biases_have_a_weight_decay_of_their_own() -> None:
    groups = parameter_groups(network(), 0.1, 0.0)
    assert [len(group["params"]) for group in groups] == [2, 3]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_frozen_parameters_are_left_out() -> None:
    model = network()
    model[0].requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(model, 0.1, None)] == [3]
