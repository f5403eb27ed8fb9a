"""What becomes of every object and detection of an image, and how good the image is."""

from __future__ import annotations

from pathlib import Path

import pytest
from scenes import DOOR, scene

from maskrcnn_train.evaluation.diagnostics.verdicts import judge_images


@pytest.fixture
def verdicts(tmp_path: Path):
    found = scene(tmp_path)
    threshold, verdicts = judge_images(found.ground_truth, found.results, kind="segm", max_detections=100)
    return threshold, {each.image_id: each for each in verdicts}


def test_every_object_and_every_confident_detection_gets_its_kind(verdicts) -> None:
    _, by_image = verdicts
    kinds = {each.place: each.kind for each in by_image[2].objects}
    assert kinds == {2: "wrong class", 3: "localisation", 4: "missed"}  # the crowd region, 5, is not judged
    kinds = {each.place: each.kind for each in by_image[2].detections}
    assert kinds == {3: "wrong class", 4: "localisation", 5: "false alarm"}
    assert [each.kind for each in (*by_image[1].objects, *by_image[1].detections)] == ["fine"] * 4


def test_an_object_beside_a_detection_of_another_class_is_missed(tmp_path: Path) -> None:
    found = scene(tmp_path)
    found.results.append(dict(found.results[0], image_id=2, category_id=DOOR, bbox=[110, 25, 30, 30], score=0.96))
    _, verdicts = judge_images(found.ground_truth, found.results, kind="bbox", max_detections=100)
    kinds = {each.place: each.kind for each in next(each for each in verdicts if each.image_id == 2).objects}
    assert kinds[4] == "missed"


def test_detections_below_the_best_threshold_are_left_out(verdicts) -> None:
    threshold, by_image = verdicts
    assert 0.01 < threshold <= 0.9
    assert [each.place for each in by_image[1].detections] == [1, 0]


def test_quality_is_the_panoptic_quality_of_the_image(verdicts) -> None:
    _, by_image = verdicts
    assert by_image[1].quality == pytest.approx((1 + 0.9) / 2)
    assert by_image[2].quality == 0
    assert by_image[4].quality == 1
    assert by_image[2].num_errors == 6


def test_of_two_detections_on_an_object_the_second_is_a_false_alarm(tmp_path: Path) -> None:
    found = scene(tmp_path)
    found.results[0]["score"] = 0.98
    double = dict(found.results[0], bbox=[10, 10, 30, 38], score=0.99)
    found.results.append(double)
    _, verdicts = judge_images(found.ground_truth, found.results, kind="bbox", max_detections=100)
    first = next(each for each in verdicts if each.image_id == 1)
    kinds = {each.place: each.kind for each in first.detections}
    assert kinds == {0: "fine", 1: "fine", 7: "false alarm"}
