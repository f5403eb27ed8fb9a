"""Feature extractors of timm as backbones."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
import torch
from small_model import small_config

from maskrcnn_train import build_model
from maskrcnn_train.model.timm_body import build_timm_body, load_pretrained
from maskrcnn_train.model.weights import pretrained

pytest.importorskip("timm")
TIMM = ["backbone=timm", "backbone.timm_name=convnext_atto"]


@pytest.mark.parametrize("channels", [3, 5])
def test_a_convnext_trains_and_detects(channels: int) -> None:
    torch.manual_seed(0)
    pixels = [
        f"data.channels={channels}",
        *(f"numerics.{key}={[0.4] * channels}" for key in ("pixel_mean", "pixel_std")),
    ]
    model = build_model(small_config(*TIMM, *pixels), 3)
    image = [torch.rand(channels, 64, 80)]
    maps = model.features(model.prepare(image))
    assert [tuple(each.shape[2:]) for each in maps] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    target = {"boxes": torch.tensor([[8.0, 8, 40, 40]]), "labels": torch.tensor([1]), "masks": torch.ones(1, 64, 80)}
    losses = model(image, [target])
    sum(losses.values()).backward()
    assert model.backbone.body.features.stem_0.weight.grad.abs().sum() > 0
    assert set(model.eval()(image)[0]) == {"boxes", "labels", "scores", "masks"}


def test_stages_freeze_from_the_stem_up() -> None:
    model = build_model(small_config(*TIMM, "backbone.trainable_stages=2"), 3)
    trains = {name.split(".")[1] for name, each in model.backbone.body.named_parameters() if each.requires_grad}
    frozen = {name.split(".")[1] for name, each in model.backbone.body.named_parameters() if not each.requires_grad}
    assert trains == {"stages_2", "stages_3"}
    assert frozen == {"stem_0", "stem_1", "stages_0", "stages_1"}


@pytest.mark.parametrize("stages", [0, 3])
def test_a_model_whose_stages_cannot_be_told_apart_trains_whole_or_not_at_all(stages: int) -> None:
    settings = ["backbone=timm", "backbone.timm_name=mobilenetv3_small_050", f"backbone.trainable_stages={stages}"]
    body = build_model(small_config(*settings), 3).backbone.body
    assert {each.requires_grad for each in body.parameters()} == {stages > 0}


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224", "mobilenetv3_small_050", "regnety_002"])
def test_maps_are_channels_first_at_strides_4_to_32(name: str) -> None:
    body, widths, stages = build_timm_body(name, in_channels=3, frozen_norm=False)
    with torch.no_grad():
        maps = list(body.eval()(torch.zeros(1, 3, 128, 96)).values())
    assert [tuple(each.shape) for each in maps] == [
        (1, width, 128 // stride, 96 // stride) for width, stride in zip(widths, (4, 8, 16, 32), strict=True)
    ]
    assert len(stages) == 5


def test_frozen_norms_are_frozen() -> None:
    body, _, _ = build_timm_body("resnet18", in_channels=3, frozen_norm=True)
    assert not [module for module in body.modules() if isinstance(module, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("convnext_tinny", "is not a model of timm"),
        ("vit_tiny_patch16_224", "strides"),
        ("halonet26t", r"does not take images of any size \(AssertionError\)"),
    ],
)
def test_what_cannot_be_a_backbone_is_refused(name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build_timm_body(name, in_channels=3, frozen_norm=False)


def test_offline_pretrained_weights_fail_at_once_with_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    body, _, _ = build_timm_body("convnext_atto", in_channels=3, frozen_norm=False)
    with pytest.raises(ValueError, match=r"cannot download https://.*convnext_atto.*no route to host"):
        load_pretrained(body, "convnext_atto", 3)


def test_weights_of_other_pixel_values_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(body: object, name: str, in_channels: int) -> list[str]:
        return []

    monkeypatch.setattr(pretrained, "load_pretrained", loaded)
    config = small_config("backbone=timm", "backbone.timm_name=tf_efficientnet_lite0", "weights=imagenet")
    report = pretrained.start_from_weights(build_model(config, 3), config, ["door", "window"])
    assert report is not None
    (warning,) = report.warnings
    asked = [word.strip(",") for word in warning.split() if word.startswith("numerics.")]
    assert asked == ["numerics.pixel_mean=[0.5,0.5,0.5]", "numerics.pixel_std=[0.5,0.5,0.5]"]
    settings = ["backbone=timm", "backbone.timm_name=tf_efficientnet_lite0", "weights=imagenet", *asked]
    config = small_config(*settings)
    report = pretrained.start_from_weights(build_model(config, 3), config, ["door", "window"])
    assert report is not None
    assert not report.warnings
