"""What a run asks of the machine."""

from __future__ import annotations

import itertools
import os
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from tiny import TINY

from maskrcnn_train import load_config, train
from maskrcnn_train.engine import loop
from maskrcnn_train.engine.precision import autocast, determinism, grad_scaler, seed_step, use_device
from maskrcnn_train.engine.state import TrainingState
from maskrcnn_train.reporting.tensorboard import read_metrics
from maskrcnn_train.settings.errors import UserError

CPU = torch.device("cpu")


@pytest.mark.parametrize("enabled", [True, False])
def test_determinism_refuses_operations_with_several_results(enabled: bool) -> None:
    target, indices, values = torch.zeros(2), torch.tensor([0, 0]), torch.ones(2)
    with determinism(enabled), pytest.raises(RuntimeError, match="deterministic") if enabled else nullcontext():
        target.put_(indices, values)
    target.put_(indices, values)


@pytest.mark.parametrize("given", [None, ":16:8"])
def test_a_process_has_the_workspace_of_cublas_that_determinism_needs_before_it_touches_its_gpu(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given or "")  # it is put back
    if given is None:
        monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    found = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: found.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG")))
    use_device(CPU)
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == given
    use_device(torch.device("cuda", 0))
    assert found == [given or ":4096:8"]


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_model_computes_at_the_precision(name: str, dtype: torch.dtype, device: torch.device) -> None:
    matrix = torch.ones(2, 2, device=device)
    with autocast(name, device):
        assert (matrix @ matrix).dtype == dtype


def test_a_training_computes_on_its_device_at_its_precision(device: torch.device, shapes: str, tmp_path: Path) -> None:
    settings = ["trainer.max_steps=2", f"trainer.device={device.type}", "trainer.precision=bf16"]
    train(load_config([*TINY, shapes, *settings, f"output_dir={tmp_path / 'run'}"]))
    assert f"on {device} in bf16" in (tmp_path / "run/train.log").read_text()
    losses = [line["loss/total"] for line in read_metrics(tmp_path / "run/metrics.jsonl") if "lr" in line]
    assert len(losses) == 2
    assert all(loss is not None and 0 < loss < 20 for loss in losses)


def test_fp16_is_refused_on_a_processor() -> None:
    with pytest.raises(UserError, match="needs a GPU"):
        grad_scaler("fp16", CPU)


def test_the_backbone_is_compiled_and_operations_are_deterministic_if_asked(
    shapes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compilation itself takes minutes, so here it leaves all as it is."""
    seen, original = [], loop.take_step

    def taken(state: TrainingState, *arguments: object) -> object:
        compiled = "forward" in vars(state.model.backbone)
        seen.append((compiled, torch.are_deterministic_algorithms_enabled()))
        return original(state, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "take_step", taken)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    for compiled, deterministic in ((True, False), (False, True)):
        settings = [f"trainer.compile={compiled}", f"trainer.deterministic={deterministic}", "trainer.max_steps=1"]
        train(load_config([*TINY, shapes, *settings, f"output_dir={tmp_path / str(compiled)}"]))
    assert seen == [(True, False), (False, True)]


def test_every_seed_step_and_rank_has_draws_of_its_own() -> None:
    drawn = set()
    for seed, step, rank in itertools.product(range(3), repeat=3):
        seed_step(seed, step, rank)
        drawn.add(float(torch.rand(())))
    assert len(drawn) == 27
