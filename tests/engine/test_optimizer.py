"""Parameter groups and the learning rate for the batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from maskrcnn_train.engine.optimizer import (
    build_optimizer,
    images_per_step,
    parameter_groups,
    scaled_lr,
    set_lr,
    train_body,
)
from maskrcnn_train.settings.compose import load_config
from maskrcnn_train.settings.optimizers import OPTIMIZERS
from maskrcnn_train.settings.schema import OptimizerConfig


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1, bias=False))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_steps(name: str) -> None:
    model = network()
    before = model[0].weight.clone()
    optimizer = build_optimizer(load_config([f"optimizer={name}"]).optimizer, model, images_per_step=16)
    model(torch.ones(2, 3, 4, 4)).sum().backward()
    optimizer.step()
    assert type(optimizer).__name__.lower() == name
    assert not torch.equal(before, model[0].weight)


def test_learning_rate_follows_the_batch_only_when_asked() -> None:
    section = load_config(["optimizer=sgd"]).optimizer
    assert scaled_lr(section, 4) == pytest.approx(0.02 * 4 / 16)
    assert scaled_lr(load_config(["optimizer=sgd", "optimizer.scale_lr=false"]).optimizer, 4) == 0.02
    assert images_per_step(load_config(["trainer.batch_size=3", "trainer.accumulate=2"]).trainer, world_size=4) == 24


def test_the_reference_batch_is_the_one_that_the_learning_rate_is_for() -> None:
    section = section_of("optimizer=sgd", "optimizer.lr=0.02", "optimizer.reference_batch_size=8")
    assert scaled_lr(section, 4) == pytest.approx(0.02 * 4 / 8)
    assert build_optimizer(section, network(), images_per_step=8).defaults["lr"] == 0.02


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9)])
def test_betas_are_the_decay_of_both_averages_of_adamw(betas: tuple[float, float]) -> None:
    """Kingma & Ba 2015: with gradients 1 and 3 the second step is lr * m / sqrt(v), each corrected for its start."""
    weight = nn.Parameter(torch.zeros(1))
    model = nn.ParameterList([weight])
    settings = ["optimizer=adamw", "optimizer.weight_decay=0", "optimizer.lr=1", f"optimizer.betas={list(betas)}"]
    optimizer = build_optimizer(section_of(*settings), model, images_per_step=16)
    for gradient in (1.0, 3.0):
        before = weight.item()
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    first, second = betas
    mean = ((1 - first) * (first * 1 + 3)) / (1 - first**2)
    square = ((1 - second) * (second * 1 + 9)) / (1 - second**2)
    assert before - weight.item() == pytest.approx(mean / square**0.5, rel=1e-4)


def section_of(*overrides: str) -> OptimizerConfig:
    return load_config(list(overrides)).optimizer


def test_norms_and_biases_have_a_weight_decay_of_their_own() -> None:
    groups = parameter_groups(network(), section_of("optimizer.weight_decay=0.1", "optimizer.norm_weight_decay=0"))
    assert {(len(group["params"]), group["weight_decay"]) for group in groups} == {(2, 0.1), (3, 0.0)}


def test_frozen_parameters_are_left_out() -> None:
    model = network()
    model[0].requires_grad_(False)
    assert [len(group["params"]) for group in parameter_groups(model, section_of())] == [3]


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.ModuleDict({"body": nn.Conv2d(3, 4, 1)})
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone["body"](x))


def test_the_body_has_a_learning_rate_of_its_own() -> None:
    optimizer = build_optimizer(section_of("optimizer.backbone_lr_factor=0.1"), Detector(), images_per_step=16)
    set_lr(optimizer, 0.5)
    assert {(group["body"], group["lr"]) for group in optimizer.param_groups} == {(True, 0.05), (False, 0.5)}


def test_heads_only_leaves_the_body_and_its_gradients_out() -> None:
    model = Detector()
    optimizer = build_optimizer(section_of(), model, images_per_step=16)
    before = {name: each.clone() for name, each in model.named_parameters()}
    set_lr(optimizer, 0.5)
    train_body(optimizer, enabled=False)
    model(torch.ones(1, 3, 2, 2)).sum().backward()
    assert model.backbone["body"].weight.grad is None
    optimizer.step()
    changed = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    assert changed == {"head.weight", "head.bias"}
    train_body(optimizer, enabled=True)
    model(torch.ones(1, 3, 2, 2)).sum().backward()
    optimizer.step()
    assert not torch.equal(model.backbone["body"].weight, before["backbone.body.weight"])
