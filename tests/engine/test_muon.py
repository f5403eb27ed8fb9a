"""Muon against its formula, and beside AdamW in one optimizer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskrcnn_train import build_model, load_config
from maskrcnn_train.engine.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonal
from maskrcnn_train.engine.optimizer import build_optimizer


def newton_schulz(matrix: Tensor) -> Tensor:
    """As Jordan et al. 2024 write it, for a matrix that is not taller than wide."""
    a, b, c = COEFFICIENTS
    found: Tensor = matrix / torch.linalg.matrix_norm(matrix)
    for _ in range(ITERATIONS):
        gram = found @ found.T
        found = a * found + (b * gram + c * gram @ gram) @ found
    return found


@pytest.mark.parametrize(("rows", "columns"), [(16, 144), (144, 16), (32, 32)])
def test_the_orthogonal_matrix_is_that_of_the_iteration_in_its_papers_form(rows: int, columns: int) -> None:
    matrices = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(0))
    found = orthogonal(matrices)
    for matrix, orthogonalized in zip(matrices.double(), found, strict=True):
        expected = newton_schulz(matrix) if rows <= columns else newton_schulz(matrix.T).T
        torch.testing.assert_close(orthogonalized.double(), expected, atol=1e-4, rtol=1e-3)
    values = torch.linalg.svdvals(orthogonal([torch.randn(32, 288)])[0])
    assert 0.6 < values.min() <= values.max() < 1.3


def networks() -> tuple[Any, Any]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1))
    return model, copy.deepcopy(model)


def gradients(*models: nn.Module, seed: int = 0) -> None:
    for model in models:
        generator = torch.Generator().manual_seed(seed)
        for each in model.parameters():
            each.grad = torch.randn(each.shape, generator=generator)


def muon(model: Any, momentum: float = 0.9) -> Muon:
    hidden = [model[0].weight, model[2].weight]
    others = [each for each in model.parameters() if all(each is not one for one in hidden)]
    groups = [{"params": hidden, "matrices": True}, {"params": others, "matrices": False}]
    return Muon([group | {"weight_decay": 0.1} for group in groups], 0.01, momentum=momentum, betas=(0.9, 0.99))


def test_matrices_move_along_the_nesterov_momentum_made_orthogonal_and_the_rest_as_with_adamw() -> None:
    model, reference = networks()
    optimizer = muon(model)
    adamw = torch.optim.AdamW(reference.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    weight, average = reference[2].weight.detach().double(), torch.zeros(8, 72, dtype=torch.float64)
    for seed in range(3):
        gradients(model, reference, seed=seed)
        gradient = reference[2].weight.grad.double().reshape(8, 72)
        average = 0.9 * average + gradient
        update = newton_schulz(gradient + 0.9 * average).reshape(8, 8, 3, 3)
        weight = weight * (1 - 0.01 * 0.1) - 0.01 * 0.2 * 72**0.5 * update
        optimizer.step()
        adamw.step()
    torch.testing.assert_close(model[2].weight.double(), weight, atol=1e-5, rtol=1e-3)
    for index, name in ((0, "bias"), (1, "weight"), (3, "weight")):
        torch.testing.assert_close(getattr(model[index], name), getattr(reference[index], name))
    assert not torch.equal(model[0].weight, reference[0].weight)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_with_more_outputs_than_inputs_moves_too(memory_format: torch.memory_format) -> None:
    conv = nn.Conv2d(2, 32, 3, bias=False).to(memory_format=memory_format)
    gradients(conv)
    before, gradient = conv.weight.detach().double(), conv.weight.grad.double().flatten(1)
    expected = newton_schulz(gradient.T).T.reshape(32, 2, 3, 3)
    Muon(
        [{"params": [conv.weight], "matrices": True, "weight_decay": 0.0}], 0.01, momentum=0.9, betas=(0.9, 0.99)
    ).step()
    torch.testing.assert_close((before - conv.weight.double()) / (0.01 * 0.2 * 32**0.5), expected, atol=1e-3, rtol=1e-2)
    assert conv.weight.is_contiguous(memory_format=memory_format)


def test_a_restored_state_goes_on_alike() -> None:
    model, _ = networks()
    optimizer = muon(model)
    gradients(model)
    optimizer.step()
    again = copy.deepcopy(model)
    other = muon(again)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    gradients(model, again, seed=1)
    optimizer.step()
    other.step()
    for first, second in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_a_parameter_without_a_gradient_stays() -> None:
    model, before = networks()
    optimizer = muon(model)
    gradients(model)
    model[0].weight.grad = None
    optimizer.step()
    assert torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[2].weight, before[2].weight)


def test_fp16s_scaler_leaves_out_a_step_that_is_not_finite() -> None:
    model, before = networks()
    optimizer, scaler = muon(model), torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(1, 8, 8, 8)).sum()).backward()
    model[0].weight.grad[0, 0, 0, 0] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    for first, second in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(first, second)


def test_only_weights_of_hidden_layers_are_matrices() -> None:
    config = load_config(["experiment=scratch", "optimizer=muon"])
    model = build_model(config, num_classes=2)
    optimizer = build_optimizer(config.optimizer, model, images_per_step=2)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    matrices = {names[id(each)] for group in optimizer.param_groups if group["matrices"] for each in group["params"]}
    others = {name for name in names.values() if name.endswith("weight")} - matrices
    assert {"backbone.body.layer1.0.conv1.weight", "rpn.head.conv.0.0.weight", "roi_heads.box_head.3.weight"} < matrices
    assert {
        "backbone.body.conv1.weight",
        "rpn.head.cls_logits.weight",
        "roi_heads.box_predictor.cls_score.weight",
    } < others
    assert {"roi_heads.mask_predictor.conv5_mask.weight", "backbone.body.bn1.weight"} < others
