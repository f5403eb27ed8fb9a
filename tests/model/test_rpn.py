from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from maskrcnn_train.model import boxes, matching
from maskrcnn_train.model.anchors import AnchorGrid, cell_anchors
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.matching import BACKGROUND, IGNORED, match_boxes, sample_balanced
from maskrcnn_train.model.paths import FIXED, FOLLOWING, PathRule, always_fixed, path_for
from maskrcnn_train.model.proposals import Proposals, keep_per_batch
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.model.rpn_head import SampledRPNHead
from maskrcnn_train.structures.batch import ImageBatch, Target, to_device

Build = Callable[..., MaskRCNN]
Batch = tuple[ImageBatch, list[Target]]


def random_boxes(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand((count, 2), generator=generator) * 80
    return torch.cat((corners, corners + torch.rand((count, 2), generator=generator) * 60 + 1), dim=1)


def test_coding_equals_torchvisions_and_decodes_what_it_encoded() -> None:
    ours, theirs = boxes.BoxCoder(10.0, 5.0), BoxCoder((10.0, 10.0, 5.0, 5.0))
    targets, references = random_boxes(20), random_boxes(20, seed=1)
    deltas = ours.encode(targets, references)
    torch.testing.assert_close(deltas, theirs.encode_single(targets, references))
    torch.testing.assert_close(ours.decode(deltas, references), targets, atol=1e-3, rtol=1e-4)
    wild = deltas * 100
    torch.testing.assert_close(ours.decode(wild, references), theirs.decode_single(wild, references))


def test_anchors_equal_torchvisions_in_value_and_order() -> None:
    sizes, ratios = [32.0, 64, 128, 256, 512], [0.5, 1.0, 2.0]
    maps = [torch.zeros(1, 1, 96 // s + (96 % s > 0), 160 // s + (160 % s > 0)) for s in (4, 8, 16, 32, 64)]
    theirs = AnchorGenerator(tuple((size,) for size in sizes), (tuple(ratios),) * 5)
    expected = theirs(ImageList(torch.zeros(1, 3, 96, 160), [(96, 160)]), maps)[0]
    grids = [(level.shape[2], level.shape[3]) for level in maps]
    grid = AnchorGrid(sizes=sizes, aspect_ratios=ratios, rounding=True, strides="inferred")
    assert torch.equal(grid((96, 160), grids, torch.device("cpu")), expected)
    fixed = AnchorGrid(sizes=sizes, aspect_ratios=ratios, rounding=True, strides="fixed")(
        (96, 160), grids, torch.device("cpu")
    )
    last = fixed[-3:, :2] - fixed[-9:-6, :2]  # P6 is 2 x 3: from its first column to its last
    assert last.tolist() == [[128.0, 0.0]] * 3
    assert float((expected[-1] - fixed[-1]).abs().max()) > 0  # 160 // 3 = 53, not 64


@pytest.mark.parametrize("path_for", [path_for, always_fixed])
def test_anchors_kept_from_an_evaluation_serve_a_training(small_model: Build, batch: Batch, path_for: PathRule) -> None:
    model = small_model("rpn.nms.pre_train=50", path_for=path_for)
    with torch.inference_mode():
        model.eval()(batch[0])
    kept = dict(model.rpn.anchors._largest)
    assert kept
    sum(model.train()(*batch).values()).backward()
    assert all(model.rpn.anchors._largest[level] is anchors for level, anchors in kept.items())


@pytest.mark.parametrize("strides", ["inferred", "fixed"])
def test_anchors_of_an_image_do_not_depend_on_the_images_before(strides: str) -> None:
    def grid() -> AnchorGrid:
        sizes = [32.0, 64, 128, 256, 512]
        return AnchorGrid(sizes=sizes, aspect_ratios=[0.5, 1, 2], rounding=True, strides=strides)

    used = grid()
    for height, width in [(64, 96), (128, 64), (32, 32), (128, 160), (64, 96)]:
        grids = [(math.ceil(height / stride), math.ceil(width / stride)) for stride in (4, 8, 16, 32, 64)]
        found, alone = (each((height, width), grids, torch.device("cpu")) for each in (used, grid()))
        assert torch.equal(found, alone)


def test_anchor_rounding_by_hand() -> None:
    assert cell_anchors(32, [0.5], rounding=True).tolist() == [[-23, -11, 23, 11]]
    exact = cell_anchors(32, [0.5], rounding=False)[0]
    torch.testing.assert_close(exact, torch.tensor([-22.6274, -11.3137, 22.6274, 11.3137]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("pairs", [2**18, 64])
def test_matching_equals_torchvisions_also_in_pieces(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_piece_size", lambda count, device: max(1, pairs // count))
    objects, candidates = random_boxes(9), torch.cat((random_boxes(300, seed=2), random_boxes(300, seed=2)))  # ties
    for keep_best in (False, True):
        theirs = Matcher(0.7, 0.3, allow_low_quality_matches=keep_best)(box_iou(objects, candidates))
        ours = match_boxes(objects, candidates, upper=0.7, lower=0.3, keep_best=keep_best)
        assert torch.equal(ours, theirs)


def test_upper_and_lower_by_hand() -> None:
    objects = torch.tensor([[0.0, 0, 10, 10]])
    candidates = torch.tensor([[0.0, 0, 10, 7], [0, 0, 10, 5], [0, 0, 10, 3], [0, 0, 10, 2]])
    match = match_boxes(objects, candidates, upper=0.7, lower=0.3, keep_best=False)
    assert match.tolist() == [0, IGNORED, IGNORED, BACKGROUND]
    match = match_boxes(objects, candidates, upper=0.8, lower=0.4, keep_best=True)
    assert match.tolist() == [0, IGNORED, BACKGROUND, BACKGROUND]  # the first as the best of its object
    assert match_boxes(objects[:0], candidates, upper=0.7, lower=0.3, keep_best=True).tolist() == [BACKGROUND] * 4


def test_an_object_that_touches_no_anchor_does_not_make_all_anchors_objects() -> None:
    far = torch.tensor([[500.0, 500, 510, 510]])
    assert match_boxes(far, random_boxes(5), upper=0.7, lower=0.3, keep_best=True).tolist() == [BACKGROUND] * 5


def test_samples_are_torchvisions_for_the_same_seed_and_the_fraction_is_a_cap() -> None:
    labels = torch.randint(-1, 2, (2000,), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(4)
    positive, negative = sample_balanced(labels, 100, 0.3)
    torch.manual_seed(4)
    masks = BalancedPositiveNegativeSampler(100, 0.3)([labels])
    assert torch.equal(positive, torch.where(masks[0][0])[0])
    assert torch.equal(negative, torch.where(masks[1][0])[0])
    assert (len(positive), len(negative)) == (30, 70)
    few = torch.zeros(500)
    few[:7] = 1
    assert [len(each) for each in sample_balanced(few, 100, 0.5)] == [7, 93]
    assert [len(each) for each in sample_balanced(few[:20], 100, 0.5)] == [7, 13]


def scored(*scores: float) -> Proposals:
    zeros = torch.zeros(len(scores), dtype=torch.int64)
    return Proposals(random_boxes(len(scores)), torch.tensor(scores), zeros, zeros)


def test_budget_of_the_batch_and_of_each_image() -> None:
    a, b = scored(0.9, 0.8, 0.7), scored(0.6, 0.5, 0.4)
    assert [len(each) for each in keep_per_batch([a, b], 3)] == [3, 0]
    assert [len(each) for each in keep_per_batch([a, b], 4)] == [3, 1]
    assert [len(each) for each in keep_per_batch([a, b], 9)] == [3, 3]


def test_nms_settings_change_the_number_of_proposals(small_model: Build, batch: Batch) -> None:
    def counts(training: bool, *overrides: str) -> list[int]:
        model = small_model(*overrides)
        with torch.no_grad():
            model.rpn.head.cls_logits.weight.normal_()  # else NMS sees equal scores
        model.eval()
        inputs = model.prepare(batch[0])
        features = model.features(inputs)
        model.train(training)
        return [len(each) for each in model.proposals(features, inputs)]

    budget = ["rpn.nms.post_train=40", "rpn.nms.post_test=25"]
    assert counts(True, *budget) == [40, 40]
    assert counts(False, *budget) == [25, 25]
    shared = counts(True, *budget, "rpn.nms.train_scope=batch")
    assert sum(shared) == 40
    assert counts(False, *budget, "rpn.nms.train_scope=batch") == [25, 25]
    assert max(counts(True, "rpn.nms.pre_train=3")) <= 15  # 3 on each of 5 levels
    assert max(counts(False, "rpn.nms.pre_test=2")) <= 10
    assert sum(counts(False, "rpn.nms.threshold=0.3")) < sum(counts(False, "rpn.nms.threshold=0.9"))


def test_an_image_left_without_proposals_still_trains(small_model: Build, batch: Batch) -> None:
    model = small_model("rpn.nms.train_scope=batch", "rpn.nms.post_train=1")
    for path in (FOLLOWING, FIXED):
        samples = path.sample_proposals([torch.zeros(0, 4), random_boxes(1)], batch[1], model.roi_heads.sampling)
        assert samples.images[samples.labels >= 0].bincount().tolist() == [3, 2]
    losses = model(*batch)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_iou_thresholds_and_sampling_change_the_anchors_that_train(
    small_model: Build, batch: Batch, device: torch.device
) -> None:
    targets = to_device(batch[1], device)

    def sampled(*overrides: str) -> tuple[int, int]:
        model = small_model(*overrides)
        inputs = model.prepare(batch[0])
        with torch.no_grad():
            anchors = model.rpn.predict(model.features(inputs), inputs.padded_size).anchors
        samples = [path.sample_anchors(anchors, targets, model.rpn.sampling) for path in (FOLLOWING, FIXED)]
        counts = [(int((each.labels == 1).sum()), int((each.labels == 0).sum())) for each in samples]
        assert counts[0] == counts[1]
        return counts[0]

    positives, negatives = sampled()
    assert positives + negatives == 512
    assert sampled("rpn.iou.upper=0.4")[0] > positives
    assert sum(sampled("rpn.sampling.batch_size=10")) == 20
    assert sampled("rpn.iou.upper=0.35", "rpn.sampling.batch_size=8", "rpn.sampling.positive_fraction=0.25")[0] == 4
    everything = ["rpn.sampling.batch_size=100000", "rpn.iou.upper=0.9"]
    assert sampled(*everything, "rpn.iou.lower=0.1")[1] < sampled(*everything, "rpn.iou.lower=0.6")[1]


def test_normalizer_and_beta_by_hand(small_model: Build, batch: Batch, device: torch.device) -> None:
    targets = to_device(batch[1], device)

    def losses(*overrides: str) -> dict[str, Tensor]:
        model = small_model(*overrides, "rpn.sampling.batch_size=100000")
        inputs = model.prepare(batch[0])
        with torch.no_grad():
            predictions = model.rpn.predict(model.features(inputs), inputs.padded_size)
            samples = FOLLOWING.sample_anchors(predictions.anchors, targets, model.rpn.sampling)
            losses = model.rpn.losses(predictions, targets)
        positive = samples.labels == 1
        deltas = predictions.deltas.flatten(0, 1)[samples.index[positive]]
        losses["l1"] = (deltas - samples.deltas[positive]).abs().sum()
        losses["count"] = torch.tensor(float(len(samples.labels)))
        return losses

    sampled = losses("numerics.rpn_smooth_l1_beta=0")
    fixed = losses("numerics.rpn_smooth_l1_beta=0", "numerics.rpn_normalizer=batch_size")
    torch.testing.assert_close(sampled["loss_rpn_box_reg"], sampled["l1"] / sampled["count"])
    torch.testing.assert_close(fixed["loss_rpn_box_reg"], sampled["l1"] / 200000)
    torch.testing.assert_close(fixed["loss_objectness"] * 200000, sampled["loss_objectness"] * sampled["count"])
    assert losses()["loss_rpn_box_reg"] < sampled["loss_rpn_box_reg"]  # squared near zero


def test_number_of_convs_and_anchors_in_the_head(small_model: Build) -> None:
    model = small_model("rpn.num_convs=3", "rpn.anchors.aspect_ratios=[0.5,0.75,1.0,2.0]")
    assert len(model.rpn.head.conv) == 3
    assert model.rpn.head.cls_logits.out_channels == 4
    assert model.rpn.head.bbox_pred.out_channels == 16
    sizes = small_model("rpn.anchors.sizes=[8,16,32,64,128]").rpn.anchors.cells
    assert [float(cells[1, 2] * 2) for cells in sizes] == [8, 16, 32, 64, 128]


def test_smallest_proposals_are_dropped(small_model: Build, batch: Batch) -> None:
    model = small_model("numerics.min_proposal_size=20").eval()
    inputs = model.prepare(batch[0])
    for proposals in model.proposals(model.features(inputs), inputs):
        assert float((proposals.boxes[:, 2:] - proposals.boxes[:, :2]).min()) >= 20


@pytest.mark.parametrize("num_convs", [1, 2])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_head_at_sampled_anchors_is_the_head_everywhere(
    num_convs: int, precision: torch.dtype, device: torch.device
) -> None:
    """Values and gradients, borders included, autocast's cached weights too."""
    torch.manual_seed(0)
    head = SampledRPNHead(8, 3, conv_depth=num_convs).to(device)
    nn.init.normal_(head.bbox_pred.weight)
    sizes = [(2, 8, size, size + 1) for size in (6, 3, 1)]
    features = Pyramid(torch.randn(size, device=device, requires_grad=True) for size in sizes)
    sampled = torch.randperm(2 * 3 * (6 * 7 + 3 * 4 + 2))[:90].to(device)
    gradients = []
    for sparse in (False, True):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            hidden = head.hidden(features)
            everywhere = head.predict_all(hidden)
            assert not everywhere[0][0].requires_grad
            if sparse:
                logits, deltas = head.predict_sampled(hidden, sampled)
            else:
                outputs = [head(each) for each in hidden]
                logits = torch.cat([each.reshape(2, -1) for each, _ in outputs], 1).flatten()[sampled]
                deltas = torch.cat([each.reshape(2, -1, 4) for _, each in outputs], 1)
                deltas = deltas.flatten(0, 1)[sampled]
        loss = logits.float().sigmoid().sum() + deltas.float().square().sum()
        inputs = [*features, *head.parameters()]
        gradients.append([loss, *torch.autograd.grad(loss, inputs)])
    tolerance = 1e-5 if precision == torch.float32 else 5e-2
    for dense, sparse in zip(*gradients, strict=True):
        assert (dense - sparse).abs().max() <= tolerance * dense.abs().max()
