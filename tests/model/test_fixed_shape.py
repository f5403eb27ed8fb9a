"""The path of a GPU gives what the path of a processor gives, stage by stage and as a whole, from the same samples."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from launches import Launches, crowded_batch
from torch import Tensor
from torchvision.ops import nms

from maskrcnn_train.model.anchors import AnchorGrid
from maskrcnn_train.model.boxes import pairwise_coverage, pairwise_iou
from maskrcnn_train.model.fixed_shape import mask_targets as fixed_mask_targets
from maskrcnn_train.model.fixed_shape import overlaps
from maskrcnn_train.model.fixed_shape import proposals as fixed_proposals
from maskrcnn_train.model.fixed_shape import sampling as fixed_sampling
from maskrcnn_train.model.fixed_shape.proposals import Suppression
from maskrcnn_train.model.fixed_shape.sampling import draw, match_padded
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.matching import match_boxes
from maskrcnn_train.model.outputs import DetectionRules
from maskrcnn_train.model.paths import FIXED, FOLLOWING, always_fixed
from maskrcnn_train.model.proposals import ProposalBudget, RPNPredictions
from maskrcnn_train.model.sampling import FILLING, Samples, SamplingRules
from maskrcnn_train.structures.batch import to_device

Build = Callable[..., MaskRCNN]
SMALL = ["rpn.nms.pre_train=200", "rpn.nms.post_train=60", "rpn.nms.pre_test=200", "rpn.nms.post_test=60"]
GRIDS = [(24, 32), (12, 16), (6, 8), (3, 4), (2, 2)]
EVERY = ["rpn.sampling.batch_size=100000", "rpn.sampling.positive_fraction=1"]
EVERY += ["roi_head.sampling.batch_size=100000", "roi_head.sampling.positive_fraction=1"]


PATHS = (lambda device: FOLLOWING), always_fixed
CPU = torch.device("cpu")


def random_boxes(count: int, seed: int = 0, side: float = 60, device: torch.device = CPU) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand((count, 2), generator=generator) * 80
    return torch.cat((corners, corners + torch.rand((count, 2), generator=generator) * side + 1), dim=1).to(device)


def random_predictions(device: torch.device, num_images: int = 3) -> RPNPredictions:
    grid = AnchorGrid(sizes=[8, 16, 32, 64, 128], aspect_ratios=[0.5, 1, 2], rounding=True, strides="fixed")
    anchors = grid((96, 128), GRIDS, device)
    generator = torch.Generator().manual_seed(0)
    objectness = torch.randn((num_images, len(anchors)), generator=generator).to(device)
    deltas = torch.randn((num_images, len(anchors), 4), generator=generator).to(device) * 0.2
    return RPNPredictions([], objectness, deltas, anchors, [3 * rows * columns for rows, columns in GRIDS])


@pytest.mark.parametrize("pairs", [2**26, 2**10])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("min_size", [0.0, 12.0])
def test_proposals_are_the_same(
    shared: bool, min_size: float, pairs: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed_proposals, "PAIRS", pairs)
    sizes = [(96, 128), (90, 100), (5, 4)]  # nearly nothing fits into the last
    budget = ProposalBudget(300, 90, 0.5, min_size, shared)
    expected = FOLLOWING.select_proposals(random_predictions(device), sizes, budget)
    found = FIXED.select_proposals(random_predictions(device), sizes, budget)
    assert [len(each) for each in found] == [len(each) for each in expected]
    assert len(expected[0]) > 30
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("boxes", "scores", "levels", "anchors"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_levels_with_few_anchors_propose_each_once_where_nothing_is_suppressed(device: torch.device) -> None:
    predictions = random_predictions(device)
    budget = ProposalBudget(300, 5000, 1.0, 0.0)
    for proposals in FIXED.select_proposals(predictions, [(96, 128)] * 3, budget):
        assert len(proposals) == len(proposals.anchors.unique()) > 600


@pytest.mark.parametrize("shape", [(), (2,)])
def test_overlaps_are_those_of_a_processor_to_the_bit(shape: tuple[int, ...], device: torch.device) -> None:
    first = random_boxes(60, device=device).view(2, 30, 4)
    second = random_boxes(100, seed=1, device=device).view(2, 50, 4)[slice(None) if shape else 0]
    assert torch.equal(overlaps.pairwise_iou(first, second), pairwise_iou(first, second))
    assert torch.equal(overlaps.pairwise_coverage(first, second), pairwise_coverage(first, second))


def test_suppression_that_needs_many_rounds_goes_on_until_it_ends(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = torch.arange(60.0)[:, None] * 2 + torch.tensor([0.0, 0, 10, 10])  # each overlaps the next one only
    chain = chain.to(device)
    suppression = Suppression(chain[None], torch.ones(1, 60, dtype=torch.bool, device=device), 0.3)
    suppression.advance(16)
    assert bool(suppression.changing)
    suppression.advance(64)
    assert not bool(suppression.changing)
    kept = nms(chain, torch.arange(60, 0, -1.0, device=device), 0.3)
    assert suppression.kept[0].nonzero()[:, 0].tolist() == kept.tolist() == list(range(0, 60, 2))
    monkeypatch.setattr(fixed_proposals, "ROUNDS", 1)  # the host then looks after every round
    test_proposals_are_the_same(False, 0.0, 2**26, device, monkeypatch)


@pytest.mark.parametrize("threshold", [0.3, 0.7])
@pytest.mark.parametrize("jitter", [1, 10, 30])
def test_suppression_equals_nms_on_crowds(jitter: float, threshold: float, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    crowd = random_boxes(12).repeat(40, 1) + torch.randn((480, 4), generator=generator) * jitter
    crowd = crowd.to(device)
    there = torch.ones((2, 480), dtype=torch.bool, device=device)
    suppression = Suppression(torch.stack((crowd, crowd.flip(0))), there, threshold)
    suppression.advance(32)
    for own, kept in zip((crowd, crowd.flip(0)), suppression.kept, strict=True):
        expected = nms(own, torch.arange(480, 0, -1.0, device=device), threshold)
        assert kept.nonzero()[:, 0].tolist() == expected.tolist()


@pytest.mark.parametrize("keep_best", [False, True])
@pytest.mark.parametrize("pairs", [2**26, 500])
def test_matches_are_the_same(
    keep_best: bool, pairs: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed_sampling, "PAIRS", pairs)
    far = torch.tensor([[500.0, 500, 510, 510]])  # overlaps nothing
    images = [each.to(device) for each in (torch.cat((random_boxes(9), far)), random_boxes(0), random_boxes(4, seed=1))]
    boxes = torch.cat((random_boxes(200, seed=2), random_boxes(200, seed=2))).to(device)  # ties
    padded = fixed_sampling._padded([[each] for each in images])
    found = match_padded(padded, boxes, upper=0.6, lower=0.3, keep_best=keep_best)
    for own, matches in zip(images, found, strict=True):
        assert torch.equal(matches, match_boxes(own, boxes, upper=0.6, lower=0.3, keep_best=keep_best))
    assert len(found.unique()) == (9 if keep_best else 4)


def test_drawn_rows_are_random_within_the_caps(device: torch.device) -> None:
    labels = torch.zeros((2, 400), dtype=torch.int64, device=device)
    labels[0, :100], labels[0, 100:200], labels[1, :5], labels[1, 20:] = 3, -1, 1, -1
    rules = SamplingRules(upper=0.5, lower=0.5, batch_size=60, positive_fraction=0.25)
    times = torch.zeros(400, device=device)
    torch.manual_seed(0)
    for _ in range(300):
        index, drawn = draw(labels, rules)
        assert torch.equal(drawn[0], labels[0, index[0]])
        assert [int((drawn[0] == label).sum()) for label in (3, 0)] == [15, 45]
        assert [int((drawn[1] == label).sum()) for label in (1, 0, FILLING)] == [5, 15, 40]
        assert len(index[0].unique()) == 60
        times[index[0]] += 1
    none = SamplingRules(upper=0.5, lower=0.5, batch_size=60, positive_fraction=0.0)
    assert int((draw(labels, none)[1] > 0).sum()) == 0
    assert float(times[100:200].sum()) == 0
    assert float((times[:100] / 300 - 0.15).abs().max()) < 0.1  # each about as often as the others
    assert float((times[200:] / 300 - 45 / 200).abs().max()) < 0.12


def by_row(columns: list[Tensor]) -> list[list[float]]:
    return sorted(torch.cat([each.reshape(len(each), -1).float() for each in columns], dim=1).tolist())


def test_samples_are_the_same_where_all_are_drawn(device: torch.device) -> None:
    targets = to_device(crowded_batch([6, 0, 3])[1], device)
    every = SamplingRules(upper=0.5, lower=0.3, batch_size=100_000, positive_fraction=1.0)
    anchors = random_predictions(device).anchors
    first, second = (path.sample_anchors(anchors, targets, every) for path in (FOLLOWING, FIXED))
    real = second.labels != FILLING
    assert by_row([first.index, first.labels, first.deltas]) == by_row(
        [second.index[real], second.labels[real], second.deltas[real]]
    )
    proposals = [random_boxes(count, seed, device=device) for count, seed in ((80, 0), (30, 1), (0, 0))]
    rules = SamplingRules(upper=0.5, lower=0.5, batch_size=100_000, positive_fraction=1.0)
    both: list[Samples] = [path.sample_proposals(proposals, targets, rules) for path in (FOLLOWING, FIXED)]
    assert int((both[0].labels > 0).sum()) > 9
    rows = [by_row(list(vars(each[each.labels != FILLING]).values())) for each in both]
    assert rows[0] == rows[1]


def test_proposals_and_samples_take_as_many_launches_for_many_images() -> None:
    found = []
    for num_images in (2, 6):
        _, targets = crowded_batch([31] * num_images)
        predictions = random_predictions(CPU, num_images)
        rules = SamplingRules(upper=0.5, lower=0.5, batch_size=64, positive_fraction=0.25)
        with Launches() as launches:
            sizes = [(96, 128)] * num_images
            proposals = FIXED.select_proposals(predictions, sizes, ProposalBudget(300, 90, 0.5, 0.0))
            FIXED.sample_anchors(predictions.anchors, targets, rules)
            FIXED.sample_proposals([each.boxes for each in proposals], targets, rules)
        found.append(launches.operations.total())
    assert found[0] == found[1]


@pytest.mark.parametrize("pixels", [2**24, 2**12])
@pytest.mark.parametrize("rule", ["soft", "binary"])
def test_mask_targets_are_the_same(
    rule: str, pixels: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed_mask_targets, "PIXELS", pixels)
    _, targets = crowded_batch([7, 0, 5])
    objects = torch.cat([target["boxes"] for target in targets])
    generator = torch.Generator().manual_seed(0)
    boxes = (objects.repeat(4, 1) + torch.randn((48, 4), generator=generator) * 6).clamp(0, 128)
    boxes[:, 2:] = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1.5).clamp(max=128)
    boxes[:2] = torch.tensor([0.0, 0, 128, 128])
    images = torch.tensor([0] * 7 + [2] * 5).repeat(4)
    order = images.argsort(stable=True)
    matches = torch.tensor([*range(7), *range(5)]).repeat(4)
    rois = torch.cat((images[:, None].float(), boxes), dim=1)
    columns = [each[order].to(device) for each in (rois, matches, matches + 1, boxes)]
    foreground, moved = Samples(*columns), to_device(targets, device)
    expected, found = (path.mask_targets(moved, foreground, 28, rule=rule) for path in (FOLLOWING, FIXED))
    assert 0.1 < float(expected.mean()) < 0.9
    if rule == "soft":
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    else:  # at exactly one half the last bit of a sum decides
        assert float((found != expected).float().mean()) < 1e-3
    dense = [{**target, "masks": target["masks"].dense()} for target in targets]  # type: ignore[union-attr]
    assert torch.equal(FIXED.mask_targets(to_device(dense, device), foreground, 28, rule=rule), found)


@pytest.mark.parametrize("min_size", [0.0, 4.0])
def test_detections_are_the_same(min_size: float, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = (random_boxes(120), random_boxes(0), random_boxes(70, seed=1, side=8))
    proposals = [each.to(device) for each in boxes]
    scores = torch.randn((190, 5), generator=generator).mul(2).softmax(dim=1).to(device)
    deltas = torch.randn((190, 5, 4), generator=generator).to(device)
    sizes = [(96, 128), (40, 40), (90, 100)]
    rules = DetectionRules(0.1, 0.5, 60, min_size)
    expected, found = (path.select_detections(scores, deltas, proposals, sizes, rules) for path in (FOLLOWING, FIXED))
    assert [len(each) for each in found] == [len(each) for each in expected]
    assert [len(each) for each in expected][:2] == [60, 0]
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.labels, theirs.labels)
        torch.testing.assert_close(ours.boxes, theirs.boxes)
        torch.testing.assert_close(ours.scores, theirs.scores)


@pytest.mark.parametrize("counts", [[3, 5], [0, 4], [0, 0]])
def test_losses_gradients_and_statistics_are_the_same_from_the_same_samples(
    small_model: Build, counts: list[int], device: torch.device
) -> None:
    images, targets = to_device(list(crowded_batch(counts, side=96)), device)
    seen = []
    for path_for in PATHS:
        model = small_model(*EVERY, *SMALL, "backbone.norm=frozen", path_for=path_for)
        with torch.no_grad():
            model.rpn.head.cls_logits.weight.normal_()  # else NMS sees equal scores
        losses = model(images, targets)
        sum(losses.values()).backward()
        statistics = model.rpn.statistics | model.roi_heads.statistics
        gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
        seen.append((losses, {name: float(compute()) for name, compute in statistics.items()}, gradients))
    (losses, statistics, gradients), (fixed_losses, fixed_statistics, fixed_gradients) = seen
    assert fixed_losses.keys() == losses.keys()
    for name, loss in losses.items():
        torch.testing.assert_close(fixed_losses[name], loss, atol=1e-5, rtol=1e-5)
    assert fixed_statistics == pytest.approx(statistics, abs=1e-5)
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert fixed_gradients[name] is not None, name
        # the last bit of a sum opens or closes a ReLU here and there
        difference = float((fixed_gradients[name] - gradient).norm())
        assert difference <= 5e-3 * float(gradient.norm()) + 1e-5, name


def test_detections_of_a_model_are_the_same(small_model: Build, device: torch.device) -> None:
    images = crowded_batch([0, 0], side=96)[0].to(device)
    rules = ["roi_head.score_threshold=0.0", "roi_head.detections_per_image=20"]
    models = [small_model(*rules, *SMALL, path_for=path_for).eval() for path_for in PATHS]
    with torch.no_grad():
        for model in models:
            torch.manual_seed(0)
            model.rpn.head.cls_logits.weight.normal_()
            model.roi_heads.box_predictor.cls_score.weight.normal_()
        expected, found = (model(images) for model in models)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs["labels"]) == 20
        for name, value in theirs.items():
            torch.testing.assert_close(ours[name], value, atol=1e-4, rtol=1e-4)
