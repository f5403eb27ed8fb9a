"""Initial weights of a training: finds the file, knows what its model computed, loads it, says what became of it."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from maskrcnn_train.composing import load_config
from maskrcnn_train.config import TrainConfig
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.published import find_weights
from maskrcnn_train.model.timm_body import TimmBody, load_pretrained
from maskrcnn_train.model.weight_files import StoredWeights, read_weights
from maskrcnn_train.model.weights import WeightsReport, load_weights
from maskrcnn_train.reporting.weights import weights_listing, weights_summary

logger = logging.getLogger("maskrcnn_train")
# what the published models compute; a file of unknown origin says nothing
SETTINGS = {
    "imagenet": [],
    "coco": ["weights=coco"],
    "coco_v2": ["weights=coco_v2"],
    "detectron2": ["numerics=detectron2"],
}


def start_from_weights(
    model: MaskRCNN, config: TrainConfig, class_names: list[str], run_dir: Path | None, path: Path | None = None
) -> WeightsReport | None:
    """Load `weights=` into the model, log the report and write it to weights.txt; None with weights=none.

    run_dir: None on ranks that do not write. path: of the file, if it was looked for before. Raises ValueError when
    the weights cannot be had or read.
    """
    if config.weights.source == "none":
        return None
    body = model.backbone.body
    if isinstance(body, TimmBody) and config.weights.source == "imagenet":
        name = str(config.backbone.timm_name)
        report = WeightsReport(f"timm {name}", loaded=load_pretrained(body, name))
    else:
        report = load_weights(model, _read(config, path), config, class_names)
    if run_dir is not None:
        logger.info("%s", weights_summary(report))
        for warning in report.warnings:
            logger.warning("%s", warning)
        (run_dir / "weights.txt").write_text(weights_listing(report))
    return report


def _read(config: TrainConfig, path: Path | None) -> StoredWeights:
    source = config.weights.source
    path = path or find_weights(config.weights, config.backbone.name)
    assert path is not None
    stored = read_weights(path, source)
    if stored.settings is None and source in SETTINGS:
        stored.settings = asdict(load_config(SETTINGS[source]))
    return stored
