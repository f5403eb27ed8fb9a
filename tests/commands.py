"""Commands run inside the test's own process."""

from __future__ import annotations

from pathlib import Path

from maskrcnn_train.evaluate import evaluate
from maskrcnn_train.predict import predict_images
from maskrcnn_train.prediction.files import PredictionFiles
from maskrcnn_train.settings.command_rules import check_evaluate_rules, check_predict_rules
from maskrcnn_train.settings.command_schema import EvaluateConfig, PredictConfig
from maskrcnn_train.settings.compose import load_command_config

ALL = ["score_threshold=0", "roi_head.score_threshold=0", "roi_head.detections_per_image=4"]


def evaluated(*overrides: str, folder: Path, study: bool = False) -> dict[str, float]:
    given = [*overrides, f"output_dir={folder}", "num_workers=0", f"evaluation.study={study}"]
    config, _ = load_command_config("evaluate", EvaluateConfig, check_evaluate_rules, given)
    return evaluate(config)


def predicted(checkpoint: Path, images: Path | str, folder: Path, *overrides: str) -> PredictionFiles:
    arguments = [f"checkpoint={checkpoint}", f"images='{images}'", f"output_dir={folder}", *ALL, *overrides]
    config, _ = load_command_config("predict", PredictConfig, check_predict_rules, arguments)
    return predict_images(config)
