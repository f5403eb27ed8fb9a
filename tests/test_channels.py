"""A model of five channels at 16 bits, from check to its exported file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from commands import evaluated, predicted
from PIL import Image
from tiny import TINY

from maskrcnn_train import load_checkpoint, load_config, predict, train
from maskrcnn_train.check import check
from maskrcnn_train.data.shapes import ensure_shapes
from maskrcnn_train.engine.checkpoint import read_checkpoint
from maskrcnn_train.export import export
from maskrcnn_train.report import report
from maskrcnn_train.settings.command_rules import check_export_rules, check_preflight_rules, check_report_rules
from maskrcnn_train.settings.command_schema import CheckConfig, ExportConfig, ReportConfig
from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.settings.errors import UserError


@pytest.fixture(scope="module")
def deep_shapes(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The built-in shapes seen by five sensors of 12 bits, as TIFFs, and in the validation as arrays."""
    config = load_config(TINY)
    root = ensure_shapes(config.data.shapes, tmp_path_factory.mktemp("rgb"))
    folder, mixing = tmp_path_factory.mktemp("deep"), np.random.default_rng(0).dirichlet(np.ones(3), 5)
    arguments = ["data=custom", "data.channels=5", "data.bits=16", "data.picture_channels=[5,3,1]"]
    for split, kind in (("train", "tif"), ("val", "npy")):
        coco = json.loads((root / f"annotations/{split}.json").read_text())
        (folder / split).mkdir()
        for image in coco["images"]:
            with Image.open(root / split / image["file_name"]) as photograph:
                values = np.rint(np.asarray(photograph) @ mixing.T * 16).astype(np.uint16)
            image["file_name"] = f"{split}/{image['id']}.{kind}"
            path = folder / image["file_name"]
            if kind == "npy":
                np.save(path, values)
            else:
                tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig")
        (folder / f"{split}.json").write_text(json.dumps(coco))
        arguments += [f"data.{split}.annotations={folder / split}.json", f"data.{split}.images={folder}"]
    return arguments


@pytest.fixture(scope="module")
def measured(deep_shapes: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The settings of a training as check completes them."""
    folder = tmp_path_factory.mktemp("check") / "out"
    given = [*TINY, *deep_shapes, "workers=1", "timing=false", "view=true", "view_count=1", f"output_dir={folder}"]
    config, _ = load_command_config("check", CheckConfig, check_preflight_rules, given)
    result = check(config, given)
    (finding,) = [each for each in result.findings if each.kind == "pixel-statistics"]
    assert finding.severity == "error"  # without them a training would not start
    assert (folder / "view.png").is_file()
    told = [text for text in shlex.split(str(result.command)) if text.startswith("numerics.")]
    assert told == [f"{key}={value}".replace(", ", ",") for key, value in finding.override.items()]
    return [*deep_shapes, *told]


def test_check_measures_mean_and_deviation_of_each_channel(deep_shapes: list[str], measured: list[str]) -> None:
    folder = Path(deep_shapes[-1].partition("=")[2]) / "train"
    values = np.stack([tifffile.imread(path) for path in sorted(folder.glob("*.tif"))]) / 65535
    numerics = load_config([*TINY, *measured]).numerics
    np.testing.assert_allclose(numerics.pixel_mean, values.mean(axis=(0, 1, 2)), rtol=1e-3)
    np.testing.assert_allclose(numerics.pixel_std, values.std(axis=(0, 1, 2)), rtol=1e-3)
    given = [*TINY, *measured, "workers=1", "timing=false", f"output_dir={folder.parent / 'again'}"]
    again, _ = load_command_config("check", CheckConfig, check_preflight_rules, given)
    assert not [each for each in check(again).findings if each.kind == "pixel-statistics"]


@pytest.fixture(scope="module")
def run(measured: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step, and after a stop another."""
    folder = tmp_path_factory.mktemp("run") / "run"
    settings = [*TINY, *measured, "evaluation.pictures=1", "trainer.interval_unit=step", f"output_dir={folder}"]
    settings += ["roi_head.score_threshold=0", "trainer.batch_size=2"]
    train(load_config([*settings, "trainer.max_steps=1"]))
    train(load_config([*settings, "trainer.max_steps=2", f"resume={folder}"]))
    return folder


def test_a_training_on_five_channels_resumes_and_shows_three_of_them(run: Path, measured: list[str]) -> None:
    content = read_checkpoint(run / "checkpoints/last.pt")
    assert content["position"]["step"] == 2
    assert content["model"]["backbone.body.conv1.weight"].shape[1] == 5
    (picture,) = (run / "pictures").glob("*.jpg")
    with Image.open(picture) as image:
        assert np.asarray(image).std() > 20  # 12 bits of 16 would be almost black
    page, why_not = report(load_command_config("report", ReportConfig, check_report_rules, [f"run={run}"])[0])
    assert why_not == ""
    assert "data:image/jpeg" in page.read_text()


def test_it_is_evaluated_and_predicts_on_files_and_arrays(run: Path, deep_shapes: list[str], tmp_path: Path) -> None:
    checkpoint, folder = run / "checkpoints/last.pt", Path(deep_shapes[-1].partition("=")[2])
    metrics = evaluated(f"checkpoint={checkpoint}", folder=tmp_path / "evaluate")
    assert metrics == pytest.approx(json.loads((run / "metrics.json").read_text()), abs=1e-6)
    files = predicted(checkpoint, folder / "val", tmp_path / "whole")
    assert len(files.images) == 2
    assert not files.failed
    array = np.load(folder / "val/1.npy")
    (found,) = predict(load_checkpoint(checkpoint, device="cpu"), [array], score_threshold=0)
    again = predict(load_checkpoint(checkpoint, device="cpu"), [folder / "val/1.npy"], score_threshold=0)[0]
    assert torch.equal(found.boxes, again.boxes)
    coarse = (array // 257).astype(np.uint8)
    of_8, of_16 = predict(
        load_checkpoint(checkpoint, device="cpu"), [coarse, coarse * np.uint16(257)], score_threshold=0
    )
    assert torch.equal(of_8.boxes, of_16.boxes)
    with pytest.raises(UserError, match=r"must be uint16 or uint8 \[height, width, 5\], not uint8 \(64, 64, 3\)"):
        predict(load_checkpoint(checkpoint, device="cpu"), [np.zeros((64, 64, 3), np.uint8)])
    tiled = predicted(checkpoint, folder / "train/1.tif", tmp_path / "tiles", "tile.size=40")
    assert len(list((tiled.folder / "pictures").iterdir())) == 1


@pytest.mark.parametrize("format_", ["onnx", pytest.param("torchscript", marks=pytest.mark.slow)])
def test_its_exported_file_takes_16_bits_and_finds_what_it_finds(format_: str, run: Path, tmp_path: Path) -> None:
    given = [f"checkpoint={run / 'checkpoints/last.pt'}", f"format={format_}", f"output_dir={tmp_path / 'out'}"]
    given += ["roi_head.detections_per_image=5"]
    done = export(load_command_config("export", ExportConfig, check_export_rules, given)[0])
    assert done.differences is not None
    assert done.differences.images == 2
    assert done.differences.detections > 0
    assert not done.too_large
