"""Out of memory: one line that names what to lower; other errors stay as they are."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from tiny import untrained_checkpoint

from maskrcnn_train.prediction.memory import advising_on_memory
from maskrcnn_train.prediction.predictor import Predictor
from maskrcnn_train.settings.errors import UserError

FAULTS = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=["numpy", "GPU", "CPU"])
@pytest.mark.parametrize(
    ("command", "options", "named"),
    [
        ("predict", ["images=shapes"], "lower batch_size, tile.size"),
        ("evaluate", ["num_workers=0"], "lower evaluation.batch_size"),
        ("export", ["format=torchscript"], "lower rpn.nms.post_test"),
        ("analyze", ["num_workers=0"], "lower evaluation.batch_size, max_images"),
    ],
)
def test_a_command_says_what_to_lower(
    command: str,
    options: list[str],
    named: str,
    fault: Exception,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(Predictor, "detect", full)
    monkeypatch.setattr("maskrcnn_train.model.mask_rcnn.MaskRCNN.features", full)
    monkeypatch.setattr("maskrcnn_train.exporting.files.write_torchscript", full)
    monkeypatch.chdir(checkpoint.parent)
    out = f"output_dir=out/{command}_{type(fault).__name__}"
    monkeypatch.setattr(sys, "argv", [command, f"checkpoint={checkpoint}", out, *options])
    with pytest.raises(SystemExit) as end:
        import_module(f"maskrcnn_train.{command}").main()
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert f"error: out of memory; {named}" in error
    assert error.count("\n") == 1


def test_a_bug_stays_a_bug() -> None:
    with pytest.raises(RuntimeError, match="shape"), advising_on_memory("lower it"):
        raise RuntimeError("shape mismatch")
    with pytest.raises(UserError, match="no file"), advising_on_memory("lower it"):
        raise UserError("no file")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from maskrcnn_train.data.splits.splitting import read_splits
    from maskrcnn_train.engine.checkpoint import read_checkpoint
    from maskrcnn_train.settings.compose import config_from_plain

    folder = tmp_path_factory.mktemp("checkpoint")
    path = untrained_checkpoint(folder)
    read_splits(config_from_plain(read_checkpoint(path)["config"]))  # makes the shapes
    return path
