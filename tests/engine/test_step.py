"""One step, for a loop of one's own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from maskrcnn_train import load_config, training_step
from maskrcnn_train.engine.meter import Meter
from maskrcnn_train.engine.step import BadStep


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


def test_the_gradient_is_clipped_by_its_norm() -> None:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    training_step(model, optimizer, [torch.tensor(8.0)], [{}], load_config([*CONFIG, "trainer.clip_norm=0.5"]))
    assert model.weight.item() == pytest.approx(1.5, abs=1e-4)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_changes_nothing(factor: float) -> None:
    model = Line()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    images = [torch.tensor(1.0), torch.tensor(factor)]
    with pytest.raises(BadStep, match=r"loss_0 2, loss_1 (nan|inf)\); images \[7\]"):
        training_step(model, optimizer, images, [{"image_id": 7}], load_config(CONFIG))
    assert model.weight.item() == 2.0


class Root(Line):
    """A finite loss, an infinite gradient."""

    def forward(self, images: list[Tensor], targets: list[object]) -> dict[str, Tensor]:
        return {"loss_root": torch.sqrt((self.weight - 2.0).abs()) + 0 * images[0]}


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    model = Root()
    with torch.no_grad():
        model.weight.fill_(2.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(BadStep, match="the gradient is not finite"):
        training_step(model, optimizer, [torch.tensor(1.0)], [{}], load_config(CONFIG))
    assert model.weight.item() == 2.0


def test_means_are_over_the_steps_that_were_taken() -> None:
    meter = Meter()
    meter.add({"loss_mask": 1.0, "gradient_norm": 4.0}, images=2)
    meter.add({"loss_mask": 3.0, "gradient_norm": 8.0}, images=2)
    values = meter.means(world_size=1)
    assert values["loss/mask"] == values["loss/total"] == 2.0
    assert values["gradient_norm"] == 6.0
