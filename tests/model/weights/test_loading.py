"""Weights go where they belong, and the report says what became of every layer."""

from __future__ import annotations

import functools
from dataclasses import asdict

import pytest
import torch
from small_model import small_config
from torch import Tensor

from maskrcnn_train import build_model
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.weights.files import StoredWeights
from maskrcnn_train.model.weights.loading import WeightsReport, load_weights
from maskrcnn_train.settings.schema import TrainConfig

CLASSES = ["car", "person", "tree"]
PREDICTORS = {
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}


@functools.cache
def stored_model(*overrides: str) -> tuple[TrainConfig, MaskRCNN]:
    torch.manual_seed(5)
    config = small_config("roi_head=fc2", *overrides)
    model = build_model(config, len(CLASSES) + 1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor))
    return config, model


def stored(*overrides: str, names: list[str] | None = CLASSES) -> StoredWeights:
    config, model = stored_model(*overrides)
    rows = None if names is None else [None, *names]
    return StoredWeights("stored.pt", model.state_dict(), class_names=rows, settings=asdict(config))


def load(
    *overrides: str, into: tuple[str, ...] = (), names: list[str] = CLASSES, rows: list[str] | None = CLASSES
) -> tuple[MaskRCNN, WeightsReport]:
    """Weights of a model with `overrides`, loaded into one with `into` as well."""
    config = small_config("roi_head=fc2", *overrides, *into)
    torch.manual_seed(6)
    model = build_model(config, len(names) + 1)
    return model, load_weights(model, stored(*overrides, names=rows), config, names)


def reasons_of(report: WeightsReport) -> dict[str, str]:
    return {each.layer: each.reason for each in report.reinitialized}


def test_the_same_model_gets_every_layer() -> None:
    model, report = load()
    _, source = stored_model()
    for name, tensor in source.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(model.state_dict()[name], tensor), name
    assert not report.reinitialized
    assert not report.unused
    assert not report.warnings


BOX = "roi_heads.box_head."
CONVS = {f"{BOX}conv{index}.{kind}" for index in range(4) for kind in ("weight", "bias")}


@pytest.mark.parametrize(
    ("override", "layers"),
    [
        ("pooler.resolution=5", {f"{BOX}fc0.weight"}),
        ("roi_head.num_fcs=3", {f"{BOX}fc2.weight", f"{BOX}fc2.bias"}),
        ("rpn.num_convs=2", {"rpn.head.conv.1.0.weight", "rpn.head.conv.1.0.bias"}),
        ("mask_head.num_convs=5", {"roi_heads.mask_head.4.0.weight", "roi_heads.mask_head.4.0.bias"}),
        (
            "rpn.anchors.aspect_ratios=[1]",
            {f"rpn.head.{n}.{k}" for n in ("cls_logits", "bbox_pred") for k in ("weight", "bias")},
        ),
        (
            "mask_head.norm=batch",
            {
                f"roi_heads.mask_head.{i}.1.{k}"
                for i in range(4)
                for k in ("weight", "bias", "running_mean", "running_var")
            },
        ),
    ],
)
def test_a_changed_key_leaves_exactly_its_layers_fresh_and_is_named(override: str, layers: set[str]) -> None:
    _, report = load(into=(override,))
    assert reasons_of(report) == dict.fromkeys(layers, override.split("=")[0])


def test_convs_before_the_fcs_are_fresh_and_the_fcs_stay() -> None:
    """At equal widths: a conv_dim other than the pyramid's would change the first FC's input too."""
    model, report = load(into=("roi_head.num_convs=4", "roi_head.conv_dim=32"))
    assert reasons_of(report) == dict.fromkeys(CONVS, "roi_head.num_convs")
    assert torch.equal(model.state_dict()[f"{BOX}5.weight"], stored_model()[1].state_dict()[f"{BOX}fc6.weight"])


def test_norms_of_convs_that_the_weights_lack_name_the_number_of_convs() -> None:
    _, report = load("mask_head.norm=batch", into=("mask_head.num_convs=5",))
    assert set(reasons_of(report).values()) == {"mask_head.num_convs"}


def test_fewer_convs_take_the_first_ones_and_name_the_unused() -> None:
    _, report = load("roi_head.num_convs=4", into=("roi_head.num_convs=2",))
    assert not report.reinitialized
    assert report.unused == sorted(f"{BOX}conv{index}.{kind}" for index in (2, 3) for kind in ("weight", "bias"))


def test_another_pyramid_width_keeps_the_body_only_and_is_named() -> None:
    model, report = load(into=("backbone.fpn_channels=16",))
    assert all(name.startswith(("backbone.body.", "roi_heads.", "rpn.")) for name in report.loaded)
    assert reasons_of(report)["backbone.fpn.inner_blocks.0.0.weight"] == "backbone.fpn_channels"
    assert reasons_of(report)[f"{BOX}fc0.weight"] == "backbone.fpn_channels"
    assert torch.equal(model.backbone.body["conv1"].weight, stored_model()[1].backbone.body["conv1"].weight)


def test_group_norm_takes_no_affine_weights_of_a_batch_norm() -> None:
    _, report = load(into=("backbone.norm=group",))
    reasons = reasons_of(report)
    assert reasons["backbone.body.bn1.weight"] == "backbone.norm"
    assert reasons["backbone.body.layer2.0.downsample.1.bias"] == "backbone.norm"
    assert all(reason == "backbone.norm" for reason in reasons.values())


def test_box_only_leaves_the_mask_branch_unused() -> None:
    _, report = load(into=("mask_head.name=none",))
    assert not report.reinitialized
    assert all(name.startswith("roi_heads.mask_") for name in report.unused)


def test_a_layer_of_an_unknown_part_is_reported_and_the_others_load() -> None:
    config = small_config("roi_head=fc2")
    model = build_model(config, len(CLASSES) + 1)
    model.relation_head = torch.nn.Linear(4, 4)
    weights = stored()
    report = load_weights(model, weights, config, CLASSES)
    assert reasons_of(report) == dict.fromkeys(("relation_head.weight", "relation_head.bias"), "not in the weights")
    assert not report.unused

    wider = {**weights.layers, "relation_head.weight": torch.zeros(4, 8), "relation_head.bias": torch.ones(4)}
    report = load_weights(model, StoredWeights("wider.pt", wider, [None, *CLASSES], asdict(config)), config, CLASSES)
    assert reasons_of(report) == {"relation_head.weight": "another shape"}
    assert torch.equal(model.relation_head.bias, torch.ones(4))


# ---------------------------------------------------------------- classes


def rows_of(model: torch.nn.Module, label: int) -> list[Tensor]:
    state = model.state_dict()
    return [
        state[f"{name}.{kind}"][label * width : (label + 1) * width]
        for name, width in PREDICTORS.items()
        for kind in ("weight", "bias")
    ]


def test_rows_of_shared_classes_are_kept_bit_for_bit() -> None:
    model, report = load(names=["person", "window"])
    source = stored_model()[1]
    for mine, theirs in ((0, 0), (1, 2)):
        for here, there in zip(rows_of(model, mine), rows_of(source, theirs), strict=True):
            assert torch.equal(here, there)
    torch.manual_seed(6)
    untouched = build_model(small_config("roi_head=fc2"), 3)
    for here, there in zip(rows_of(model, 2), rows_of(untouched, 2), strict=True):
        assert torch.equal(here, there)
    assert report.classes == {"person": "person", "window": None}
    assert len(report.adapted) == 6


def test_class_map_renames_and_spelling_does_not_matter() -> None:
    config = small_config("roi_head=fc2")
    config.weights.class_map = {"car": "automobile"}
    model = build_model(config, 3)
    report = load_weights(model, stored(), config, ["automobile", "Tree"])
    assert report.classes == {"automobile": "car", "Tree": "tree"}
    config.weights.class_map = {"lorry": "automobile"}
    with pytest.raises(ValueError, match="class_map names lorry"):
        load_weights(model, stored(), config, ["automobile", "Tree"])


def test_unnamed_rows_are_taken_in_order_only_where_the_numbers_agree() -> None:
    _, report = load(rows=None)
    assert "does not name its 3 classes" in report.warnings[0]
    assert len(report.adapted) == 6
    _, report = load(rows=None, names=["a", "b"])
    assert not report.adapted
    assert reasons_of(report)["roi_heads.box_predictor.cls_score.weight"] == "classes unknown"


# ---------------------------------------------------------------- numerics


def test_another_profile_is_a_warning_that_names_the_differences() -> None:
    _, report = load(into=("numerics=detectron2",))
    (text,) = [warning for warning in report.warnings if "other numerics" in warning]
    for part in ("numerics.anchor_rounding=False (weights: True)", "pooler.aligned=True", "numerics.stride_in=1x1"):
        assert part in text


def test_the_first_conv_is_scaled_to_the_models_pixels() -> None:
    """One network, two pixel scales: 0..1 over the deviation of ImageNet, and 0..255."""
    model, report = load(into=("numerics.pixel_std=[0.003921568627,0.003921568627,0.003921568627]",))
    source = stored_model()[1]
    image = [torch.rand((3, 64, 64), generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        here, there = (each.backbone.body["conv1"](each.prepare(image).pixels) for each in (model, source))
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
    assert any("pixel_std" in warning for warning in report.warnings)


CONV = "backbone.body.conv1.weight"
TIMM_CONV = "backbone.body.features.stem_0.weight"


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 16])
def test_the_first_conv_is_spread_over_other_channels_as_timm_does(channels: int) -> None:
    from timm.models._manipulate import adapt_input_conv

    mean, std = ([value] * channels for value in (0.4, 0.01))
    into = (f"data.channels={channels}", f"numerics.pixel_mean={mean}", f"numerics.pixel_std={std}")
    model, report = load(into=into)
    expected = adapt_input_conv(channels, stored_model()[1].backbone.body["conv1"].weight.detach())
    assert torch.equal(model.backbone.body["conv1"].weight, expected)
    assert CONV in report.loaded
    assert report.warnings == [f"{CONV} is spread from 3 channels to {channels}"]  # no mean is compared
    assert model.backbone.frozen_stages == []


def test_a_spread_conv_sees_values_that_vary_by_one_whatever_the_weights_saw() -> None:
    """Detectron2's networks see 0..255: the same photograph, normalised by its own deviation, gives the same."""
    own = "numerics.pixel_std=[0.003921568627,0.003921568627,0.003921568627]"
    config = small_config("roi_head=fc2", "data.bits=16", "numerics.pixel_std=[0.5,0.5,0.5]")
    model = build_model(config, len(CLASSES) + 1)
    report = load_weights(model, stored(own), config, CLASSES)
    scale = torch.tensor([0.229, 0.224, 0.225])[:, None, None] * 255
    expected = stored_model(own)[1].backbone.body["conv1"].weight * scale
    torch.testing.assert_close(model.backbone.body["conv1"].weight, expected)
    assert "that of photographs" in report.warnings[0]


@pytest.mark.parametrize(
    ("network", "conv"), [((), CONV), (("backbone=timm", "backbone.timm_name=convnext_atto"), TIMM_CONV)]
)
def test_channels_that_nothing_can_be_made_of_are_fresh_and_named(network: tuple[str, ...], conv: str) -> None:
    five = ("data.channels=5", "numerics.pixel_mean=[0,0,0,0,0]", "numerics.pixel_std=[1,1,1,1,1]")
    config = small_config("roi_head=fc2", *network, "data.channels=4", "numerics.pixel_mean=[0,0,0,0]")
    config.numerics.pixel_std = [1.0] * 4
    report = load_weights(build_model(config, 4), stored(*network, *five), config, CLASSES)
    assert reasons_of(report) == {conv: "data.channels"}


def test_frozen_stages_with_random_weights_are_a_warning() -> None:
    _, report = load(into=("backbone.norm=group", "backbone.trainable_stages=3"))
    assert any("do not train" in warning for warning in report.warnings)


AGNOSTIC = ("roi_head.class_agnostic=true", "mask_head.class_agnostic=true")


def test_class_agnostic_heads_take_the_one_row_and_follow_the_classes_with_the_scores() -> None:
    _, source = stored_model(*AGNOSTIC)
    model, report = load(*AGNOSTIC, names=["tree", "car"])
    assert not report.reinitialized
    for layer in PREDICTORS:
        for kind in ("weight", "bias"):
            ours, theirs = model.state_dict()[f"{layer}.{kind}"], source.state_dict()[f"{layer}.{kind}"]
            assert torch.equal(ours, theirs[[0, 3, 1]] if "cls_score" in layer else theirs)


@pytest.mark.parametrize(("stored", "here"), [((), AGNOSTIC), (AGNOSTIC, ())])
def test_class_agnostic_heads_and_those_of_a_class_name_the_setting_that_keeps_them_apart(
    stored: tuple[str, ...], here: tuple[str, ...]
) -> None:
    off = () if here else tuple(each.replace("true", "false") for each in AGNOSTIC)
    _, report = load(*stored, into=here or off)
    head, mask_head = "roi_head.class_agnostic", "mask_head.class_agnostic"
    layers = {"box_predictor.bbox_pred": head, "mask_predictor.mask_fcn_logits": mask_head}
    reasons = {f"roi_heads.{layer}.{kind}": key for layer, key in layers.items() for kind in ("weight", "bias")}
    assert reasons_of(report) == reasons


def test_the_one_row_of_class_agnostic_heads_needs_no_names() -> None:
    _, report = load(*AGNOSTIC, names=["a", "b"], rows=None)
    assert set(reasons_of(report)) == {f"roi_heads.box_predictor.cls_score.{kind}" for kind in ("weight", "bias")}


def test_weights_of_another_version_may_have_other_settings() -> None:
    content = stored()
    assert content.settings is not None
    plain = {key: dict(each) if isinstance(each, dict) else each for key, each in content.settings.items()}
    del plain["backbone"]["norm_eps"], plain["numerics"]["pixel_std"]
    plain["numerics"]["former_key"] = True
    config = small_config("roi_head=fc2")
    model = build_model(config, len(CLASSES) + 1)
    other = StoredWeights("old.pt", content.layers, content.class_names, plain)
    assert not load_weights(model, other, config, CLASSES).reinitialized
