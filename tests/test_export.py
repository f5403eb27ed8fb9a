"""`export`, as a command: each format, its check, and the lines that the documentation shows for its use."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import untrained_checkpoint

from maskrcnn_train import build_model, load_checkpoint
from maskrcnn_train.data.loading import evaluation_loader
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.evaluation.coco import metrics
from maskrcnn_train.export import Export, export, main
from maskrcnn_train.exporting import files
from maskrcnn_train.model.weights.files import read_weights
from maskrcnn_train.model.weights.loading import load_weights
from maskrcnn_train.prediction.results import detect_all
from maskrcnn_train.settings.command_rules import check_export_rules
from maskrcnn_train.settings.command_schema import ExportConfig
from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.settings.errors import UserError

DEPLOY = Path(__file__).parents[1] / "docs/deploy.md"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return untrained_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def run(checkpoint: Path, folder: Path, *overrides: str) -> Export:
    arguments = [f"checkpoint={checkpoint}", f"output_dir={folder}", *overrides]
    return export(load_command_config("export", ExportConfig, check_export_rules, arguments)[0])


@pytest.fixture(scope="module")
def onnx_export(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    folder = tmp_path_factory.mktemp("onnx") / "out"
    return run(checkpoint, folder, "format=onnx", "num_images=2", "evaluate=true", "roi_head.detections_per_image=5")


def test_onnx_is_checked_on_the_validation_images_and_scored(onnx_export: Export) -> None:
    assert onnx_export.differences is not None
    assert onnx_export.differences.images == 2
    assert onnx_export.differences.detections > 0
    assert not onnx_export.too_large
    assert set(onnx_export.metrics) == {"model", "file"}
    for key, value in onnx_export.metrics["model"].items():
        assert onnx_export.metrics["file"][key] == pytest.approx(value, abs=1e-6)
    kept = json.loads((onnx_export.path.parent / "check.json").read_text())
    assert kept["differences"]["images"] == 2


def test_onnx_carries_classes_and_thresholds(onnx_export: Export, checkpoint: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(onnx_export.path)
    about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    classes = load_checkpoint(checkpoint, device="cpu").classes
    assert about["class_names"] == ["__background__", *classes.names]
    assert about["labels"]["2"] == classes.ids[1]
    assert about["thresholds"]["mask"] == 0.5
    assert about["budgets"]["detections_per_image"] == 5


def test_the_lines_in_the_documentation_run(onnx_export: Export, tmp_path: Path) -> None:
    (lines,) = re.findall(r"```python\n(.*?)```", DEPLOY.read_text(), flags=re.DOTALL)
    assert len(lines.splitlines()) < 26
    (tmp_path / "model.onnx").write_bytes(onnx_export.path.read_bytes())
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.jpg")
    script = lines.replace("score < 0.5", "score < 0")  # so short a training finds nothing above 0.5
    assert script != lines
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 5
    assert re.match(r"\w+ 0\.\d\d at \d+ \d+ \d+ \d+", done.stdout)
    with Image.open(tmp_path / "result.png") as result, Image.open(tmp_path / "image.jpg") as image:
        assert result.size == (90, 70)
        assert np.asarray(result).sum() != np.asarray(image).sum()
    assert subprocess.run([sys.executable, "-c", lines], cwd=tmp_path).returncode == 0


def test_torchscript_carries_its_description_and_asks_for_no_gradients(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, tmp_path / "out", "format=torchscript", "num_images=1", "paste_masks=true")
    assert not done.too_large
    extra = {"metadata.json": ""}
    with pytest.warns(FutureWarning, match="deprecated"):
        module = torch.jit.load(done.path, _extra_files=extra)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert json.loads(extra["metadata.json"])["outputs"] == ["boxes", "labels", "scores", "masks"]


def test_the_file_of_a_model_of_tiles_is_checked_and_scored_in_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ["roi_head.detections_per_image=4", "evaluation.batch_size=1"]
    tiled = untrained_checkpoint(tmp_path, "data.tile.size=48", "data.tile.overlap=0.2", *few)
    seen: list[tuple[int, ...]] = []
    scored: list[list[dict[str, Any]]] = []
    open_file, score = files.open_torchscript, metrics.score_coco

    def recording_file(path: Path) -> files.Runtime:
        runtime = open_file(path)
        return lambda image: (seen.append(image.shape), runtime(image))[1]

    def recording_score(truth: Any, results: Any, *given: Any, **named: Any) -> metrics.CocoResult:
        scored.append(results)
        return score(truth, results, *given, **named)

    monkeypatch.setattr(files, "open_torchscript", recording_file)
    monkeypatch.setattr(metrics, "score_coco", recording_score)
    done = run(tiled, tmp_path / "out", "format=torchscript", "num_images=2", "evaluate=true")
    assert seen == [(48, 48, 3)] * (2 + 2 * 4)
    assert done.differences is not None
    assert done.differences.images == 2
    assert not done.too_large
    predictor = load_checkpoint(tiled, device="cpu")
    split = read_splits(predictor.config).val
    expected = detect_all(predictor, evaluation_loader(predictor.config, split, predictor.classes))
    assert len(expected) > 8
    for results in scored:
        assert [each["image_id"] for each in results] == [each["image_id"] for each in expected]
        for each, right in zip(results, expected, strict=True):
            assert each["bbox"] == pytest.approx(right["bbox"], abs=0.01)
            assert each["score"] == pytest.approx(right["score"], abs=1e-4)


def test_safetensors_become_initial_weights(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, tmp_path / "out", "format=safetensors")
    predictor = load_checkpoint(checkpoint, device="cpu")
    model = build_model(predictor.config, predictor.classes.num_classes)
    report = load_weights(model, read_weights(done.path, "file"), predictor.config, predictor.classes.names)
    assert not report.reinitialized
    for name, tensor in predictor.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor) or name.endswith("num_batches_tracked")


def test_the_description_alone_names_categories_and_preprocessing(checkpoint: Path, tmp_path: Path) -> None:
    done = run(checkpoint, tmp_path / "out", "format=coco_metadata")
    about = json.loads(done.path.read_text())
    predictor = load_checkpoint(checkpoint, device="cpu")
    assert [each["name"] for each in about["categories"]] == predictor.classes.names
    assert about["preprocessing"]["min_size"] == 64
    assert about["tiles"]["size"] is None
    assert about["preprocessing"]["mean"] == predictor.config.numerics.pixel_mean


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["export", *arguments])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_file_beyond_the_tolerance_is_said_by_the_exit_code(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"checkpoint={checkpoint}", "format=torchscript", "num_images=1", f"output_dir={tmp_path / 'out'}"]
    assert command(monkeypatch, *arguments, "tolerance={boxes: 0, scores: 0, mask_iou: 1}") == 1
    assert "differs too much" in capsys.readouterr().out
    assert (tmp_path / "out/model.torchscript").is_file()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("format=tflite", "format=tflite"),
        ("images=nowhere", "nowhere does not exist; set images"),
        ("checkpoint=gone.pt", "does not exist"),
        ("opset=9", "opset=9"),
        ("data=custom", "data"),
        ("tolerence.boxes=1", "did you mean tolerance.boxes"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(
    change: str,
    said: str,
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    key, value = change.split("=")
    given = {"checkpoint": str(checkpoint), "format": "onnx", "output_dir": "out", key: value}
    assert command(monkeypatch, *(f"{key}={value}" for key, value in given.items())) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said in error
    assert not (tmp_path / "out").exists()


def test_a_check_in_which_no_image_could_be_read_does_not_pass(tmp_path: Path) -> None:
    checkpoint = untrained_checkpoint(tmp_path, "data.on_bad_image=skip")
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(UserError, match="none of the images could be read: the file is written, but not checked"):
        run(checkpoint, tmp_path / "out", "format=torchscript", f"images={tmp_path / 'broken.png'}")


def test_a_missing_extra_is_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("maskrcnn_train.export.find_spec", lambda name: None)
    arguments = [f"checkpoint={checkpoint}", "format=onnx", f"output_dir={tmp_path / 'out'}"]
    assert command(monkeypatch, *arguments) == 2
    assert "maskrcnn-train[export]" in capsys.readouterr().err
