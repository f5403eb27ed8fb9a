from __future__ import annotations

from pathlib import Path

import pytest
import torch
from planted_data import DataSet
from torch import Tensor

from maskrcnn_train import build_model, load_config
from maskrcnn_train.checking import cost
from maskrcnn_train.checking.model import WORKSPACE, MemoryForecast, check_memory, check_model, forecast_memory
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.batch import ImageBatch, MaskCrops, Target

SIDE = 256


def configured(*overrides: str) -> TrainConfig:
    small = ["backbone=resnet18", "backbone.fpn_channels=64", "roi_head.fc_dim=64", "trainer.precision=fp32"]
    return load_config([*small, "trainer.device=cpu", "roi_head.sampling.batch_size=64", *overrides])


def kept_by_a_real_step(config: TrainConfig) -> int:
    """Bytes that autograd keeps in the losses of real images, every sampled proposal included."""
    model = build_model(config, 3).train()
    own = {each.data_ptr() for each in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    count, batch = 40, config.trainer.batch_size
    corners = torch.linspace(0, SIDE - 40, count)
    boxes = torch.stack((corners, corners, corners + 30, corners + 30), dim=1)
    whole = torch.cat((boxes[:, :2].floor(), boxes[:, :2].floor() + 32), dim=1).long()
    crops = MaskCrops(
        torch.ones(count * 32 * 32, dtype=torch.uint8), whole, torch.arange(count + 1) * 32 * 32, (SIDE, SIDE)
    )
    target = Target(boxes=boxes, labels=torch.ones(count, dtype=torch.int64), masks=crops, image_id=0)  # type: ignore[typeddict-item]
    sizes = [(SIDE, SIDE)] * batch
    images = ImageBatch(torch.zeros(batch, 3, SIDE, SIDE, dtype=torch.uint8), sizes, sizes)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = model(images, [target] * batch)
    assert len(losses) == 5
    return sum(kept.values())


def forecast(config: TrainConfig, size: tuple[int, int] = (SIDE, SIDE)) -> float:
    return forecast_memory(build_model(config, 3), config, size).step


def test_the_forecast_counts_what_a_real_step_keeps() -> None:
    config = configured("trainer.batch_size=2")
    one, two, four = (forecast(configured(f"trainer.batch_size={number}")) for number in (1, 2, 4))
    assert four - two == pytest.approx(2 * (two - one), rel=0.02)
    assert 2 * (two - one) / WORKSPACE == pytest.approx(kept_by_a_real_step(config), rel=0.2)


def test_it_grows_with_pixels_and_optimizer_and_shrinks_with_precision_and_frozen_stages() -> None:
    usual = forecast(configured())
    assert forecast(configured(), (2 * SIDE, SIDE)) > 1.05 * usual
    assert forecast(configured("optimizer=adamw")) > usual
    assert forecast(configured("trainer.precision=bf16")) < usual
    assert forecast(configured("backbone.trainable_stages=0", "backbone.norm=frozen")) < usual


def test_a_step_that_does_not_fit_is_a_warning_that_keeps_the_images_a_step() -> None:
    config = configured("trainer.batch_size=4", "trainer.accumulate=2")
    assert list(check_memory(MemoryForecast(8e9, 16e9, "cuda:0"), config)) == []
    assert list(check_memory(MemoryForecast(8e9, None, "cpu"), config)) == []
    (finding,) = check_memory(MemoryForecast(8e9, 8e9, "cuda:0"), config)
    assert finding.override == {"trainer.batch_size": 2, "trainer.accumulate": 4}


def test_memory_that_runs_out_in_the_timing_is_a_finding_beside_the_forecast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(cost, "_seconds", exhausted)
    monkeypatch.setenv("MASKRCNN_TRAIN_CACHE", str(tmp_path / "cache"))
    config = configured(*DataSet(tmp_path / "data").write(), "trainer.batch_size=4")
    splits = read_splits(config)
    findings, forecasts = check_model(config, splits.train, splits.classes, num_val=6, timing=True)
    (found,) = [finding for finding in findings if finding.severity == "error"]
    assert (found.kind, found.override) == ("memory-of-one", {"data.min_size": 32})
    assert "ran out of memory on cpu" in found.what
    assert forecasts.time is None
    assert forecasts.memory.step > 1e8


def test_one_image_that_does_not_fit_gets_smaller_where_its_size_comes_from() -> None:
    none, one = MemoryForecast(8e9, 8e9, "cuda:0"), ["trainer.batch_size=1", "data.max_size=999"]
    (finding,) = check_memory(none, configured(*one, "data.min_size=800"))
    assert finding.override == {"data.min_size": 576}
    sizes = "augmentation.min_sizes=[640,960,800]"
    (finding,) = check_memory(none, configured(*one, "data.min_size=320", sizes))
    assert finding.override == {"data.min_size": 576, "augmentation.min_sizes": [461, 691, 576]}
