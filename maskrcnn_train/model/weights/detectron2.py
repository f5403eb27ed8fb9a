"""Detectron2's weights under torchvision's names and conventions: background first, R G B."""

import re

import torch
from torch import Tensor

PREFIXES = ("backbone.bottom_up.", "proposal_generator.")
# to the names of torchvision's first model; `names.py` finds the layers in heads of other depth
RENAMES = (
    (r"^backbone\.bottom_up\.stem\.conv1\.norm\.", "backbone.body.bn1."),
    (r"^backbone\.bottom_up\.stem\.conv1\.", "backbone.body.conv1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
    (r"^proposal_generator\.rpn_head\.conv\.conv(\d)\.", r"rpn.head.conv.\1.0."),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.head.conv.0.0."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.head.cls_logits."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.head.bbox_pred."),
    (r"^roi_heads\.mask_head\.deconv\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"^roi_heads\.mask_head\.predictor\.", "roi_heads.mask_predictor.mask_fcn_logits."),
)


def is_detectron2(layers: dict[str, Tensor]) -> bool:
    return any(name.startswith(PREFIXES) for name in layers)


def from_detectron2(layers: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the layers, put the background row first and the input channels in the order R G B.

    A model of one class counts as one with a row for each class, which is the same there.

    The pixel scale stays that of the file: 0..255, see numerics=detectron2.
    """
    renamed = {_torchvision_name(name): tensor for name, tensor in layers.items()}
    first = "backbone.body.conv1.weight"
    if first in renamed:
        renamed[first] = renamed[first].flip(1)
    for name in ("roi_heads.box_predictor.cls_score.weight", "roi_heads.box_predictor.cls_score.bias"):
        if name in renamed:
            renamed[name] = renamed[name].roll(1, dims=0)
    scores = renamed.get("roi_heads.box_predictor.cls_score.bias")
    for layer, rows in (("roi_heads.box_predictor.bbox_pred", 4), ("roi_heads.mask_predictor.mask_fcn_logits", 1)):
        for name in {f"{layer}.weight", f"{layer}.bias"} & renamed.keys():
            tensor = renamed[name]
            if len(tensor) == rows and scores is not None and len(scores) > 2:
                continue  # class-agnostic: no background to add
            renamed[name] = torch.cat([tensor.new_zeros((rows, *tensor.shape[1:])), tensor])
    return renamed


def _torchvision_name(name: str) -> str:
    if match := re.match(r"^backbone\.fpn_(lateral|output)(\d)\.(norm\.)?(.+)$", name):
        blocks = "inner_blocks" if match[1] == "lateral" else "layer_blocks"
        return f"backbone.fpn.{blocks}.{int(match[2]) - 2}.{1 if match[3] else 0}.{match[4]}"
    if match := re.match(r"^roi_heads\.(box_head\.conv|mask_head\.mask_fcn)(\d)\.(norm\.)?(.+)$", name):
        head = match[1].split(".")[0]
        return f"roi_heads.{head}.{int(match[2]) - 1}.{1 if match[3] else 0}.{match[4]}"
    if match := re.match(r"^roi_heads\.box_head\.fc(\d)\.(.+)$", name):
        return f"roi_heads.box_head.fc{int(match[1]) + 5}.{match[2]}"
    name = re.sub(r"^backbone\.bottom_up\.res(\d)\.", lambda found: f"backbone.body.layer{int(found[1]) - 1}.", name)
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
