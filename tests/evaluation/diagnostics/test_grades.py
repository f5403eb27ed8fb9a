"""What becomes of every object and detection of an image, and how good the image is."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_detections import random_data
from scenes import DOOR, scene

from maskrcnn_train.evaluation.coco.metrics import evaluate_coco
from maskrcnn_train.evaluation.diagnostics.diagnostics import diagnose
from maskrcnn_train.evaluation.diagnostics.grades import Graded, grade_images


def kinds_of(graded: list[Graded]) -> dict[int, str]:
    return {each.row: each.kind for each in graded}


@pytest.fixture
def grades(tmp_path: Path):
    found = scene(tmp_path)
    threshold, grades = grade_images(found.ground_truth, found.results, kind="segm", max_detections=100)
    return threshold, {each.image_id: each for each in grades}


def test_every_object_and_every_confident_detection_gets_its_kind(grades) -> None:
    _, by_image = grades
    # the crowd region, object 5, and the detection in it, 6, are left out
    assert kinds_of(by_image[2].objects) == {2: "classification", 3: "localisation", 4: "missed"}
    assert kinds_of(by_image[2].detections) == {3: "classification", 4: "localisation", 5: "background"}
    assert [each.iou for each in by_image[2].detections if each.kind == "background"] == [0]
    assert kinds_of(by_image[1].objects) | kinds_of(by_image[1].detections) == dict.fromkeys((0, 1), "right")


def test_an_object_beside_a_detection_of_another_class_is_missed(tmp_path: Path) -> None:
    found = scene(tmp_path)
    found.results.append(dict(found.results[0], image_id=2, category_id=DOOR, bbox=[110, 25, 30, 30], score=0.96))
    _, grades = grade_images(found.ground_truth, found.results, kind="bbox", max_detections=100)
    (second,) = (each for each in grades if each.image_id == 2)
    assert kinds_of(second.objects)[4] == "missed"
    assert kinds_of(second.detections)[7] == "both"


def test_detections_below_the_best_threshold_are_left_out(grades) -> None:
    threshold, by_image = grades
    assert 0.01 < threshold <= 0.9
    assert [each.row for each in by_image[1].detections] == [1, 0]


def test_quality_is_the_panoptic_quality_of_the_image(grades) -> None:
    _, by_image = grades
    assert by_image[1].quality == pytest.approx((1 + 0.9) / 2)
    assert by_image[2].quality == 0
    assert by_image[4].quality == 1
    assert by_image[2].num_errors == 6


def test_of_two_detections_on_an_object_the_second_is_a_duplicate(tmp_path: Path) -> None:
    found = scene(tmp_path)
    found.results[0]["score"] = 0.98
    found.results.append(dict(found.results[0], bbox=[10, 10, 30, 38], score=0.99))
    _, grades = grade_images(found.ground_truth, found.results, kind="bbox", max_detections=100)
    first = next(each for each in grades if each.image_id == 1)
    assert kinds_of(first.detections) == {7: "right", 0: "duplicate", 1: "right"}  # the higher score is the right one


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_grades_errors_and_confusion_count_the_same(kind: str) -> None:
    truth, results = random_data(3, num_images=20)
    result = evaluate_coco(truth, results, backend="pycocotools", max_detections=[1, 10, 100])
    found = diagnose(truth, results, result, num_draws=0, seed=0)[kind]
    threshold, grades = grade_images(truth, results, kind=kind, max_detections=100)
    assert threshold == found.threshold
    graded = [each.kind for grade in grades for each in grade.detections]
    missed = [each.kind for grade in grades for each in grade.objects].count("missed")
    counts = {each.name: each.count for each in found.errors.kinds}
    assert missed == counts.pop("missed")
    assert {name: graded.count(name) for name in counts} == counts
    assert graded.count("right") == found.confusion[:-1, :-1].trace() > 0
    assert found.confusion[:, :-1].sum() == len(graded)
