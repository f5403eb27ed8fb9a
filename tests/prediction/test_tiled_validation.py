"""Models of tiles: trained, resumed, and scored on whole images with what `predict` finds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from commands import evaluated, predicted
from tiny import TINY, untrained_checkpoint

from maskrcnn_train import load_checkpoint, load_config, predict, train
from maskrcnn_train.data.loading import evaluation_loader
from maskrcnn_train.data.splits.splitting import read_split
from maskrcnn_train.prediction.results import detect_all, validation_losses
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.tiles import Tiles

TILED = ["data.tile.size=40", "data.tile.overlap=0.25"]  # of images of 64 pixels: four tiles


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = untrained_checkpoint(tmp_path_factory.mktemp("tiled"), *TILED, "evaluation.batch_size=1")
    predictor = load_checkpoint(path, device="cpu")
    read_split(predictor.config.data, "val", predictor.classes, with_masks=False)  # draws the images
    return path


def test_validation_finds_what_predict_finds_in_the_same_tiles(checkpoint: Path) -> None:
    predictor = load_checkpoint(checkpoint, device="cpu")
    config = predictor.config
    split, _ = read_split(config.data, "val", predictor.classes, with_masks=True)
    loader = evaluation_loader(config, split, predictor.classes)
    done: list[list[int]] = []
    results = detect_all(predictor, loader, on_batch=done.append)
    paths = [Path(loader.dataset.image_path(number)) for number in range(len(split))]
    assert done == [[], [], [], [1], [], [], [], [2]]
    for tiles in (None, Tiles(40, 0.25)):
        found = predict(predictor, paths, score_threshold=0.0, tiles=tiles)
        assert results == [each for number, own in enumerate(found, start=1) for each in own.to_coco(number)]
    assert len(results) > 2 * 20  # more than one tile may have
    assert results[0]["segmentation"]["size"] == [64, 64]
    (whole, _) = predict(predictor, paths, score_threshold=0.0, tiles=Tiles(64, 0))
    assert len(whole) <= 20
    assert validation_losses(predictor, loader)["images"] == 8


def test_the_command_predicts_in_the_tiles_of_the_training(checkpoint: Path, tmp_path: Path) -> None:
    (image,) = sorted((checkpoint.parent / "shapes").rglob("val/000001.jpg"))
    counts = [
        len(predicted(checkpoint, image, tmp_path / name, *more, "roi_head.detections_per_image=20").results)
        for name, more in (
            ("as trained", []),
            ("tiles", ["tile.size=40", "tile.overlap=0.25"]),
            ("whole", ["tile.size=64"]),
        )
    ]
    assert counts[0] == counts[1] > 20 >= counts[2]


def test_a_training_on_tiles_resumes_within_its_epoch_and_is_scored_again_alike(shapes: str, tmp_path: Path) -> None:
    settings = [*TINY, shapes, *TILED, "schedule=constant", "trainer.interval_unit=step", "trainer.evaluate_every=0"]
    settings += ["augmentation.copy_paste=0.5", "evaluation.loss=true", "roi_head.score_threshold=0"]
    metrics = train(load_config([*settings, "trainer.max_steps=4", f"output_dir={tmp_path / 'once'}"])).metrics
    assert re.search(r"2 validation images, [34]\d tiles an epoch;", (tmp_path / "once/train.log").read_text())
    assert metrics["val_loss/total"] > 0
    for steps in (2, 4):
        train(load_config([*settings, f"trainer.max_steps={steps}", f"output_dir={tmp_path / 'twice'}", "resume=auto"]))
    once, twice = (load_checkpoint(tmp_path / name / "checkpoints/last.pt").model for name in ("once", "twice"))
    for (name, first), second in zip(once.state_dict().items(), twice.state_dict().values(), strict=True):
        assert torch.equal(first, second), name
    assert (tmp_path / "once/report.html").is_file()
    results = json.loads((tmp_path / "once/predictions.json").read_text())
    assert {each["image_id"] for each in results} == {1, 2}
    evaluated(f"checkpoint={tmp_path / 'once/checkpoints/last.pt'}", folder=tmp_path / "again")
    assert json.loads((tmp_path / "again/predictions.json").read_text()) == results


def test_an_analysis_of_tiles_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    from maskrcnn_train.analyze import analyze
    from maskrcnn_train.settings.command_rules import check_analyze_rules
    from maskrcnn_train.settings.command_schema import AnalyzeConfig
    from maskrcnn_train.settings.compose import load_command_config

    given = [f"checkpoint={checkpoint}", f"output_dir={tmp_path / 'out'}"]
    config, _ = load_command_config("analyze", AnalyzeConfig, check_analyze_rules, given)
    with pytest.raises(UserError, match="trained in tiles, and analyze follows objects of whole images only"):
        analyze(config)
    assert not (tmp_path / "out").exists()
