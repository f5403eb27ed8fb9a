"""Initial weights: a file's layers into whatever model the config describes, with a report of every layer."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN_ResNet50_FPN_Weights

from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.weights.files import StoredWeights
from maskrcnn_train.model.weights.names import PARTS, causes, describe, is_norm, roles
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import TrainConfig

CLASS_ROWS = {  # rows a class of each predictor
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}
BACKGROUND = "__background__"


@dataclass(frozen=True)
class Fresh:
    """A layer that keeps its random weights. here, there: shapes in the model and in the file (None: not there)."""

    layer: str
    here: tuple[int, ...]
    there: tuple[int, ...] | None
    reason: str


@dataclass
class WeightsReport:
    """What became of every layer of the model and of the file.

    loaded: layers as they are in the file. adapted: predictors, whose rows follow class names. classes: our class ->
    the class in the file whose rows it took, None for a fresh one. fresh: with random weights, and why. unused: of
    the file. warnings: what a person should know before training.
    """

    origin: str
    loaded: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    classes: dict[str, str | None] = field(default_factory=dict)
    fresh: list[Fresh] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def load_weights(model: MaskRCNN, stored: StoredWeights, config: TrainConfig, class_names: list[str]) -> WeightsReport:
    """Copy into the model what fits its layers by role and shape; predictor rows follow class names.

    config: the model's. class_names: its classes, label 1 first; `weights.class_map` translates names in the weights.
    Batch-norm statistics count as layers. The first conv is scaled to the model's pixel_std, so that it sees what it
    was trained on. Raises UserError for a class_map that names unknown classes.

    >>> report = load_weights(model, read_weights(path, "coco"), config, ["person", "kite"])  # doctest: +SKIP
    """
    report = WeightsReport(stored.origin)
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("num_batches_tracked")}
    file_roles = roles(name for name in stored.layers if not name.endswith("num_batches_tracked"))
    theirs = {role: stored.layers[name] for name, role in file_roles.items()}
    ours = {role: state[name] for name, role in roles(state).items()}
    _fill_statistics(theirs)
    rows = _match_classes(stored, theirs, class_names, config.weights.class_map or {}, report)
    settings, their_settings = describe(ours), describe(theirs)
    with torch.no_grad():
        for role, tensor in ours.items():
            value, width = theirs.get(role), CLASS_ROWS.get(role.rpartition(".")[0])
            if width is not None:
                if value is not None and rows is not None and tensor.shape[1:] == value.shape[1:]:
                    _copy_rows(tensor, value, rows, width)
                    report.adapted.append(role)
                    continue
            elif value is not None and value.shape == tensor.shape and is_norm(role, ours) == is_norm(role, theirs):
                tensor.copy_(value)
                report.loaded.append(role)
                continue
            reason = _reason(role, settings, their_settings, theirs, rows is None)
            report.fresh.append(Fresh(role, tuple(tensor.shape), None if value is None else tuple(value.shape), reason))
        if stored.settings is not None:
            _scale_pixels(model, stored.settings, report)
    if stored.settings is not None:
        _numerics_differences(config, stored.settings, report, backbone_only=rows is None)
    report.unused = sorted(set(theirs) - set(report.loaded) - set(report.adapted))
    report.warnings += _frozen_but_fresh(model, report)
    return report


def _fill_statistics(layers: dict[str, Tensor]) -> None:
    """Frozen norms of old files have a mean without a variance: 1, as Detectron2 reads them."""
    for role in [role for role in layers if role.endswith("running_mean")]:
        layers.setdefault(role.replace("running_mean", "running_var"), torch.ones_like(layers[role]))


# ---------------------------------------------------------------- classes


def _match_classes(
    stored: StoredWeights,
    layers: Mapping[str, Tensor],
    class_names: list[str],
    class_map: Mapping[str, str],
    report: WeightsReport,
) -> list[int | None] | None:
    """Row in the file of each of our rows, background first; None where the file has no predictors that fit."""
    scores = layers.get("roi_heads.box_predictor.cls_score.weight")
    if scores is None:
        return None
    names = stored.class_names or _coco_names(len(scores))
    if names is None and len(scores) == len(class_names) + 1:
        report.warnings.append(
            f"{stored.origin} does not name its {len(class_names)} classes; its rows are taken in the order "
            f"{', '.join(class_names)}"
        )
        names = [None, *class_names]
    if names is None or len(names) != len(scores):
        report.warnings.append(
            f"{stored.origin} does not name its {len(scores) - 1} classes; its predictors are not used"
        )
        return None
    unknown = [name for name in class_map if name not in names]
    unknown += [name for name in class_map.values() if name not in class_names]
    if unknown:
        raise UserError(
            f"weights.class_map names {unknown[0]}, which is a class neither of {stored.origin} nor of the data; it "
            "maps names in the weights to names in the data, e.g. {automobile: car}"
        )
    by_name = {_plain(class_map.get(name, name)): row for row, name in enumerate(names) if name is not None}
    rows: list[int | None] = [0]
    for name in class_names:
        row = by_name.get(_plain(name))
        rows.append(row)
        report.classes[name] = None if row is None else names[row]
    return rows


def _plain(name: str) -> str:
    """`Traffic_Light` is `traffic light`."""
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def _coco_names(rows: int) -> list[str | None] | None:
    """COCO's classes as torchvision (91 rows: the original ids) and Detectron2 (81: without gaps) have them."""
    slots: list[str | None] = [
        None if name in ("N/A", BACKGROUND) else name
        for name in MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    ]
    named: list[str | None] = [None, *(name for name in slots if name is not None)]
    return {len(slots): slots, len(named): named}.get(rows)


def _copy_rows(target: Tensor, source: Tensor, rows: list[int | None], width: int) -> None:
    """Rows of classes that the file knows; `width` rows each."""
    for row, found in enumerate(rows):
        if found is not None:
            target[row * width : (row + 1) * width] = source[found * width : (found + 1) * width]


# ---------------------------------------------------------------- reasons


def _reason(
    role: str, settings: dict[str, Any], their_settings: dict[str, Any], theirs: Mapping[str, Tensor], no_rows: bool
) -> str:
    part = next(part for part in PARTS if role.startswith(part))
    if not any(other.startswith(part) for other in theirs):
        return "not in the weights"
    if role.rpartition(".")[0] in CLASS_ROWS and no_rows:
        return "classes unknown"
    keys = causes(role, settings, their_settings, absent=role not in theirs)
    return ", ".join(keys) or "not in the weights"


def _frozen_but_fresh(model: MaskRCNN, report: WeightsReport) -> list[str]:
    fresh = {each.layer for each in report.fresh}
    stuck = [
        stage
        for stage in model.backbone.frozen_stages
        if any(role.startswith(f"backbone.body.{stage}.") for role in fresh)
    ]
    if not stuck:
        return []
    return [f"{', '.join(stuck)} kept random weights but do not train; set backbone.trainable_stages=5"]


# ---------------------------------------------------------------- numerics


def _scale_pixels(model: MaskRCNN, settings: Mapping[str, Any], report: WeightsReport) -> None:
    """Scale the first conv to the model's pixel_std where the weights were trained with another."""
    first = "backbone.body.conv1.weight"
    std = model.pixel_std.new_tensor(settings["numerics"]["pixel_std"])
    factor = model.pixel_std.flatten() / std
    if first in report.loaded and not torch.allclose(factor, torch.ones_like(factor)):
        model.backbone.body.get_submodule("conv1").weight.mul_(factor[None, :, None, None])  # type: ignore[operator]
        report.warnings.append(f"{first} is scaled from the pixel_std of the weights to numerics.pixel_std")


COMPARED = ("pooler.sampling_ratio", "pooler.aligned", "mask_head.pooler.sampling_ratio", "mask_head.pooler.aligned")


def _numerics_differences(
    config: TrainConfig, settings: Mapping[str, Any], report: WeightsReport, *, backbone_only: bool
) -> None:
    """One warning with everything that the model computes otherwise than the model of the weights did."""
    keys = [f"numerics.{key}" for key in settings["numerics"] if key not in ("name", "pixel_std")] + [*COMPARED]
    if backbone_only:
        keys = ["numerics.stride_in", "numerics.pixel_mean"]
    elif config.backbone.norm_eps != settings["backbone"]["norm_eps"]:
        keys.append("backbone.norm_eps")
    ours = asdict(config)
    differing = []
    for key in keys:
        here, there = (
            functools.reduce(lambda tree, name: tree[name], key.split("."), tree) for tree in (ours, settings)
        )
        if here != there:
            differing.append(f"{key}={here} (weights: {there})")
    if differing:
        report.warnings.append(
            f"the weights were trained with other numerics than the model has: {', '.join(differing)}; "
            "accuracy suffers until the model has adapted; or set these keys as the weights have them"
        )
