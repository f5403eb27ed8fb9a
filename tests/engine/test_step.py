"""One step, for a loop of one's own."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from maskrcnn_train import load_config, training_step
from maskrcnn_train.engine import step
from maskrcnn_train.engine.distributed import ALONE
from maskrcnn_train.engine.loop import take_step
from maskrcnn_train.engine.meter import Meter
from maskrcnn_train.engine.state import MovingAverage, Position, TrainingState
from maskrcnn_train.engine.step import BadStep
from maskrcnn_train.settings.errors import UserError


class Line(nn.Module):
    """A model of one weight; each image is the factor of a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: list[Tensor], targets: list[object]) -> dict[str, Tensor]:
        return {f"loss_{index}": self.weight * image for index, image in enumerate(images)}


CONFIG = ["trainer.precision=fp32", "optimizer=sgd"]


def test_losses_come_back_and_the_weight_moves() -> None:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = training_step(model, optimizer, [torch.tensor(1.0), torch.tensor(3.0)], [{}], load_config(CONFIG))
    assert losses == {"loss_0": 2.0, "loss_1": 6.0}
    assert model.weight.item() == pytest.approx(2.0 - 0.1 * 4)


def test_a_model_that_gives_no_losses_is_named() -> None:
    model = Line().eval()
    with pytest.raises(UserError, match=r"the model is in evaluation mode.*; call model.train\(\)"):
        training_step(model, torch.optim.SGD(model.parameters(), lr=0.1), [], [], load_config(CONFIG))


def test_the_gradient_is_clipped_by_its_norm() -> None:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    training_step(model, optimizer, [torch.tensor(8.0)], [{}], load_config([*CONFIG, "trainer.clip_norm=0.5"]))
    assert model.weight.item() == pytest.approx(1.5, abs=1e-4)


class NormedLine(Line):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)

    def forward(self, images: list[Tensor], targets: list[object]) -> dict[str, Tensor]:
        self.norm(torch.arange(4.0)[:, None])
        return super().forward(images, targets)


def test_a_step_that_is_not_taken_leaves_the_statistics_of_norms_too() -> None:
    model = NormedLine()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(BadStep):
        training_step(model, optimizer, [torch.tensor(math.nan)], [{}], load_config(CONFIG))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(factor: float) -> None:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    images = [torch.tensor(1.0), torch.tensor(factor)]
    with pytest.raises(BadStep, match=r"loss_0 2, loss_1 (nan|inf)\); images \[7\]"):
        training_step(model, optimizer, images, [{"image_id": 7}], load_config(CONFIG))
    assert model.weight.item() == 2.0


class Root(Line):
    """A finite loss, an infinite gradient at a weight of 2."""

    def forward(self, images: list[Tensor], targets: list[object]) -> dict[str, Tensor]:
        return {"loss_root": torch.sqrt((self.weight - 2.0).abs()) + 0 * images[0]}


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = Root()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(BadStep, match="the gradient is not finite"):
        training_step(model, optimizer, [torch.tensor(1.0)], [{}], load_config(CONFIG))
    assert model.weight.item() == 2.0


def test_fp16_needs_a_scaler_that_learns_from_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "grad_scaler", lambda precision, device: torch.amp.GradScaler("cpu"))
    model, config = Root(), load_config(CONFIG)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UserError, match=r"fp16 needs scaler=torch\.amp\.GradScaler"):
        training_step(model, optimizer, [torch.tensor(1.0)], [{}], config)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    for scale in (4.0, 2.0):
        training_step(model, optimizer, [torch.tensor(1.0)], [{}], config, scaler)
        assert scaler.get_scale() == scale


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_in_fp16_the_step_after_one_without_a_finite_loss_is_taken(factor: float) -> None:
    model, config, scaler = Line(), load_config(CONFIG), torch.amp.GradScaler("cpu", init_scale=8.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(BadStep):
        training_step(model, optimizer, [torch.tensor(factor)], [{}], config, scaler)
    assert scaler.get_scale() == 4.0
    training_step(model, optimizer, [torch.tensor(1.0)], [{}], config, scaler)
    assert model.weight.item() == pytest.approx(1.9)


def test_in_fp16_a_gradient_that_no_scale_makes_finite_is_a_bad_step() -> None:
    model, config, scaler = Root(), load_config(CONFIG), torch.amp.GradScaler("cpu", init_scale=2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for scale in (1.0, 0.5):
        training_step(model, optimizer, [torch.tensor(1.0)], [{}], config, scaler)
        assert scaler.get_scale() == scale
    with pytest.raises(BadStep, match="the gradient is not finite"):
        training_step(model, optimizer, [torch.tensor(1.0)], [{}], config, scaler)
    assert all(parameter.grad is None for parameter in model.parameters())


def state_of(model: nn.Module, scaler: torch.amp.GradScaler, *, body: bool = False) -> TrainingState:
    groups = [{"params": list(model.parameters()), "lr_factor": 1.0, "body": body}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    return TrainingState(model, optimizer, scaler, MovingAverage(model, decay=0.5), Position())


class Normed(nn.Module):
    """A batch norm whose loss is the mean of its images; of an image of zeros it is not a number."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, images: list[Tensor], targets: list[Any]) -> dict[str, Tensor]:
        maps = self.norm(torch.stack(images))
        return {"loss": maps.mean() + (0.0 if images[0].any() else math.nan)}


def test_a_step_that_fails_leaves_the_running_statistics_alone() -> None:
    state = state_of(Normed(), torch.amp.GradScaler("cpu", enabled=False))
    trainer = load_config(CONFIG).trainer
    take_step(state, [([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])], [{}, {}])], trainer, ALONE)
    before = copy.deepcopy(state.model.state_dict())
    assert before["norm.num_batches_tracked"] == 1
    with pytest.raises(BadStep):
        take_step(state, [([torch.zeros(2), torch.tensor([9.0, 9.0])], [{}, {}])], trainer, ALONE)
    assert all(torch.equal(value, before[name]) for name, value in state.model.state_dict().items())


def test_a_step_that_the_scaler_of_fp16_skips_does_not_reach_the_log() -> None:
    state = state_of(Root(), torch.amp.GradScaler("cpu", init_scale=8.0))
    batches: list[Any] = [([torch.tensor(1.0)], [{}])]
    losses, norm = take_step(state, batches, load_config(CONFIG).trainer, ALONE)
    assert not math.isfinite(norm)
    assert state.scaler.get_scale() == 4.0
    meter = Meter()
    meter.add(losses, norm, images=1)
    assert math.isnan(meter.means(world_size=1)["gradient_norm"])
    meter.add(losses, 3.0, images=1)
    assert meter.means(world_size=1)["gradient_norm"] == 3.0


def test_a_body_that_waits_gathers_no_momentum_where_several_processes_need_its_gradients() -> None:
    state = state_of(Line(), torch.amp.GradScaler("cpu", enabled=False), body=True)
    trainer = load_config([*CONFIG, "trainer.heads_only_steps=1"]).trainer
    batches: list[Any] = [([torch.tensor(1.0)], [{}])]
    take_step(state, batches, trainer, ALONE)
    assert not state.optimizer.state
    state.position.step = 1
    take_step(state, batches, trainer, ALONE)
    assert state.optimizer.state


def test_means_are_over_the_steps_that_were_taken() -> None:
    meter = Meter()
    meter.add({"loss_mask": 1.0}, norm=4.0, images=2)
    meter.add({"loss_mask": 3.0}, norm=8.0, images=2)
    values = meter.means(world_size=1)
    assert values["loss/mask"] == values["loss/total"] == 2.0
    assert values["gradient_norm"] == 6.0


def test_the_average_makes_up_for_the_steps_between_and_forgets_the_start() -> None:
    model = NormedLine().train()
    average = MovingAverage(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(3.0)
    model.norm.num_batches_tracked.fill_(7)
    average.update(model, 3)
    assert average.model.weight.item() == 2.0
    average.update(model, 4)
    first = 3 - (5 / 14) ** 4  # the decay grows with the steps, ...
    assert average.model.weight.item() == pytest.approx(first)
    assert average.model.norm.num_batches_tracked == 7
    average.update(model, 40)
    assert average.model.weight.item() == pytest.approx(3 - (3 - first) * 0.5**4)  # ... to its value
    assert not average.model.training
    assert not average.model.weight.requires_grad
