from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from small_model import small_config
from torch import Tensor, nn

from maskrcnn_train import build_model, load_config
from maskrcnn_train.engine import capturing
from maskrcnn_train.engine.capturing import capture_backbone
from maskrcnn_train.engine.passes import Pass, replace_passes
from maskrcnn_train.settings.errors import UserError


def test_training_is_captured_for_the_first_shapes_and_leaves_batch_norms_as_they_were(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stand-in for CUDA's graphs, with the trial runs that come before a capture."""
    ran: list[tuple[int, ...]] = []

    def make_graphed(module: nn.Module, samples: tuple[Tensor, ...], *, pool: Any) -> Any:
        assert not torch.is_autocast_cache_enabled()
        for _ in range(3):
            module(*samples)

        def run(pixels: Tensor) -> Any:
            ran.append(tuple(pixels.shape))
            return module(pixels)

        return run

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", make_graphed)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(capturing, "MOST_SHAPES", 2)
    plain, captured = (build_model(small_config("backbone.norm=batch", "seed=0"), 4).backbone for _ in range(2))
    captured.load_state_dict(plain.state_dict())
    capture_backbone(captured)
    sizes = ((32, 64), (64, 64), (32, 64), (96, 64))
    batches = [torch.rand((2, 3, *size), generator=torch.Generator().manual_seed(sum(size))) for size in sizes]
    with caplog.at_level(logging.INFO, logger="maskrcnn_train"):
        for pixels in batches:
            torch.testing.assert_close(captured.train()(pixels), plain.train()(pixels))
    assert ran == [(2, 3, 32, 64), (2, 3, 64, 64), (2, 3, 32, 64)]
    assert [record.getMessage()[:53] for record in caplog.records] == [
        "captured the backbone for 2 images of 64 x 32: shape ",
        "captured the backbone for 2 images of 64 x 64: shape ",
    ]
    for name, value in plain.state_dict().items():
        assert torch.equal(value, captured.state_dict()[name]), name
    captured.eval()(batches[0])
    with torch.no_grad():
        captured.train()(batches[0])
    assert len(ran) == 3


def test_passes_are_made_again_when_other_parameters_begin_to_train() -> None:
    made: list[int] = []

    def make(plain: Pass, pixels: Tensor, which: str) -> Pass:
        made.append(sum(each.requires_grad for each in backbone.body.parameters()))
        return plain

    backbone = build_model(small_config(), 4).backbone.train()
    replace_passes(backbone, make, most=1)
    pixels = torch.rand((2, 3, 32, 32))
    for trains in (False, False, True, True):
        backbone.body.requires_grad_(trains)
        backbone(pixels)
    assert made == [0, len(list(backbone.body.parameters()))]


@pytest.mark.parametrize("setting", ["trainer.accumulate=2", "trainer.checkpoint_activations=true"])
def test_what_a_graph_cannot_do_is_refused(setting: str) -> None:
    with pytest.raises(UserError, match=r"^trainer.capture=true needs trainer\.\w+=\w+$"):
        load_config(["trainer.capture=true", setting])
