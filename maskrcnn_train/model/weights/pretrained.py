"""Initial weights of a training: finds the file of `weights=` and loads it into the model."""

from dataclasses import asdict
from pathlib import Path

from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.timm_body import TimmBody, load_pretrained
from maskrcnn_train.model.weights.files import read_weights
from maskrcnn_train.model.weights.loading import WeightsReport, load_weights
from maskrcnn_train.model.weights.published import find_weights
from maskrcnn_train.settings.compose import load_config
from maskrcnn_train.settings.schema import TrainConfig

# settings with which the published models were trained; unknown for a file of another origin
TRAINED_WITH = {
    "imagenet": [],
    "coco": ["weights=coco"],
    "coco_v2": ["weights=coco_v2"],
    "detectron2": ["numerics=detectron2"],
}


def start_from_weights(
    model: MaskRCNN, config: TrainConfig, class_names: list[str], path: Path | None = None
) -> WeightsReport | None:
    """Load `weights=` into the model; returns a report of every layer, or None with weights=none.

    path: the file, if it was found before. Raises UserError when the weights cannot be found, downloaded or read.
    """
    path = path or find_weights(config)
    body = model.backbone.body
    if isinstance(body, TimmBody) and config.weights.source == "imagenet":
        name = str(config.backbone.timm_name)
        return WeightsReport(f"timm {name}", loaded=load_pretrained(body, name, config.data.channels))
    if path is None:
        return None
    stored = read_weights(path, config.weights.source)
    if stored.settings is None and config.weights.source in TRAINED_WITH:
        stored.settings = asdict(load_config(TRAINED_WITH[config.weights.source]))
    return load_weights(model, stored, config, class_names)
