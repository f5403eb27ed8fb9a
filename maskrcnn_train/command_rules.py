"""Rules between the settings of each command beside training. This module never imports torch."""

from __future__ import annotations

from maskrcnn_train.command_config import EvaluateConfig, PredictConfig
from maskrcnn_train.rules import check_data_rules, check_evaluation_rules


def check_evaluate_rules(config: EvaluateConfig) -> list[str]:
    """Rules between the settings of an evaluation."""
    if (config.checkpoint is None) == (config.predictions is None):
        raise ValueError("give either checkpoint=RUN/checkpoints/best.pt or predictions=RESULTS.json, and only one")
    if config.predictions is not None and config.annotations is None:
        raise ValueError("annotations is not set; predictions= needs the ground truth: annotations=FILE.json")
    if config.data is not None:
        check_data_rules(config.data)
    check_evaluation_rules(config.evaluation)
    if config.checkpoint is not None and config.annotations is not None:
        return ["annotations has no effect with checkpoint=; choose the data with data= and split="]
    return []


def check_predict_rules(config: PredictConfig) -> list[str]:
    """Rules between the settings of a prediction."""
    wanted = config.roi_head.score_threshold
    if wanted is not None and wanted > config.score_threshold:
        return [f"roi_head.score_threshold={wanted} is above score_threshold={config.score_threshold} and decides"]
    return []
