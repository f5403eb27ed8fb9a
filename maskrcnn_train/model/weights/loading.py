"""Copies the layers of a weight file into a model of any configuration, and reports what became of each."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from maskrcnn_train.model.backbone import PHOTO_CHANNELS
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.weights.files import Layers, StoredWeights
from maskrcnn_train.model.weights.names import (
    PARTS,
    canonical_names,
    differing_settings,
    first_conv,
    implied_settings,
    is_batch_norm,
)
from maskrcnn_train.settings.compose import default_config
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import flat_settings
from maskrcnn_train.settings.schema import TrainConfig

PHOTO_PIXELS = (PHOTO_CHANNELS, 8)  # with bits
CLASS_ROWS = {  # predictor layers, and how many rows each has for a class
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}


@dataclass(frozen=True)
class Reinitialized:
    """A layer that keeps its random weights. here, there: its shape in the model and in the file (None: absent)."""

    layer: str
    here: tuple[int, ...]
    there: tuple[int, ...] | None
    reason: str


@dataclass
class WeightsReport:
    """What became of every layer of the model and of the file, by canonical name.

    loaded: copied unchanged. adapted: predictors, copied row by row after the names of the classes. classes: each class
    of the model, and the class in the file whose rows it took (None: random rows). reinitialized: layers that keep
    random weights, and why. unused: layers of the file. warnings: what to know before training.
    """

    origin: str
    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    classes: dict[str, str | None] = field(default_factory=dict)
    reinitialized: list[Reinitialized] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def load_weights(model: MaskRCNN, stored: StoredWeights, config: TrainConfig, class_names: list[str]) -> WeightsReport:
    """Copy every layer whose canonical name and shape agree; predictor rows follow the names of the classes.

    config: the model's. class_names: its classes, label 1 first; `weights.class_map` translates names in the weights.
    Statistics of batch norms count as layers. The first conv is scaled to the model's pixel_std, so that it sees the
    pixel values that it was trained on, and spread over other channels than three. Raises UserError for a class_map
    that names unknown classes.

    >>> report = load_weights(model, read_weights(path, "coco"), config, ["person", "kite"])  # doctest: +SKIP
    """
    report = WeightsReport(stored.origin)
    ours, theirs = _by_canonical_name(model.state_dict()), _by_canonical_name(stored.layers)
    for layer in [layer for layer in theirs if layer.endswith("running_mean")]:
        # frozen norms of old files have a mean but no variance; it is 1, as Detectron2 reads them
        theirs.setdefault(layer.replace("running_mean", "running_var"), torch.ones_like(theirs[layer]))
    rows = _match_classes(stored, theirs, class_names, config.weights.class_map or {}, report)
    with torch.no_grad():
        _fit_first_conv(first_conv(ours), theirs, config, stored, report)
        _copy_layers(ours, theirs, rows, report)
        if stored.settings is not None:
            _warn_of_numerics(config, stored.settings, report, backbone_only=rows is None)
    report.unused = sorted(set(theirs) - set(report.loaded) - set(report.adapted))
    starts = {stage: f"backbone.body.{stage}." for stage in model.backbone.frozen_stages}
    random = [each.layer for each in report.reinitialized]
    if stuck := [stage for stage, start in starts.items() if any(layer.startswith(start) for layer in random)]:
        report.warnings.append(
            f"{', '.join(stuck)} kept random weights but do not train; set backbone.trainable_stages=5"
        )
    return report


def _by_canonical_name(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = canonical_names(name for name in state if not name.endswith("num_batches_tracked"))
    return {layer: state[name] for name, layer in names.items()}


def _copy_layers(
    ours: dict[str, Tensor], theirs: dict[str, Tensor], rows: list[int | None] | None, report: WeightsReport
) -> None:
    """Copy in place what fits, and note in the report what became of each layer of the model."""
    first = first_conv(ours)
    settings = implied_settings(ours, first), implied_settings(theirs, first)
    differing = partial(differing_settings, ours=settings[0], theirs=settings[1], first=first)
    for layer, tensor in ours.items():
        value, width = theirs.get(layer), CLASS_ROWS.get(layer.rpartition(".")[0])
        here, there = tuple(tensor.shape), None if value is None else tuple(value.shape)
        same_norm = is_batch_norm(layer, ours) == is_batch_norm(layer, theirs)
        if width is None and value is not None and there == here and same_norm:
            tensor.copy_(value)
            report.loaded.append(layer)
        elif width and value is not None and (taken := _rows_for(tensor, value, width, rows)):
            for row, found in enumerate(taken):
                if found is not None:
                    tensor[row * width : (row + 1) * width] = value[found * width : (found + 1) * width]
            report.adapted.append(layer)
        else:
            reason = _reason(layer, differing, theirs, no_rows=rows is None)
            report.reinitialized.append(Reinitialized(layer, here, there, reason))


def _rows_for(tensor: Tensor, value: Tensor, width: int, rows: list[int | None] | None) -> list[int | None] | None:
    """For each class in a predictor's layer, its row in `value`, the file's; None if they do not fit.

    A class-agnostic layer has one row, which a file of one class has after that of the background. rows: without that.
    """
    if tensor.shape[1:] != value.shape[1:]:
        return None
    here, there = len(tensor) // width, len(value) // width
    if here == 1:
        return [there - 1] if there <= 2 else None
    return rows if there > 1 else None


def _match_classes(
    stored: StoredWeights, layers: Layers, class_names: list[str], class_map: dict[str, str], report: WeightsReport
) -> list[int | None] | None:
    """For each row of our predictors, background first, its row in the file; None without predictors that fit."""
    scores = layers.get("roi_heads.box_predictor.cls_score.weight")
    names = None if scores is None else _row_names(stored, len(scores), class_names, report)
    if names is None:
        return None
    unknown = [name for name in class_map if name not in names]
    unknown += [name for name in class_map.values() if name not in class_names]
    if unknown:
        raise UserError(
            f"weights.class_map names {unknown[0]}, a class of neither {stored.origin} nor the data; write "
            "NAME IN THE WEIGHTS: NAME IN THE DATA, e.g. {automobile: car}"
        )
    by_name = {_simplified(class_map.get(name, name)): row for row, name in enumerate(names) if name is not None}
    rows = [by_name.get(_simplified(name)) for name in class_names]
    report.classes = {name: None if row is None else names[row] for name, row in zip(class_names, rows, strict=True)}
    return [0, *rows]


def _row_names(
    stored: StoredWeights, num_rows: int, class_names: list[str], report: WeightsReport
) -> list[str | None] | None:
    """The class of each predictor row in the file; None, with a warning, if that is unknown."""
    # COCO's classes: torchvision has 91 rows, after the original ids; Detectron2 81, without gaps
    categories = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    rows = [None if name in ("N/A", "__background__") else name for name in categories]
    coco = {len(each): each for each in (rows, [None, *filter(None, rows)])}
    names = stored.class_names or coco.get(num_rows)
    if names is not None and len(names) == num_rows:
        return names
    unnamed = f"{stored.origin} does not name its {num_rows - 1} classes"
    if names is None and num_rows == len(class_names) + 1:
        report.warnings.append(f"{unnamed}; its rows are taken in the order {', '.join(class_names)}")
        return [None, *class_names]
    report.warnings.append(f"{unnamed}; its predictors are not used")
    return None


def _simplified(name: str) -> str:
    """`Traffic_Light` becomes `traffic light`."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def _reason(layer: str, differing: Callable[..., list[str]], theirs: Mapping[str, Tensor], *, no_rows: bool) -> str:
    part = next((part for part in PARTS if layer.startswith(part)), layer)
    if not any(other.startswith(part) for other in theirs):
        return "not in the weights"
    if layer.rpartition(".")[0] in CLASS_ROWS and no_rows:
        return "classes unknown"
    keys = differing(layer, absent=layer not in theirs)
    return ", ".join(keys) or ("not in the weights" if layer not in theirs else "another shape")


def _fit_first_conv(
    layer: str, theirs: dict[str, Tensor], config: TrainConfig, stored: StoredWeights, report: WeightsReport
) -> None:
    """Scale the first conv of the weights to the model's pixel values, and spread it over the model's channels."""
    weight, channels = theirs.get(layer), config.data.channels
    if weight is None:
        return
    if stored.settings is not None:
        std = config.numerics.pixel_std
        known = torch.tensor(stored.settings["numerics"].get("pixel_std", std))
        goal = "numerics.pixel_std"
        if not _same_pixels(config, stored.settings):  # then values that vary by 1 are all that both have in common
            photos = _pixels(stored.settings) == PHOTO_PIXELS
            std, goal = default_config().numerics.pixel_std if photos else known.tolist(), "that of photographs"
        factor = torch.tensor(std) / known
        if not torch.allclose(factor, torch.ones_like(factor)):
            weight = weight * factor[None, :, None, None]
            report.warnings.append(f"{layer} is scaled from the pixel_std of the weights to {goal}")
    if weight.shape[1] == PHOTO_CHANNELS != channels:
        weight = spread_over_channels(weight, channels)
        report.warnings.append(f"{layer} is spread from 3 channels to {channels}")
    theirs[layer] = weight


def spread_over_channels(weight: Tensor, channels: int) -> Tensor:
    """A conv [O, 3, h, w] for another number of channels, so that inputs of like size give outputs of like size.

    The rule of timm's `adapt_input_conv`: for one channel the sum; else repeated, cut and scaled by 3 / channels.
    """
    if channels == 1:
        return weight.sum(dim=1, keepdim=True)
    times = -(-channels // weight.shape[1])
    return weight.repeat(1, times, 1, 1)[:, :channels] * (weight.shape[1] / channels)


def _pixels(settings: Mapping[str, Any]) -> tuple[int, int]:
    """Channels and bits of the images that a model was trained on; older settings do not say."""
    data = settings.get("data", {})
    return data.get("channels", PHOTO_PIXELS[0]), data.get("bits", PHOTO_PIXELS[1])


def _same_pixels(config: TrainConfig, settings: Mapping[str, Any]) -> bool:
    return _pixels(settings) == (config.data.channels, config.data.bits)


def _warn_of_numerics(
    config: TrainConfig, settings: Mapping[str, Any], report: WeightsReport, *, backbone_only: bool
) -> None:
    """Add one warning that names every setting by which the model computes otherwise than that of the weights."""
    keys = ["numerics.stride_in", "numerics.pixel_mean"]
    if not backbone_only:
        keys = [f"numerics.{key}" for key in settings["numerics"] if key not in ("name", "pixel_std")]
        keys += [
            f"{pooler}.{key}" for pooler in ("pooler", "mask_head.pooler") for key in ("sampling_ratio", "aligned")
        ]
        keys.append("backbone.norm_eps")
    if not _same_pixels(config, settings):
        keys.remove("numerics.pixel_mean")
    ours, theirs = flat_settings(asdict(config)), flat_settings(dict(settings))
    keys = [key for key in keys if key in ours and key in theirs]  # another version may have others
    if differing := [f"{key}={ours[key]} (weights: {theirs[key]})" for key in keys if ours[key] != theirs[key]]:
        report.warnings.append(
            f"the weights were trained with other numerics than the model has: {', '.join(differing)}; "
            "accuracy suffers until the model has adapted; or set these keys as the weights have them"
        )
