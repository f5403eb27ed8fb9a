from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign, roi_align

from maskrcnn_train.exporting.files import without_exporter_noise
from maskrcnn_train.model.paths import always_fixed
from maskrcnn_train.model.pooling import SMALLEST_AREAS, MultiLevelPooler
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.model.roi_align import PoolingRules, bag_roi_align


def pooler(**changes: object) -> MultiLevelPooler:
    settings = {"type": "align", "resolution": 7, "sampling_ratio": 2, "aligned": False, "level_rule": "torchvision"}
    return MultiLevelPooler(**{**settings, **changes})  # type: ignore[arg-type]


def levels_of(areas: Tensor, rule: str) -> Tensor:
    """The FPN paper's eq. 1, with the epsilon of torchvision or of Detectron2; 0 for P2 .. 3 for P5."""
    ratios = areas.sqrt() / 224
    levels = 4 + torch.log2(ratios) + 1e-6 if rule == "torchvision" else 4 + torch.log2(ratios + 1e-8)
    return torch.floor(levels).clamp(min=2, max=5).long() - 2


def pyramid(channels: int = 8, size: int = 128, device: str | torch.device = "cpu") -> Pyramid:
    generator = torch.Generator().manual_seed(0)
    sides = [size // stride for stride in (4, 8, 16, 32, 64)]
    return Pyramid(torch.randn((2, channels, side, side), generator=generator).to(device) for side in sides)


STRANGE = torch.tensor(
    [
        [0.0, 3, 4, 90, 100],
        [1, 0, 0, 128, 128],
        [0, -40, -40, 60, 30],
        [1, 100, 90, 180, 170],
        [0, 50, 50, 50.01, 50.01],
        [1, 400, 400, 500, 500],
        [0, 127.9, 0, 128, 128],
        [1, -300, 10, -200, 40],
        [0, -1000, -1000, 1000, 1000],
    ]
)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples", [1, 2, 3])
def test_bag_equals_the_operator_on_any_box(aligned: bool, samples: int) -> None:
    feature = torch.randn((2, 5, 32, 40), generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    first, second = feature.clone().requires_grad_(), feature.clone().requires_grad_()
    expected = roi_align(first, STRANGE, 7, 0.25, samples, aligned)
    levels = torch.zeros(len(STRANGE), dtype=torch.int64)
    found = bag_roi_align(Pyramid([second]), STRANGE, levels, PoolingRules("align", 7, samples, aligned))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    torch.testing.assert_close(second.grad, first.grad, atol=1e-4, rtol=1e-5)


def test_many_samples_are_left_to_the_operator_which_keeps_no_table_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_large(*_: object) -> Tensor:
        raise AssertionError("a bag of many samples")

    boxes = [torch.tensor([[3.0, 4, 90, 100]]), torch.tensor([[0.0, 0, 128, 128]])]
    by_bag = pooler(resolution=14, sampling_ratio=4)(pyramid(), boxes)
    monkeypatch.setattr("maskrcnn_train.model.pooling.bag_roi_align", too_large)
    fine = pooler(resolution=14, sampling_ratio=16)(pyramid(), boxes)
    assert fine.shape == by_bag.shape
    with pytest.raises(AssertionError, match="a bag of many samples"):
        pooler(resolution=14, sampling_ratio=4)(pyramid(), boxes)


def test_all_levels_equal_torchvisions_pooler(device: torch.device) -> None:
    torch.manual_seed(0)
    corners = torch.rand(60, 2) * 90
    boxes = torch.cat((corners, corners + torch.rand(60, 1) ** 3 * 600 + torch.rand(60, 2) * 9 + 2), dim=1).to(device)
    features = pyramid(device=device)
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    named = {str(level): feature for level, feature in enumerate(features)}
    expected = theirs(named, [boxes[:40], boxes[40:]], [(128, 128)] * 2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    assert len(levels_of(areas, "torchvision").unique()) == 4
    torch.testing.assert_close(pooler().to(device)(features, [boxes[:40], boxes[40:]]), expected, atol=1e-4, rtol=1e-5)
    fixed = pooler(path_for=always_fixed).to(device)(features, [boxes[:40], boxes[40:]])
    torch.testing.assert_close(fixed, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", [{}, {"type": "pool"}, {"sampling_ratio": 0}])
def test_boxes_that_are_not_finite_pool_zeros_as_torchvisions_do(change: dict[str, object]) -> None:
    nan, inf = float("nan"), float("inf")
    fine = torch.tensor([[3.0, 5, 70, 60]])
    boxes = torch.cat((torch.tensor([[nan, nan, nan, nan], [3, 5, nan, 60], [0, 0, inf, 9]]), fine))
    features = pyramid()
    pooled = pooler(**change)(features, [boxes, fine])
    assert pooled.shape == (5, 8, 7, 7)
    assert not pooled[:3].any()
    assert torch.equal(pooled[3:], pooler(**change)(features, [fine, fine]))
    named = {str(level): feature for level, feature in enumerate(features)}
    theirs = MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)(named, [boxes[:1], fine], [(128, 128)] * 2)
    assert not theirs[0].any()


def test_each_setting_changes_the_result_as_its_name_says() -> None:
    features, boxes = pyramid(), [torch.tensor([[3.0, 5, 70, 60]]), torch.tensor([[20.0, 20, 50, 90]])]
    base = pooler()(features, boxes)
    assert base.shape == (2, 8, 7, 7)
    assert pooler(resolution=14)(features, boxes).shape == (2, 8, 14, 14)
    for change in ({"type": "pool"}, {"sampling_ratio": 1}, {"sampling_ratio": 0}, {"aligned": True}):
        changed = pooler(**change)(features, boxes)
        assert changed.shape == base.shape
        assert not torch.allclose(changed, base, atol=1e-3), change
    highest = max(float(feature.max()) for feature in features[:4])
    assert float(pooler(type="pool")(features, boxes).max()) <= highest


@pytest.mark.parametrize("change", [{}, {"type": "pool"}, {"sampling_ratio": 0}])
def test_no_boxes_at_all_keep_the_graph(change: dict[str, object]) -> None:
    features = Pyramid(feature.requires_grad_() for feature in pyramid())
    pooled = pooler(**change)(features, [torch.zeros(0, 4), torch.zeros(0, 4)])
    assert pooled.shape == (0, 8, 7, 7)
    pooled.sum().backward()
    assert features[0].grad is not None
    assert float(features[0].grad.abs().sum()) == 0


def test_levels_by_size_and_the_two_rules_on_a_border() -> None:
    sides = torch.tensor([10.0, 111, 112, 223, 224, 447, 448, 2000])
    almost = torch.tensor([112 * (1 - 3e-7)]) ** 2  # epsilon 1e-6 lifts it, 1e-8 does not
    for rule, lifted in (("torchvision", 1), ("detectron2", 0)):
        smallest = torch.tensor(SMALLEST_AREAS[rule])
        assert torch.bucketize(sides**2, smallest, right=True).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        assert torch.bucketize(almost, smallest, right=True).tolist() == [lifted]


@pytest.mark.parametrize("rule", SMALLEST_AREAS)
def test_the_smallest_areas_of_levels_are_those_where_the_rule_goes_up(rule: str) -> None:
    smallest = torch.tensor(SMALLEST_AREAS[rule])
    assert levels_of(smallest * (1 + 5e-7), rule).tolist() == [1, 2, 3]
    assert levels_of(smallest * (1 - 5e-7), rule).tolist() == [0, 1, 2]
    areas = torch.logspace(-3, 8, 5000)
    assert torch.equal(torch.bucketize(areas, smallest, right=True), levels_of(areas, rule))


def test_a_trace_pools_boxes_on_the_border_of_a_level_from_the_same_level() -> None:
    sides = torch.tensor([8.0, 111, 112, 113, 224, 448])
    boxes, features, own = torch.stack((sides * 0, sides * 0, sides, sides), dim=1), pyramid(size=512), pooler()
    with without_exporter_noise():
        traced = torch.jit.trace(lambda boxes: own(features, [boxes]), (boxes[:1],))
    torch.testing.assert_close(traced(boxes), own(features, [boxes]), atol=1e-5, rtol=1e-5)


def test_bfloat16_features_stay_bfloat16(device: torch.device) -> None:
    features = Pyramid(each.bfloat16().contiguous(memory_format=torch.channels_last) for each in pyramid(device=device))
    boxes = [torch.tensor([[3.0, 5, 70, 60]], device=device), torch.zeros(0, 4, device=device)]
    for change in ({}, {"sampling_ratio": 0}, {"type": "pool"}):
        with torch.autocast(device.type, torch.bfloat16):
            pooled = pooler(**change).to(device)(features, boxes)
        assert pooled.dtype == torch.bfloat16
        torch.testing.assert_close(
            pooled.float(),
            pooler(**change).to(device)(Pyramid(f.float() for f in features), boxes),
            atol=0.05,
            rtol=0.05,
        )


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_features_that_served_a_detection_first_still_get_gradients(
    mode: Callable[[], AbstractContextManager[None]],
) -> None:
    features = Pyramid(feature.requires_grad_() for feature in pyramid())
    boxes = [torch.tensor([[3.0, 5, 70, 60]]), torch.zeros(0, 4)]
    with mode():
        pooler()(features, boxes)
    (gradient,) = torch.autograd.grad(pooler()(features, boxes).sum(), features[0])
    assert float(gradient.sum()) == pytest.approx(8 * 7 * 7, rel=1e-4)


@pytest.mark.parametrize("cast", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_that_is_cast_pools_from_the_same_levels(cast: torch.dtype) -> None:
    plain, own = pooler(), pooler().to(cast)
    assert own.smallest_areas.tolist() == plain.smallest_areas.tolist()
    features, boxes = pyramid(size=1024), [torch.tensor([[0.0, 0, 600, 600], [0, 0, 111.99, 112]]), torch.zeros(0, 4)]
    assert torch.equal(own(features, boxes), plain(features, boxes))
