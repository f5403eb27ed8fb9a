"""Files of weights are read without running what they hold, and with the names of today."""

from __future__ import annotations

import json
import pickle
import re
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_model import small_config
from torch import Tensor

from maskrcnn_train import build_model
from maskrcnn_train.engine.checkpoint import read_checkpoint
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.weights.files import read_weights, save_safetensors, torchvision_state
from maskrcnn_train.model.weights.loading import load_weights
from maskrcnn_train.settings.errors import UserError

NAMES = ["door", "window"]
# bottlenecks, and every norm of Detectron2's group-norm model
GROUPED = ["backbone=resnet50", "roi_head=conv4_fc1", "rpn.num_convs=2"]
GROUPED += [f"{key}=group" for key in ("backbone.norm", "backbone.fpn_norm", "roi_head.norm", "mask_head.norm")]


def model_of(*overrides: str, seed: int = 3) -> MaskRCNN:
    torch.manual_seed(seed)
    model = build_model(small_config(*overrides), len(NAMES) + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.rand_like(parameter) / 10)
    return model


def detectron2_name(name: str) -> str:
    """The other direction than the reader's, written from Detectron2's own layer names."""
    swaps = [
        (r"^backbone\.body\.conv1\.", "backbone.bottom_up.stem.conv1."),
        (r"^backbone\.body\.bn1\.", "backbone.bottom_up.stem.conv1.norm."),
        (r"\.bn(\d)\.", r".conv\1.norm."),
        (r"\.downsample\.0\.", ".shortcut."),
        (r"\.downsample\.1\.", ".shortcut.norm."),
        (r"^rpn\.head\.conv\.(\d)\.0\.", r"proposal_generator.rpn_head.conv.conv\1."),
        (r"^rpn\.head\.cls_logits", "proposal_generator.rpn_head.objectness_logits"),
        (r"^rpn\.head\.bbox_pred", "proposal_generator.rpn_head.anchor_deltas"),
        (r"^roi_heads\.mask_predictor\.conv5_mask", "roi_heads.mask_head.deconv"),
        (r"^roi_heads\.mask_predictor\.mask_fcn_logits", "roi_heads.mask_head.predictor"),
        (r"^roi_heads\.box_head\.5\.", "roi_heads.box_head.fc1."),
    ]
    for pattern, replacement in swaps:
        name = re.sub(pattern, replacement, name)
    name = re.sub(r"^backbone\.body\.layer(\d)", lambda m: f"backbone.bottom_up.res{int(m[1]) + 1}", name)
    for ours, theirs in (("inner", "lateral"), ("layer", "output")):
        name = re.sub(
            rf"^backbone\.fpn\.{ours}_blocks\.(\d)\.0\.", lambda m, t=theirs: f"backbone.fpn_{t}{int(m[1]) + 2}.", name
        )
        name = re.sub(
            rf"^backbone\.fpn\.{ours}_blocks\.(\d)\.1\.",
            lambda m, t=theirs: f"backbone.fpn_{t}{int(m[1]) + 2}.norm.",
            name,
        )
    for head, theirs in (("box_head", "conv"), ("mask_head", "mask_fcn")):
        name = re.sub(
            rf"^roi_heads\.{head}\.(\d)\.0\.", lambda m, h=head, t=theirs: f"roi_heads.{h}.{t}{int(m[1]) + 1}.", name
        )
        name = re.sub(
            rf"^roi_heads\.{head}\.(\d)\.1\.",
            lambda m, h=head, t=theirs: f"roi_heads.{h}.{t}{int(m[1]) + 1}.norm.",
            name,
        )
    return name


def detectron2_state(model: MaskRCNN) -> dict[str, Tensor]:
    """As Detectron2 would hold this model: background last, one box and mask a class, B G R."""
    state = {detectron2_name(name): tensor.clone() for name, tensor in model.state_dict().items()}
    state["backbone.bottom_up.stem.conv1.weight"] = state["backbone.bottom_up.stem.conv1.weight"][:, [2, 1, 0]]
    for kind in ("weight", "bias"):
        scores = state[f"roi_heads.box_predictor.cls_score.{kind}"]
        state[f"roi_heads.box_predictor.cls_score.{kind}"] = torch.cat([scores[1:], scores[:1]])
        state[f"roi_heads.box_predictor.bbox_pred.{kind}"] = state[f"roi_heads.box_predictor.bbox_pred.{kind}"][4:]
        state[f"roi_heads.mask_head.predictor.{kind}"] = state[f"roi_heads.mask_head.predictor.{kind}"][1:]
    return state


def test_a_detectron2_pickle_gives_every_layer_in_our_conventions(tmp_path: Path) -> None:
    source = model_of(*GROUPED)
    arrays = {name: tensor.numpy() for name, tensor in detectron2_state(source).items()}
    assert "backbone.bottom_up.res2.0.shortcut.norm.weight" in arrays
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps({"model": OrderedDict(arrays), "__author__": "Detectron2 Model Zoo"}, protocol=2))
    config = small_config(*GROUPED)
    model = build_model(config, len(NAMES) + 1)
    report = load_weights(model, read_weights(path, "detectron2"), config, NAMES)
    assert not report.reinitialized
    assert not report.unused
    for name, tensor in source.state_dict().items():
        here = model.state_dict()[name]
        if name.endswith(("bbox_pred.weight", "bbox_pred.bias")) and "rpn" not in name:
            here, tensor = here[4:], tensor[4:]  # no row for the background there
        elif "mask_fcn_logits" in name:
            here, tensor = here[1:], tensor[1:]
        assert torch.equal(here, tensor), name


def test_a_class_agnostic_model_of_detectron2_has_no_row_for_the_background_to_add(tmp_path: Path) -> None:
    keys = ("roi_head.class_agnostic=true", "mask_head.class_agnostic=true")
    source, model = model_of(*keys), model_of(*keys, seed=4)
    state = {detectron2_name(name): tensor.clone() for name, tensor in source.state_dict().items()}
    assert len(state["roi_heads.box_predictor.bbox_pred.bias"]) == 4
    scores = state["roi_heads.box_predictor.cls_score.bias"]
    state["roi_heads.box_predictor.cls_score.bias"] = torch.cat([scores[1:], scores[:1]])
    torch.save({"model": state}, tmp_path / "agnostic.pth")
    report = load_weights(model, read_weights(tmp_path / "agnostic.pth", "detectron2"), small_config(*keys), NAMES)
    assert not report.reinitialized
    for layer in ("box_predictor.cls_score", "box_predictor.bbox_pred", "mask_predictor.mask_fcn_logits"):
        name = f"roi_heads.{layer}.bias"
        assert torch.equal(model.state_dict()[name], source.state_dict()[name])


def test_frozen_norms_without_a_variance_have_one(tmp_path: Path) -> None:
    state = detectron2_state(model_of("backbone.norm=frozen"))
    state = {name: tensor for name, tensor in state.items() if not name.endswith("running_var")}
    torch.save({"model": state}, tmp_path / "old.pth")
    config = small_config("backbone.norm=frozen")
    model = build_model(config, 3)
    load_weights(model, read_weights(tmp_path / "old.pth", "detectron2"), config, NAMES)
    assert torch.equal(model.state_dict()["backbone.body.bn1.running_var"], torch.ones(64))


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    ("name", "source"), [("evil.pkl", "detectron2"), ("evil.pth", "file"), ("evil.pt", "detectron2")]
)
def test_a_payload_is_refused_and_does_not_run(name: str, source: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "ran", tmp_path / name
    content = {"model": {"backbone.bottom_up.x": np.zeros(2)}, "extra": Payload(mark)}
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=r"is refused") as refusal:
        read_weights(path, source)
    assert "\n" not in str(refusal.value)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # the payload works where it is let


def test_a_checkpoint_that_would_run_code_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    path = tmp_path / "evil.pt"
    torch.save({"format": "maskrcnn_train/1", "extra": Payload(tmp_path / "ran")}, path)
    with pytest.raises(UserError, match="is refused: it would run") as refusal:
        read_checkpoint(path)
    assert "weights_only" not in str(refusal.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["a.pkl", "a.pth", "a.safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"no weights at all", b"\x80\x02}q\x00(X\x01"),
        *(b"\x80\x04\x8e" + length.to_bytes(8, "little") for length in (2**62, 2**63)),  # of bytes that are not there
    ],
)
def test_a_damaged_file_is_one_line(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=name) as refusal:
        read_weights(tmp_path / name, "file")
    assert "\n" not in str(refusal.value)


def test_names_of_another_framework_say_which_option_is_right(tmp_path: Path) -> None:
    model = model_of()
    torch.save(detectron2_state(model), tmp_path / "theirs.pth")
    torch.save({**model.state_dict(), 7: torch.zeros(1)}, tmp_path / "ours.pth")  # 7 names no layer
    with pytest.raises(ValueError, match="weights=detectron2"):
        read_weights(tmp_path / "theirs.pth", "file")
    with pytest.raises(ValueError, match="weights=file"):
        read_weights(tmp_path / "ours.pth", "detectron2")


def test_safetensors_carry_classes_and_settings(tmp_path: Path) -> None:
    model, config = model_of(), small_config()
    path = tmp_path / "model.safetensors"
    save_safetensors(model, path, config=asdict(config), classes={"names": NAMES, "ids": [4, 9]})
    stored = read_weights(path, "file")
    assert stored.class_names == [None, *NAMES]
    fresh = build_model(config, 3)
    assert not load_weights(fresh, stored, config, NAMES).reinitialized
    for name, tensor in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(fresh.state_dict()[name], tensor), name


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    "more",
    [
        {"classes": NAMES},
        {"classes": {"names": NAMES}},
        {"config": {"lr": 0.1}, "classes": 2, "ema": 0.999},
        {"config": "yolo.yaml", "classes": "door, window"},
        {"config": {"backbone": "resnet18", "data": {"bits": 8}}},
    ],
)
def test_what_others_call_config_and_classes_is_not_used(suffix: str, more: dict[str, Any], tmp_path: Path) -> None:
    source, config, path = model_of(), small_config(), tmp_path / f"theirs{suffix}"
    if suffix == ".pth":
        torch.save({"model": source.state_dict(), **more}, path)
    else:
        notes = {key: value if isinstance(value, str) else json.dumps(value) for key, value in more.items()}
        save_file(source.state_dict(), path, metadata=notes)
    report = load_weights(build_model(config, 3), read_weights(path, "file"), config, NAMES)
    assert not report.reinitialized
    assert report.warnings == [f"{path.name} does not name its 2 classes; its rows are taken in the order door, window"]


def test_torchvision_loads_what_we_export() -> None:
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    torch.manual_seed(0)
    config = small_config(
        "backbone=resnet50",
        "backbone.fpn_channels=256",
        "roi_head=fc2",
        "roi_head.fc_dim=1024",
        "mask_head.conv_dim=256",
    )
    ours = build_model(config, 3).to(memory_format=torch.channels_last)
    theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    theirs.load_state_dict(torchvision_state(ours), strict=True)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[name], tensor)
