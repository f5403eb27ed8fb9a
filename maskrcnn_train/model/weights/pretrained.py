"""Initial weights of a training: finds the file of `weights=` and loads it into the model."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from torch import nn

from maskrcnn_train.model.backbone import PHOTO_CHANNELS
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.timm_body import TimmBody, load_pretrained, trained_pixels
from maskrcnn_train.model.weights.files import Layers, read_weights
from maskrcnn_train.model.weights.loading import WeightsReport, load_weights
from maskrcnn_train.model.weights.names import BODY
from maskrcnn_train.model.weights.published import find_weights
from maskrcnn_train.settings.compose import load_config
from maskrcnn_train.settings.errors import UserError
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
        loaded = load_pretrained(body, name, config.data.channels)
        return WeightsReport(f"timm {name}", loaded=loaded, warnings=_warn_of_pixels(name, config))
    if path is None:
        return None
    stored = read_weights(path, config.weights.source)
    if not any(name.startswith(BODY) for name in stored.layers):
        stored.layers = named_as_body(stored.layers, body)
        if not _fits(stored.layers, body):
            backbone = config.backbone.timm_name or config.backbone.name
            raise UserError(
                f"{path} has neither the layers of a detection model nor those of backbone={backbone}; "
                "set backbone to the network that the file is of"
            )
    if stored.settings is None and config.weights.source in TRAINED_WITH:
        stored.settings = asdict(load_config(TRAINED_WITH[config.weights.source]))
    return load_weights(model, stored, config, class_names)


def _warn_of_pixels(name: str, config: TrainConfig) -> list[str]:
    """A warning where timm trained a model on pixel values of another scale than the config gives it."""
    numerics, (mean, std) = config.numerics, trained_pixels(name)
    if config.data.channels != PHOTO_CHANNELS or (numerics.pixel_mean, numerics.pixel_std) == (mean, std):
        return []
    asked = f"numerics.pixel_mean={mean} numerics.pixel_std={std}".replace(", ", ",")
    return [f"timm trained {name} on other pixel values; set {asked}, or accuracy suffers until the model has adapted"]


def named_as_body(layers: Layers, body: nn.Module) -> Layers:
    """The layers of a backbone's own file by the model's names; what is not of the backbone keeps its name.

    torchvision's and timm's names are known behind any prefix, as self-supervised training leaves it:
    `module.encoder_q.layer1.0.conv1.weight`.
    """
    inside = "features." if isinstance(body, TimmBody) else ""
    ours = {_flat(name.removeprefix(inside)): name for name in body.state_dict()}
    starts = {name: [0, *(at + 1 for at, letter in enumerate(name) if letter == ".")] for name in layers}
    found = Counter(name[:at] for name in layers for at in starts[name] if _flat(name[at:]) in ours)
    prefix = max(found, key=found.__getitem__, default="")
    return {
        BODY + ours[flat] if name.startswith(prefix) and (flat := _flat(name[len(prefix) :])) in ours else name: tensor
        for name, tensor in layers.items()
    }


def _flat(name: str) -> str:
    """timm's feature extractors have `stages_0.blocks` for `stages.0.blocks`."""
    return name.replace(".", "_")


def _fits(layers: Layers, body: nn.Module) -> bool:
    """Whether the file has at least half of the backbone's layers. The first conv may have other channels."""
    ours = {BODY + name: tensor for name, tensor in body.state_dict().items()}
    fitting = [name for name, tensor in ours.items() if name in layers and layers[name].shape == tensor.shape]
    return 2 * len(fitting) >= len(ours)
