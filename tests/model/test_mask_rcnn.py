from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from small_model import small_config
from torch import Tensor, nn

from maskrcnn_train.model.box_head import FCHead
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.outputs import DetectionRules, select_detections
from maskrcnn_train.model.paths import FIXED, FOLLOWING, PathRule, always_fixed, path_for
from maskrcnn_train.model.pooling import SMALLEST_AREAS
from maskrcnn_train.model.sampling import Samples, SamplingRules
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.batch import ImageBatch, MaskCrops, Target

Build = Callable[..., MaskRCNN]
Batch = tuple[ImageBatch, list[Target]]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
FIVE = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg", "loss_mask"}


def nothing() -> Target:
    masks = MaskCrops(
        torch.zeros(0, dtype=torch.uint8),
        torch.zeros(0, 4, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64),
        (64, 96),
    )
    return {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": masks, "image_id": 1}


def test_losses_reach_every_parameter(small_model: Build, batch: Batch) -> None:
    model = small_model()
    losses = model(*batch)
    assert set(losses) == FIVE
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_a_batch_without_objects_trains_and_keeps_all_gradients(small_model: Build, batch: Batch, norm: str) -> None:
    model = small_model(f"roi_head.norm={norm}", f"mask_head.norm={norm}")
    losses = model(batch[0], [nothing(), nothing()])
    assert set(losses) == FIVE
    assert float(losses["loss_mask"].detach()) == 0
    assert float(losses["loss_box_reg"].detach()) == 0
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@pytest.mark.parametrize("path_for", [path_for, always_fixed])
def test_no_proposals_and_no_objects_give_zero_losses(small_model: Build, batch: Batch, path_for: PathRule) -> None:
    model = small_model("numerics.min_proposal_size=10000", path_for=path_for)
    losses = model(batch[0], [nothing(), nothing()])
    for name in ("loss_classifier", "loss_box_reg", "loss_mask"):
        assert float(losses[name].detach()) == 0
    sum(losses.values()).backward()
    found = model.eval()(batch[0])
    assert [tuple(each["masks"].shape) for each in found] == [(0, 1, 28, 28)] * 2


def test_one_image_without_objects_beside_one_with(small_model: Build, batch: Batch) -> None:
    losses = small_model()(batch[0], [nothing(), batch[1][1]])
    assert float(losses["loss_mask"].detach()) > 0


def test_without_mask_head_it_is_plain_detection(small_model: Build, batch: Batch) -> None:
    model = small_model("mask_head=none", "trainer.loss_weights.mask=2", "roi_head.score_threshold=0.0")
    assert not [name for name in model.state_dict() if "mask" in name]
    bare: list[Target] = [{"boxes": target["boxes"], "labels": target["labels"]} for target in batch[1]]
    assert set(model(batch[0], bare)) == FIVE - {"loss_mask"}
    found = model.eval()(batch[0])
    assert set(found[0]) == {"boxes", "labels", "scores"}
    assert len(found[0]["boxes"]) > 0


def test_detections_are_in_pixels_of_the_original_image(small_model: Build, batch: Batch) -> None:
    model = small_model("roi_head.score_threshold=0.0", "roi_head.detections_per_image=7").eval()
    with torch.no_grad():
        found = model(batch[0])
    inputs = model.prepare(batch[0])
    features = model.features(inputs)
    network = model.detections(features, model.proposals(features, inputs), inputs)
    torch.testing.assert_close(found[0]["boxes"], network[0].boxes * 2, atol=1e-3, rtol=1e-4)  # 64x96 was 128x192
    torch.testing.assert_close(found[1]["boxes"], network[1].boxes, atol=1e-3, rtol=1e-4)
    for each in found:
        assert each["masks"].shape == (7, 1, 28, 28)
        assert 0 <= float(each["masks"].min()) <= float(each["masks"].max()) <= 1
        assert int(each["labels"].min()) >= 1


def test_padding_is_zero_after_normalising(small_model: Build, batch: Batch, device: torch.device) -> None:
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (MEAN, STD))
    pixels = small_model().prepare(batch[0]).pixels
    assert float(pixels[1, :, :, 80:].abs().max()) == 0
    expected = (batch[0].pixels[1, :, :, :80] / 255 - mean) / std
    torch.testing.assert_close(pixels[1, :, :, :80], expected, atol=1e-5, rtol=1e-5)
    assert batch[0].pixels.dtype == torch.uint8
    scaled = small_model("numerics.pixel_std=[0.5,0.5,0.5]", "numerics.pixel_mean=[0,0,0]").prepare(batch[0]).pixels
    torch.testing.assert_close(scaled[0], batch[0].pixels[0] / 127.5)


def test_other_pixels_and_another_mean_are_normalised_as_a_fresh_model_does(small_model: Build) -> None:
    """The constants that are kept of one batch follow the next."""
    model = small_model().to("cpu")
    sizes = [(32, 64), (32, 4128)]
    batches = [
        ImageBatch(torch.full((1, 3, *size), 200, dtype=dtype), [size], [size])
        for dtype in (torch.uint8, torch.uint16)
        for size in sizes
    ]
    for layout in (torch.contiguous_format, torch.channels_last):
        model.to(memory_format=layout)
        for mean in (0.5, 0.25):
            model.pixel_mean.fill_(mean)
            for batch in batches:
                highest = torch.iinfo(batch.pixels.dtype).max
                expected = ((200 / highest - model.pixel_mean) / model.pixel_std)[None].expand(1, 3, *batch.sizes[0])
                torch.testing.assert_close(model.prepare(batch).pixels, expected, check_stride=False)


def test_a_list_of_images_is_resized_to_the_configured_sides(small_model: Build, device: torch.device) -> None:
    def images(*sizes: tuple[int, int]) -> list[Tensor]:
        return [torch.rand(3, *size, device=device) for size in sizes]

    inputs = small_model().prepare(images((100, 120), (50, 200)))
    assert inputs.sizes == [(64, 76), (24, 96)]  # shorter side 64; longer side at most 96
    assert inputs.original_sizes == [(100, 120), (50, 200)]
    assert inputs.padded_size == (64, 96)
    assert small_model("data.min_size=32").prepare(images((64, 64))).sizes == [(32, 32)]
    with pytest.raises(ValueError, match="divide uint8 images by 255"):
        small_model().prepare([torch.zeros(3, 8, 8, dtype=torch.uint8)])
    with pytest.raises(ValueError, match=r"must be float \[3, height, width\] in 0..1, got torch.float32 \(1, 8, 8\)"):
        small_model().prepare([torch.zeros(1, 8, 8)])
    with pytest.raises(ValueError, match="got float64"):
        small_model().prepare([np.zeros((3, 8, 8))])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.tensor([[1.0, 2, 1, 9]])}, "image_id 100: box 0 is"),
        ({"boxes": torch.tensor([[1.0, 2, float("nan"), 9]])}, "image_id 100: box 0 is"),
        ({"labels": torch.tensor([4])}, r"label 4 of box 0 is not among 1\.\.3"),
        ({"labels": torch.tensor([1, 2])}, r"1 boxes and labels \[2\]; give one label a box"),
        ({"labels": torch.tensor([[1]])}, r"1 boxes and labels \[1, 1\]"),
        ({"labels": [1]}, "image_id 100: its labels are of type list; give a tensor"),
        ({"masks": np.zeros((1, 64, 96))}, "image_id 100: its masks are of type ndarray"),
        ({"masks": torch.zeros(2, 64, 96)}, "1 boxes and 2 masks"),
    ],
)
def test_unusable_targets_are_named(small_model: Build, batch: Batch, change: Target, message: str) -> None:
    good: Target = {
        "boxes": torch.tensor([[1.0, 2, 5, 9]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 64, 96),
        "image_id": 100,
    }
    with pytest.raises(ValueError, match=message):
        small_model()(batch[0], [{**good, **change}, nothing()])


@pytest.mark.parametrize("shape", [(1, 40, 48), (1, 1, 50, 48), (50, 48)])
def test_masks_of_another_size_than_their_image_are_refused(small_model: Build, shape: tuple[int, ...]) -> None:
    target: Target = {"boxes": torch.tensor([[1.0, 2, 5, 9]] * shape[0]), "labels": torch.ones(shape[0]).long()}
    with pytest.raises(ValueError, match=r"image 0 of the batch has masks .*, but an image of height 50 and width 48"):
        small_model()([torch.rand(3, 50, 48)], [{**target, "masks": torch.ones(shape)}])


def test_missing_masks_and_targets_are_named(small_model: Build, batch: Batch) -> None:
    with pytest.raises(ValueError, match="mask_head=none"):
        small_model()(batch[0], [{"boxes": torch.tensor([[1.0, 2, 5, 9]]), "labels": torch.tensor([1])}, nothing()])
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        small_model()(batch[0])


def test_channels_last_and_bfloat16_give_nearly_the_same(
    small_model: Build, batch: Batch, device: torch.device
) -> None:
    model = small_model()
    torch.manual_seed(1)
    expected = model(*batch)
    model = model.to(memory_format=torch.channels_last)
    assert model.prepare(batch[0]).pixels.is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(1)
    found = model(*batch)
    for name in FIVE:
        torch.testing.assert_close(found[name], expected[name], atol=1e-3, rtol=1e-3)
    with torch.autocast(device.type, torch.bfloat16):
        inputs = model.prepare(batch[0])
        features = model.features(inputs)
        assert {level.dtype for level in features} == {torch.bfloat16}
        assert model.proposals(features, inputs)[0].boxes.dtype == torch.float32
        torch.manual_seed(1)
        low = model(*batch)
        found_low = model.eval()(batch[0])
    assert {loss.dtype for loss in low.values()} == {torch.float32}
    assert {value.dtype for value in found_low[0].values()} == {torch.float32, torch.int64}
    sum(low.values()).backward()
    for name in FIVE:
        torch.testing.assert_close(low[name], expected[name], atol=0.1, rtol=0.1)


def shapes_of(model: MaskRCNN, prefix: str) -> dict[str, tuple[int, ...]]:
    return {
        name.removeprefix(prefix + "."): tuple(value.shape)
        for name, value in model.state_dict().items()
        if name.startswith(prefix + ".")
    }


def test_layers_of_the_box_head(small_model: Build) -> None:
    assert list(shapes_of(small_model("roi_head.num_convs=0"), "roi_heads.box_head")) == [
        f"{name}.{kind}" for name in ("fc6", "fc7") for kind in ("weight", "bias")
    ]
    convs = shapes_of(small_model("roi_head.num_convs=2", "roi_head.num_fcs=1"), "roi_heads.box_head")
    assert convs == {
        "0.0.weight": (16, 32, 3, 3),
        "0.0.bias": (16,),
        "1.0.weight": (16, 16, 3, 3),
        "1.0.bias": (16,),
        "3.weight": (32, 16 * 49),
        "3.bias": (32,),
    }
    normed = shapes_of(small_model("roi_head.num_convs=1", "roi_head.norm=batch"), "roi_heads.box_head")
    assert "0.0.bias" not in normed
    assert "0.1.running_mean" in normed
    assert "0.1.weight" in shapes_of(small_model("roi_head.norm=group"), "roi_heads.box_head")
    bare = small_model("roi_head.num_fcs=0")
    assert shapes_of(bare, "roi_heads.box_predictor")["cls_score.weight"] == (4, 16 * 49)
    wide = small_model("roi_head.conv_dim=24", "roi_head.fc_dim=40", "pooler.resolution=5")
    assert shapes_of(wide, "roi_heads.box_head")["5.weight"] == (40, 24 * 25)
    assert shapes_of(wide, "roi_heads.box_predictor")["bbox_pred.weight"] == (16, 40)


@pytest.mark.parametrize("layers", [(0, 1), (0, 3), (1, 0), (2, 2)])
def test_every_depth_of_the_box_head_trains(small_model: Build, batch: Batch, layers: tuple[int, int]) -> None:
    model = small_model(f"roi_head.num_convs={layers[0]}", f"roi_head.num_fcs={layers[1]}")
    assert isinstance(model.roi_heads.box_head, FCHead) == (layers[0] == 0)
    assert set(model(*batch)) == FIVE


@pytest.mark.parametrize("convs", [0, 2])
def test_layers_of_the_mask_head(small_model: Build, batch: Batch, convs: int) -> None:
    model = small_model(
        f"mask_head.num_convs={convs}", "mask_head.conv_dim=24", "mask_head.pooler.resolution=7", "mask_head.norm=batch"
    )
    shapes = shapes_of(model, "roi_heads.mask_head")
    assert sum(name.endswith("0.weight") for name in shapes) == convs
    assert shapes_of(model, "roi_heads.mask_predictor")["conv5_mask.weight"] == (24 if convs else 32, 24, 2, 2)
    assert set(model(*batch)) == FIVE
    assert model.eval()(batch[0])[0]["masks"].shape[1:] == (1, 14, 14)


def test_mask_of_one_class_equals_that_channel_of_all(small_model: Build, device: torch.device) -> None:
    predictor = small_model().roi_heads.mask_predictor
    assert predictor is not None
    nn.init.normal_(predictor.mask_fcn_logits.bias)
    features, labels = torch.randn(6, 16, 14, 14, device=device), torch.tensor([1, 2, 3, 1, 2, 3], device=device)
    every = predictor(features)
    torch.testing.assert_close(predictor.logits_of_classes(features, labels), every[torch.arange(6), labels])


def both_ways(proposals: list[Tensor], targets: list[Target], rules: SamplingRules) -> list[Samples]:
    return [path.sample_proposals(proposals, targets, rules) for path in (FOLLOWING, FIXED)]


def test_iou_and_sampling_change_the_proposals_that_train(small_model: Build, batch: Batch) -> None:
    objects = batch[1][0]["boxes"]
    proposals = [torch.cat([objects + shift for shift in range(12)])] * 2

    def sampled(*overrides: str) -> tuple[int, int]:
        rules = small_model(*overrides).roi_heads.sampling
        labels = [samples.labels[samples.images == 0] for samples in both_ways(proposals, batch[1], rules)]
        first, second = ((int((each > 0).sum()), int((each == 0).sum())) for each in labels)
        assert first == second
        return first

    loose, strict = sampled("roi_head.iou=0.3"), sampled("roi_head.iou=0.8")
    assert sum(loose) == sum(strict) == 39  # all, with the three objects themselves
    assert loose[0] > sampled()[0] > strict[0] >= 6
    assert sampled("roi_head.sampling.batch_size=8") == (2, 6)
    assert sampled("roi_head.sampling.batch_size=8", "roi_head.sampling.positive_fraction=0.5") == (4, 4)


def test_detection_rules_by_hand() -> None:
    proposals = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30], [5, 5, 5.5, 30]])
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.2, 0.8, 0.3], [0.3, 0.1, 0.7], [0.4, 0.6, 0.0]])
    deltas = torch.zeros(4, 3, 4)

    def found(score: float = 0.05, nms: float = 0.5, count: int = 100, size: float = 1.0) -> list[tuple[int, float]]:
        rules = DetectionRules(score, nms, count, size)
        chosen = select_detections(scores, deltas, proposals, (40, 40), rules)
        return [
            (label, round(value, 2))
            for label, value in zip(chosen.labels.tolist(), chosen.scores.tolist(), strict=True)
        ]

    assert found() == [(1, 0.9), (2, 0.7), (2, 0.3), (1, 0.1)]
    assert found(score=0.1) == [(1, 0.9), (2, 0.7), (2, 0.3)]  # must exceed it
    assert found(nms=0.9) == [(1, 0.9), (1, 0.8), (2, 0.7), (2, 0.3), (1, 0.1)]
    assert found(count=2) == [(1, 0.9), (2, 0.7)]
    assert found(size=0.1)[2] == (1, 0.6)


def losses_of(model: MaskRCNN, batch: Batch) -> dict[str, float]:
    torch.manual_seed(0)
    return {name: float(loss.detach()) for name, loss in model(*batch).items()}


def test_box_loss_beta_and_thresholds_come_from_the_config(small_model: Build, batch: Batch) -> None:
    def loss(*overrides: str) -> float:
        model = small_model(*overrides)
        torch.manual_seed(0)
        return float(model(*batch)["loss_box_reg"].detach())

    assert loss("numerics.roi_smooth_l1_beta=0") > loss() > loss("numerics.roi_smooth_l1_beta=1")
    rules = small_model("roi_head.score_threshold=0.25", "roi_head.nms_threshold=0.75", "numerics.min_detection_size=3")
    assert rules.roi_heads.rules == DetectionRules(0.25, 0.75, 100, 3)


@pytest.mark.parametrize("path_for", [path_for, always_fixed])
@pytest.mark.parametrize(("part", "loss"), [("roi_head", "loss_box_reg"), ("rpn", "loss_rpn_box_reg")])
def test_box_loss_changes_that_loss_alone(
    small_model: Build, batch: Batch, path_for: PathRule, part: str, loss: str
) -> None:
    kinds = ("smooth_l1", "giou", "diou", "ciou")
    found = [losses_of(small_model(f"{part}.box_loss={kind}", path_for=path_for), batch) for kind in kinds]
    assert len({each.pop(loss) for each in found}) == 4
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("loss", ["objectness", "rpn_box_reg", "classifier", "box_reg", "mask"])
def test_a_loss_weight_is_a_factor_of_that_loss_alone(small_model: Build, batch: Batch, loss: str) -> None:
    plain, weighted = (losses_of(small_model(f"trainer.loss_weights.{loss}={each}"), batch) for each in (1, 2.5))
    assert weighted.pop(f"loss_{loss}") == pytest.approx(2.5 * plain.pop(f"loss_{loss}"))
    assert len(plain) == 4
    assert weighted == plain


@pytest.mark.parametrize("path_for", [path_for, always_fixed])
def test_class_agnostic_heads_give_all_classes_one_box_and_one_mask(
    small_model: Build, batch: Batch, path_for: PathRule
) -> None:
    """Equal to heads whose rows are the same for each class, in losses, boxes and masks."""
    keys = ("roi_head.class_agnostic=true", "mask_head.class_agnostic=true", "roi_head.score_threshold=0.1")
    agnostic, repeated = (small_model(*each, path_for=path_for) for each in (keys, keys[2:]))
    layers = dict(agnostic.state_dict())
    for layer, rows in (("box_predictor.bbox_pred", 4), ("mask_predictor.mask_fcn_logits", 1)):
        for name in (f"roi_heads.{layer}.weight", f"roi_heads.{layer}.bias"):
            assert len(layers[name]) == rows
            layers[name] = torch.cat([layers[name]] * 4)
    repeated.load_state_dict(layers)

    assert losses_of(agnostic, batch) == pytest.approx(losses_of(repeated, batch), rel=1e-5)
    ours, theirs = (model.eval()(batch[0]) for model in (agnostic, repeated))
    assert sum(len(each["labels"]) for each in ours) > 10
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("path_for", [path_for, always_fixed])
def test_class_balance_weighs_classes_by_their_objects(small_model: Build, batch: Batch, path_for: PathRule) -> None:
    """60, 30 and 10 objects: with 1 each class weighs as much as any other, and an object 1 on the average."""

    def losses(*overrides: str, labels: int | None = None) -> dict[str, float]:
        model = small_model(*overrides, objects=[60, 30, 10], path_for=path_for)
        targets = [each if labels is None else each | {"labels": each["labels"] * 0 + labels} for each in batch[1]]
        torch.manual_seed(0)
        return {name: float(loss.detach()) for name, loss in model(batch[0], targets).items()}

    weights = small_model("roi_head.class_balance=1", objects=[60, 30, 10]).roi_heads.class_weights
    torch.testing.assert_close(weights.cpu(), torch.tensor([1, 100 / 180, 100 / 90, 100 / 30]))
    assert small_model("roi_head.class_balance=0.5", objects=[4, 1, 0]).roi_heads.class_weights.tolist() == [
        1,
        0.75,
        1.5,
        1.5,
    ]
    plain, balanced = losses(), losses("roi_head.class_balance=1")
    assert balanced.pop("loss_classifier") != plain.pop("loss_classifier")
    assert balanced == plain
    of_class = [losses("roi_head.class_balance=1", labels=each)["loss_classifier"] for each in (1, 2, 3)]
    unweighted = [losses(labels=each)["loss_classifier"] for each in (1, 2, 3)]
    assert of_class[0] < unweighted[0]
    assert of_class[2] > of_class[1] > of_class[0]


def test_class_balance_needs_the_objects(small_model: Build) -> None:
    with pytest.raises(UserError, match="class_balance needs how many objects"):
        small_model("roi_head.class_balance=0.5")


def test_the_detectron2_profile_reaches_every_part(small_model: Build, batch: Batch) -> None:
    numerics = ["numerics=detectron2"]
    model = small_model(*numerics)
    assert model.rpn.anchors.fixed
    assert float(model.rpn.anchors.cells[0][0, 0]) != round(float(model.rpn.anchors.cells[0][0, 0]))
    assert (model.rpn.box_loss.beta, model.rpn.normalizer) == (0.0, "batch_size")
    assert model.roi_heads.mask_target_rule == "binary"
    for pooler in (model.roi_heads.box_pooler, model.roi_heads.mask_pooler):
        assert pooler is not None
        assert (pooler.rules.aligned, pooler.rules.sampling_ratio) == (True, 0)
        assert pooler.smallest_areas.tolist() == SMALLEST_AREAS["detectron2"]
    assert set(model(*batch)) == FIVE
    soft, binary = small_model(), small_model("numerics.mask_targets=binary")
    torch.manual_seed(0)
    first = soft(*batch)
    torch.manual_seed(0)
    second = binary(*batch)
    assert float(first["loss_mask"].detach()) != float(second["loss_mask"].detach())
    assert float(first["loss_box_reg"].detach()) == float(second["loss_box_reg"].detach())


def test_losses_in_evaluation_change_no_statistics(small_model: Build, batch: Batch) -> None:
    model = small_model("backbone.norm=batch", "roi_head.norm=batch").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        assert set(model.losses(*batch)) == FIVE
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_section_resolves_auto_settings() -> None:
    from maskrcnn_train import build_model

    config = small_config("weights=imagenet")
    model = build_model(config, 3)
    assert not model.backbone.body["conv1"].weight.requires_grad
    assert "backbone.body.bn1.num_batches_tracked" not in model.state_dict()
