"""torchvision's COCO files, by their real names and layout, through the path that a training takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import (
    MaskRCNN_ResNet50_FPN_Weights,
    maskrcnn_resnet50_fpn,
    maskrcnn_resnet50_fpn_v2,
)

from maskrcnn_train import build_model, load_config
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.weights.loading import WeightsReport
from maskrcnn_train.model.weights.pretrained import start_from_weights
from maskrcnn_train.model.weights.published import COCO, IMAGENET
from maskrcnn_train.reporting.terminal.weights import weights_listing

NAMES = ["traffic light", "my own class", "person"]
SLOTS = MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]


def layout_of_2019(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names in the file that is published for the first model: before convs had norms beside them."""
    renamed = {}
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if name.startswith("backbone.fpn."):
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        if name.startswith("roi_heads.mask_head."):
            index, _, kind = name.removeprefix("roi_heads.mask_head.").split(".")
            name = f"roi_heads.mask_head.mask_fcn{int(index) + 1}.{kind}"
        renamed[name] = tensor
    return renamed


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torch") / "hub/checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    first = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    torch.save(layout_of_2019(first.state_dict()), folder / COCO["coco"])
    second = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    torch.save(second.state_dict(), folder / COCO["coco_v2"])
    body = {name.removeprefix("backbone.body."): each for name, each in first.state_dict().items() if ".body." in name}
    torch.save(
        body | {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}, folder / IMAGENET["resnet50"]
    )
    return folder


def start(cache: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> tuple[MaskRCNN, WeightsReport]:
    monkeypatch.setenv("TORCH_HOME", str(cache.parents[1]))
    config = load_config([*overrides, "weights.verify=false"])
    model = build_model(config, len(NAMES) + 1)
    report = start_from_weights(model, config, NAMES)
    assert report is not None
    return model, report


@pytest.mark.parametrize(("experiment", "weights"), [("torchvision_v1", "coco"), ("torchvision_v2", "coco_v2")])
def test_a_published_model_loads_whole(
    experiment: str, weights: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, report = start(cache, monkeypatch, f"experiment={experiment}", f"weights={weights}")
    assert not report.reinitialized
    assert not report.unused
    assert not report.warnings
    assert report.classes == {"traffic light": "traffic light", "my own class": None, "person": "person"}
    scores = torch.load(cache / COCO[weights], weights_only=True)["roi_heads.box_predictor.cls_score.weight"]
    rows = model.roi_heads.box_predictor.cls_score.weight
    for row, slot in ((0, 0), (1, SLOTS.index("traffic light")), (3, SLOTS.index("person"))):
        assert torch.equal(rows[row], scores[slot])
    assert "my own class\tfresh" in weights_listing(report)


def test_a_changed_pooler_or_conv_count_is_named_in_the_run(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, report = start(cache, monkeypatch, "experiment=finetune", "pooler.resolution=5", "roi_head.num_convs=4")
    reasons = {each.layer: each.reason for each in report.reinitialized}
    assert reasons.pop("roi_heads.box_head.fc0.weight") == "pooler.resolution"
    assert reasons == {
        f"roi_heads.box_head.conv{index}.{kind}": "roi_head.num_convs"
        for index in range(4)
        for kind in ("weight", "bias")
    }
    text = weights_listing(report)
    assert "roi_heads.box_head.fc0.weight\t1024 x 6400\t1024 x 12544\tpooler.resolution" in text


def test_imagenet_weights_fill_the_body_and_nothing_else(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, report = start(cache, monkeypatch, "weights=imagenet")
    assert all(layer.startswith("backbone.body.") for layer in report.loaded)
    assert not any(each.layer.startswith("backbone.body.") for each in report.reinitialized)
    assert {each.reason for each in report.reinitialized} == {"not in the weights"}
    assert report.unused == ["backbone.body.fc.bias", "backbone.body.fc.weight"]
    assert not report.warnings
    _, report = start(cache, monkeypatch, "weights=imagenet", "numerics=detectron2", "numerics.stride_in=1x1")
    assert any("numerics.stride_in=1x1 (weights: 3x3)" in warning for warning in report.warnings)
