"""Canonical names of layers, and the settings that the shapes of weights imply."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

BODY, FPN, BOX, MASK = "backbone.body.", "backbone.fpn.", "roi_heads.box_head.", "roi_heads.mask_head."
PARTS = (BODY, FPN, "rpn.", BOX, "roi_heads.box_predictor.", MASK, "roi_heads.mask_predictor.")


def canonical_names(names: Iterable[str]) -> dict[str, str]:
    """The canonical name of each layer: equal for the same layer in box heads of different depth.

    torchvision numbers the box head by position: its first FC is `fc6`, or `5` after four convs; here `fc0`.

    >>> canonical_names(["roi_heads.box_head.0.0.weight", "roi_heads.box_head.5.weight", "rpn.head.cls_logits.bias"])
    {'roi_heads.box_head.0.0.weight': 'roi_heads.box_head.conv0.weight', \
'roi_heads.box_head.5.weight': 'roi_heads.box_head.fc0.weight', 'rpn.head.cls_logits.bias': 'rpn.head.cls_logits.bias'}
    """
    names = list(names)
    positions = sorted({int(match[1]) for name in names if (match := re.match(rf"{BOX}(?:fc)?(\d+)\.\w+$", name))})
    result = {}
    for name in names:
        layer = re.sub(rf"^{BOX}(\d+)\.0\.", rf"{BOX}conv\1.", name)
        layer = re.sub(rf"^{BOX}(\d+)\.1\.", rf"{BOX}norm\1.", layer)
        fc = re.match(rf"{BOX}(?:fc)?(\d+)\.(\w+)$", layer)
        result[name] = f"{BOX}fc{positions.index(int(fc[1]))}.{fc[2]}" if fc else layer
    return result


def first_conv(layers: Mapping[str, Tensor]) -> str:
    """The conv of a model that sees the pixels; layers: in the model's order."""
    return next(layer for layer, tensor in layers.items() if layer.startswith(BODY) and tensor.ndim == 4)


def implied_settings(layers: Mapping[str, Tensor], first: str) -> dict[str, Any]:
    """The settings, by config key, that the shapes of layers, by canonical name, imply; no others. first: `first_conv`
    of the model."""
    shapes = {layer: tuple(tensor.shape) for layer, tensor in layers.items()}
    body = {layer: shape for layer, shape in shapes.items() if layer.startswith(BODY) and len(shape) == 4}
    body.pop(first, None)  # its shape is that of the images too
    implied: dict[str, Any] = {
        "backbone.name": body or None,
        "data.channels": _size(shapes, first, 1),
        "backbone.norm": _norm(shapes, BODY + "bn1"),
        "backbone.fpn_channels": _size(shapes, FPN + "layer_blocks.0.0.weight", 0),
        "backbone.fpn_norm": _norm(shapes, FPN + "layer_blocks.0.1") if _has(shapes, FPN) else None,
        "rpn.num_convs": _count(shapes, r"rpn\.head\.conv\.(\d+)\.0\.weight") if _has(shapes, "rpn.") else None,
        "rpn.anchors.aspect_ratios": _size(shapes, "rpn.head.cls_logits.weight", 0),
    }
    if _has(shapes, "roi_heads.box_predictor."):
        implied |= _implied_by_box_head(shapes, implied["backbone.fpn_channels"])
    if _has(shapes, MASK) or _has(shapes, "roi_heads.mask_predictor."):
        implied |= {
            "mask_head.num_convs": _count(shapes, rf"{MASK}(\d+)\.0\.weight"),
            "mask_head.conv_dim": _size(shapes, "roi_heads.mask_predictor.conv5_mask.weight", 1),
            "mask_head.norm": _norm(shapes, MASK + "0.1"),
            "mask_head.class_agnostic": _size(shapes, "roi_heads.mask_predictor.mask_fcn_logits.bias", 0) == 1,
        }
    return {key: value for key, value in implied.items() if value is not None}


def _implied_by_box_head(shapes: dict[str, tuple[int, ...]], channels: int | None) -> dict[str, Any]:
    implied: dict[str, Any] = {
        "roi_head.num_convs": _count(shapes, rf"{BOX}conv(\d+)\.weight"),
        "roi_head.conv_dim": _size(shapes, BOX + "conv0.weight", 0),
        "roi_head.norm": _norm(shapes, BOX + "norm0"),
        "roi_head.num_fcs": _count(shapes, rf"{BOX}fc(\d+)\.weight"),
        "roi_head.fc_dim": _size(shapes, BOX + "fc0.weight", 0),
        "roi_head.class_agnostic": _size(shapes, "roi_heads.box_predictor.bbox_pred.bias", 0) == 4,
    }
    first = BOX + "fc0.weight" if implied["roi_head.num_fcs"] else "roi_heads.box_predictor.cls_score.weight"
    pooled = _size(shapes, first, 1)
    channels = implied["roi_head.conv_dim"] or channels
    if pooled and channels:
        implied["pooler.resolution"] = math.isqrt(pooled // channels)
    return implied


def _has(shapes: dict[str, tuple[int, ...]], prefix: str) -> bool:
    return any(layer.startswith(prefix) for layer in shapes)


def _size(shapes: dict[str, tuple[int, ...]], layer: str, axis: int) -> int | None:
    return shapes[layer][axis] if layer in shapes else None


def _count(shapes: dict[str, tuple[int, ...]], pattern: str) -> int:
    return sum(re.fullmatch(pattern, layer) is not None for layer in shapes)


def _norm(shapes: dict[str, tuple[int, ...]], prefix: str) -> str:
    """batch, group or none; frozen norms have the weights of batch norms and count as batch."""
    if f"{prefix}.running_mean" in shapes:
        return "batch"
    return "group" if f"{prefix}.weight" in shapes else "none"


def is_batch_norm(layer: str, layers: Iterable[str]) -> bool:
    """Whether a layer belongs to a batch norm: `layers` has its running mean too."""
    return f"{layer.rpartition('.')[0]}.running_mean" in layers


_BOX_PREDICTOR = ("roi_head.fc_dim", "roi_head.num_fcs", "pooler.resolution")
# pattern of the layer, the settings that decide whether it exists, and those that decide its shape
_DEPENDS = (
    (rf"{BODY}.*(bn\d|downsample\.1)\.", ("backbone.norm", "backbone.name"), ("backbone.name", "backbone.norm")),
    (BODY, ("backbone.name",), ("backbone.name",)),
    (rf"{FPN}inner_blocks\.\d\.0\.weight", (), ("backbone.fpn_channels", "backbone.name")),
    (FPN, ("backbone.fpn_norm",), ("backbone.fpn_channels", "backbone.fpn_norm")),
    (r"rpn\.head\.conv\.", ("rpn.num_convs",), ("backbone.fpn_channels",)),
    (r"rpn\.head\.", (), ("rpn.anchors.aspect_ratios", "backbone.fpn_channels")),
    (rf"{BOX}norm", ("roi_head.norm", "roi_head.num_convs"), ("roi_head.conv_dim", "roi_head.norm")),
    (rf"{BOX}conv0", ("roi_head.num_convs", "roi_head.norm"), ("roi_head.conv_dim", "backbone.fpn_channels")),
    (rf"{BOX}conv", ("roi_head.num_convs", "roi_head.norm"), ("roi_head.conv_dim",)),
    (rf"{BOX}fc0\.weight", ("roi_head.num_fcs",), ("roi_head.fc_dim", "pooler.resolution")),
    (rf"{BOX}fc", ("roi_head.num_fcs",), ("roi_head.fc_dim",)),
    (r"roi_heads\.box_predictor\.bbox_pred\.", (), ("roi_head.class_agnostic", *_BOX_PREDICTOR)),
    (r"roi_heads\.box_predictor\.", (), _BOX_PREDICTOR),
    (rf"{MASK}\d+\.1\.", ("mask_head.norm", "mask_head.num_convs"), ("mask_head.conv_dim", "mask_head.norm")),
    (rf"{MASK}0\.0", ("mask_head.num_convs", "mask_head.norm"), ("mask_head.conv_dim", "backbone.fpn_channels")),
    (MASK, ("mask_head.num_convs", "mask_head.norm"), ("mask_head.conv_dim",)),
    (r"roi_heads\.mask_predictor\.mask_fcn", (), ("mask_head.class_agnostic", "mask_head.conv_dim")),
    (r"roi_heads\.mask_predictor\.", (), ("mask_head.conv_dim", "mask_head.num_convs", "backbone.fpn_channels")),
)
# the settings behind the width of the pooled features, which the first FC, or a predictor without FCs, takes
_BOX_INPUT = ("roi_head.num_convs", "roi_head.conv_dim", "backbone.fpn_channels")


def differing_settings(
    layer: str, *, ours: Mapping[str, Any], theirs: Mapping[str, Any], first: str, absent: bool
) -> list[str]:
    """The settings because of which the weights lack a layer (`absent`) or have it in another shape.

    layer: its canonical name. ours, theirs: the `implied_settings` of both sides. Empty for a layer of an unknown part.
    """
    rows = ((re.escape(first), (), ("data.channels", "backbone.name")), *_DEPENDS)
    _, existence, shape = next((row for row in rows if re.match(row[0], layer)), ("", (), ()))
    if absent:
        return [key for key in existence if ours.get(key) != theirs.get(key)][:1]
    found = [key for key in shape if ours.get(key) != theirs.get(key)]
    if not found and layer.startswith((f"{BOX}fc0.weight", "roi_heads.box_predictor.")):
        found = [key for key in _BOX_INPUT if ours.get(key) != theirs.get(key)]
    return found
