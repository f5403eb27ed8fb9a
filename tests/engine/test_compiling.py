from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from small_model import small_config
from torch import Tensor

from maskrcnn_train import build_model
from maskrcnn_train.engine import compiling
from maskrcnn_train.engine.compiling import compile_backbone


def test_training_is_compiled_for_the_first_shapes_and_evaluation_never(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A stand-in for the compiler, which takes a minute a shape on a processor."""
    compiled: list[tuple[int, ...]] = []

    def compile(function: Any, *, dynamic: bool) -> Any:
        assert not dynamic

        def run(pixels: Tensor) -> Any:
            compiled.append(tuple(pixels.shape))
            return function(pixels)

        return run

    monkeypatch.setattr(torch, "compile", compile)
    monkeypatch.setattr(compiling, "MOST_SHAPES", 2)
    backbone = build_model(small_config(), 4).backbone.train()
    small, large, third = (torch.rand(1, 3, side, 64) for side in (32, 64, 96))
    expected = backbone(small)
    compile_backbone(backbone)
    with caplog.at_level(logging.INFO, logger="maskrcnn_train"):
        for pixels in (small, large, small, third):
            maps = backbone(pixels)
            assert len(maps) == 5
    assert compiled == [(1, 3, 32, 64), (1, 3, 64, 64), (1, 3, 32, 64)]
    assert [record.getMessage()[:54] for record in caplog.records] == [
        "compiling the backbone for 1 images of 64 x 32: shape ",
        "compiling the backbone for 1 images of 64 x 64: shape ",
    ]
    backbone.eval()(small)
    assert len(compiled) == 3
    torch.testing.assert_close(backbone.train()(small), expected)
