"""Layers of a Mask R-CNN by their role, and what the shapes of weights tell of the settings that made them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

BODY, FPN, BOX, MASK = "backbone.body.", "backbone.fpn.", "roi_heads.box_head.", "roi_heads.mask_head."
PARTS = (BODY, FPN, "rpn.", BOX, "roi_heads.box_predictor.", MASK, "roi_heads.mask_predictor.")


def roles(names: Iterable[str]) -> dict[str, str]:
    """Role of each layer name: the same for the same layer in heads of another depth.

    torchvision numbers the box head by position: its first FC is `fc6`, or `5` after four convs; here `fc0`.

    >>> roles(["roi_heads.box_head.0.0.weight", "roi_heads.box_head.5.weight", "rpn.head.cls_logits.bias"])
    {'roi_heads.box_head.0.0.weight': 'roi_heads.box_head.conv0.weight', \
'roi_heads.box_head.5.weight': 'roi_heads.box_head.fc0.weight', 'rpn.head.cls_logits.bias': 'rpn.head.cls_logits.bias'}
    """
    names = list(names)
    positions = sorted({int(match[1]) for name in names if (match := re.match(rf"{BOX}(?:fc)?(\d+)\.\w+$", name))})
    result = {}
    for name in names:
        role = re.sub(rf"^{BOX}(\d+)\.0\.", rf"{BOX}conv\1.", name)
        role = re.sub(rf"^{BOX}(\d+)\.1\.", rf"{BOX}norm\1.", role)
        role = re.sub(
            rf"^{BOX}(?:fc)?(\d+)\.(\w+)$", lambda match: f"{BOX}fc{positions.index(int(match[1]))}.{match[2]}", role
        )
        result[name] = role
    return result


def describe(layers: Mapping[str, Tensor]) -> dict[str, Any]:
    """The settings that the shapes of layers (by role) tell, by config key; a key is absent where nothing tells it."""
    shapes = {role: tuple(tensor.shape) for role, tensor in layers.items()}
    body = {role: shape for role, shape in shapes.items() if role.startswith(BODY) and len(shape) == 4}
    told: dict[str, Any] = {
        "backbone.name": body or None,
        "backbone.norm": _norm(shapes, BODY + "bn1"),
        "backbone.fpn_channels": _size(shapes, FPN + "layer_blocks.0.0.weight", 0),
        "backbone.fpn_norm": _norm(shapes, FPN + "layer_blocks.0.1") if _has(shapes, FPN) else None,
        "rpn.num_convs": _count(shapes, r"rpn\.head\.conv\.(\d+)\.0\.weight") if _has(shapes, "rpn.") else None,
        "rpn.anchors.aspect_ratios": _size(shapes, "rpn.head.cls_logits.weight", 0),
    }
    if _has(shapes, "roi_heads.box_predictor."):
        told |= _describe_box_head(shapes, told["backbone.fpn_channels"])
    if _has(shapes, MASK) or _has(shapes, "roi_heads.mask_predictor."):
        told |= {
            "mask_head.num_convs": _count(shapes, rf"{MASK}(\d+)\.0\.weight"),
            "mask_head.conv_dim": _size(shapes, "roi_heads.mask_predictor.conv5_mask.weight", 1),
            "mask_head.norm": _norm(shapes, MASK + "0.1"),
        }
    return {key: value for key, value in told.items() if value is not None}


def _describe_box_head(shapes: dict[str, tuple[int, ...]], channels: int | None) -> dict[str, Any]:
    told: dict[str, Any] = {
        "roi_head.num_convs": _count(shapes, rf"{BOX}conv(\d+)\.weight"),
        "roi_head.conv_dim": _size(shapes, BOX + "conv0.weight", 0),
        "roi_head.norm": _norm(shapes, BOX + "norm0"),
        "roi_head.num_fcs": _count(shapes, rf"{BOX}fc(\d+)\.weight"),
        "roi_head.fc_dim": _size(shapes, BOX + "fc0.weight", 0),
    }
    pooled = _size(
        shapes, BOX + "fc0.weight" if told["roi_head.num_fcs"] else "roi_heads.box_predictor.cls_score.weight", 1
    )
    channels = told["roi_head.conv_dim"] or channels
    if pooled and channels:
        told["pooler.resolution"] = math.isqrt(pooled // channels)
    return told


def _has(shapes: dict[str, tuple[int, ...]], prefix: str) -> bool:
    return any(role.startswith(prefix) for role in shapes)


def _size(shapes: dict[str, tuple[int, ...]], role: str, axis: int) -> int | None:
    return shapes[role][axis] if role in shapes else None


def _count(shapes: dict[str, tuple[int, ...]], pattern: str) -> int:
    return sum(re.fullmatch(pattern, role) is not None for role in shapes)


def _norm(shapes: dict[str, tuple[int, ...]], prefix: str) -> str:
    """batch stands for frozen too: their weights are the same."""
    if f"{prefix}.running_mean" in shapes:
        return "batch"
    return "group" if f"{prefix}.weight" in shapes else "none"


def is_norm(role: str, roles_of_state: Iterable[str]) -> bool:
    """Whether a layer belongs to a batch norm: it has statistics beside it."""
    return f"{role.rpartition('.')[0]}.running_mean" in roles_of_state


# role -> the settings that decide whether the layer exists, and those that decide its shape
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
    (r"roi_heads\.box_predictor\.", (), ("roi_head.fc_dim", "roi_head.num_fcs", "pooler.resolution")),
    (rf"{MASK}\d+\.1\.", ("mask_head.norm", "mask_head.num_convs"), ("mask_head.conv_dim", "mask_head.norm")),
    (rf"{MASK}0\.0", ("mask_head.num_convs", "mask_head.norm"), ("mask_head.conv_dim", "backbone.fpn_channels")),
    (MASK, ("mask_head.num_convs", "mask_head.norm"), ("mask_head.conv_dim",)),
    (r"roi_heads\.mask_predictor\.", (), ("mask_head.conv_dim", "mask_head.num_convs", "backbone.fpn_channels")),
)
# what sets the width of the pooled features that the first FC, or the predictor without FCs, takes
_BOX_INPUT = ("roi_head.num_convs", "roi_head.conv_dim", "backbone.fpn_channels")


def causes(role: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], *, absent: bool) -> list[str]:
    """The settings that differ between two descriptions and for which a layer is `absent`, or has another shape."""
    _, presence, shape = next(row for row in _DEPENDS if re.match(row[0], role))
    if absent:
        return [key for key in presence if ours.get(key) != theirs.get(key)][:1]
    found = [key for key in shape if ours.get(key) != theirs.get(key)]
    takes_pooled = role == f"{BOX}fc0.weight" or role.startswith("roi_heads.box_predictor.")
    if not found and takes_pooled:
        found = [key for key in _BOX_INPUT if ours.get(key) != theirs.get(key)]
    return found
