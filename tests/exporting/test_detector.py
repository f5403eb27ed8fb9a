"""The exported graph beside the model: every kind of head and numerics, several sizes, nothing found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TINY

from maskrcnn_train import Predictor, build_model, load_config
from maskrcnn_train.data.packing import pad_images
from maskrcnn_train.exporting import files
from maskrcnn_train.exporting.comparing import Differences
from maskrcnn_train.exporting.detector import TraceableDetector
from maskrcnn_train.prediction.pictures import prepare
from maskrcnn_train.prediction.predictor import detect_batch
from maskrcnn_train.structures.detections import Detections
from maskrcnn_train.structures.pasting import MaskPasting

SIZES = [(64, 64), (50, 90), (200, 141)]
KINDS = {
    "shapes": [],
    "detectron2": ["numerics=detectron2", "roi_head=fc2", "roi_head.fc_dim=64", "backbone.norm=frozen"],
    "adaptive sampling, group norm": ["pooler.sampling_ratio=0", "backbone.norm=group", "rpn.num_convs=2"],
    "boxes only": ["mask_head=none"],
    "pool": ["pooler=pool"],
}


def spread_predictor(overrides: list[str]) -> Predictor:
    """Random weights whose scores are far apart, as a trained model's are: ties go either way in any program."""
    torch.manual_seed(0)
    config = load_config([*TINY, "roi_head.score_threshold=0.2", "roi_head.detections_per_image=30", *overrides])
    model = build_model(config, num_classes=7)
    predictor = Predictor.from_model(model, config, [f"class {label}" for label in range(1, 7)])
    head, heads = model.rpn.head, model.roi_heads
    layers = ((head.cls_logits, 2.0), (head.bbox_pred, 0.2), (heads.box_predictor.cls_score, 2.0))
    first = prepare(predictor.config, images()[0])
    batch = pad_images([first.pixels], [first.size])
    for layer, spread in (*layers, (heads.box_predictor.bbox_pred, 0.5)):
        seen: list[torch.Tensor] = []
        hook = layer.register_forward_hook(lambda _layer, _inputs, output, seen=seen: seen.append(output.flatten()))
        with torch.no_grad():
            list(map(head, head.hidden(model.features(model.prepare(batch)))))  # calls its layers
            predictor.detect(batch)
            hook.remove()
            layer.weight.mul_(spread / torch.cat(seen).std())
    return predictor


def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def differences(predictor: Predictor, run: files.Runtime) -> Differences:
    total = Differences()
    for image in images():
        (ours,) = detect_batch(predictor, [prepare(predictor.config, image)], score_threshold=0.0)
        theirs = replace(run(image), pasting=predictor.pasting)
        assert theirs.has_masks == ours.has_masks
        total.add(ours, theirs, predictor.config, 1e-4)
    return total


def check(total: Differences, with_masks: bool) -> None:
    assert total.detections > 20
    assert total.missing == 0
    assert total.boxes < 1e-3
    assert total.scores < 1e-4
    assert not with_masks or (total.mask_iou or 0) > 0.999


@pytest.mark.parametrize("kind", ["adaptive sampling, group norm", "boxes only", "pool"])
def test_torchscript_finds_what_the_model_finds(kind: str, tmp_path: Path) -> None:
    predictor = spread_predictor(KINDS[kind])
    with files.without_exporter_noise():
        detector = TraceableDetector(predictor.model, None, bits=8)
    files.write_torchscript(detector, tmp_path / "model.torchscript", {"a": 1})
    check(differences(predictor, files.open_torchscript(tmp_path / "model.torchscript")), kind != "boxes only")
    assert [path.name for path in tmp_path.iterdir()] == ["model.torchscript"]


@pytest.mark.parametrize("kind", ["shapes", "detectron2"])
def test_onnx_finds_what_the_model_finds(kind: str, tmp_path: Path) -> None:
    predictor = spread_predictor(KINDS[kind])
    pasting = predictor.pasting if kind == "shapes" else None
    with files.without_exporter_noise():
        detector = TraceableDetector(predictor.model, pasting, bits=8)
    files.write_onnx(detector, tmp_path / "model.onnx", {"a": [1]}, predictor.config, 17)
    check(differences(predictor, files.open_onnx(tmp_path / "model.onnx")), kind != "boxes only")


def test_an_image_without_objects_gives_empty_outputs(tmp_path: Path) -> None:
    predictor = spread_predictor(["roi_head.score_threshold=1"])
    for pasting in (None, predictor.pasting):
        with files.without_exporter_noise():
            detector = TraceableDetector(predictor.model, pasting, bits=8)
        files.write_torchscript(detector, tmp_path / "model.torchscript", {})
        found = files.open_torchscript(tmp_path / "model.torchscript")(np.zeros((70, 90, 3), np.uint8))
        assert found.boxes.shape == (0, 4)
        assert found.has_masks
        assert found.probabilities is None or found.probabilities.shape == (0, 1, 28, 28)
        assert (found.probabilities is None) == (found.pasted == [])


def compared(ours: Detections, theirs: Detections) -> Differences:
    found = Differences()
    found.add(ours, theirs, load_config([*TINY, "roi_head.score_threshold=0.05"]), 1e-4)
    return found


def test_a_shifted_box_another_score_and_a_lost_object_are_told() -> None:
    boxes, labels = torch.tensor([[0.0, 0, 10, 20], [30, 30, 50, 50]]), torch.tensor([1, 2])
    ours = Detections(boxes, labels, torch.tensor([0.9, 0.5]), (60, 60))

    same = compared(ours, ours)
    assert (same.pixels, same.scores, same.missing, same.mask_iou) == (0, 0, 0, None)
    moved = compared(ours, replace(ours, boxes=boxes + torch.tensor([0.0, 0, 0, 1]), scores=torch.tensor([0.9, 0.4])))
    assert moved.pixels == 1
    assert moved.boxes == pytest.approx(0.05)
    assert moved.scores == pytest.approx(0.1)
    lost = ours[torch.tensor([0])]
    assert compared(ours, lost).missing == 1
    assert compared(ours, replace(ours, labels=torch.tensor([1, 3]))).missing == 2
    at_the_edge = replace(ours, scores=torch.tensor([0.9, 0.05]))
    assert compared(at_the_edge, lost).missing == 0


def test_pasted_masks_and_those_inside_boxes_are_compared_in_the_image() -> None:
    boxes, scores = torch.tensor([[10.0, 20, 30, 40]]), torch.tensor([0.9])
    ours = Detections(boxes, torch.tensor([1]), scores, (60, 60), torch.ones(1, 1, 28, 28))
    ours.pasting = MaskPasting(0.5, "continuous")
    half = np.zeros((60, 60), np.uint8)
    half[20:40, 10:20] = 1
    theirs = Detections(boxes, torch.tensor([1]), scores, (60, 60), pasted=[(0, 0, half)])
    assert compared(ours, theirs).mask_iou == 0.5
