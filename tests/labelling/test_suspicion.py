"""Planted label errors are found and named, from detections as a good model gives them; and single cases by hand."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from documented import ROOT
from pycocotools import mask as coco_mask
from scenes import DOOR, SIZE, WINDOW, thing

from maskrcnn_train.data.shapes import CATEGORIES, annotation, place_shapes
from maskrcnn_train.evaluation.diagnostics.overlaps import image_overlaps
from maskrcnn_train.labelling.evidence import calibrated_scores
from maskrcnn_train.labelling.suspicion import KINDS, Doubt, find_doubts

PLANTED = runpy.run_path(str(ROOT / "benchmarks/planted_labels.py"))
SIDE = 96
Coco = dict[str, Any]


def drawn_shapes(num_images: int, seed: int) -> Coco:
    """The labels of images of shapes, without their pixels."""
    images, annotations = [], []
    for number in range(1, num_images + 1):
        images.append({"id": number, "file_name": f"{number}.jpg", "width": SIDE, "height": SIDE})
        shapes = place_shapes(np.random.default_rng([seed, number]), SIDE)
        annotations += [annotation(each, len(annotations) + k, number) for k, each in enumerate(shapes, start=1)]
    categories = [{"id": number, "name": name} for number, name in CATEGORIES.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def noisy_detections(truth: Coco, rng: np.random.Generator) -> list[Coco]:
    """Nearly every object, a little off, now and then of another class; and false alarms of low scores."""
    found = []
    for each in truth["annotations"]:
        if rng.random() < 0.02:
            continue
        mask = PLANTED["_bitmap"](each["segmentation"], (SIDE, SIDE))
        down, right = rng.integers(0, 3, 2)
        mask = np.pad(mask, 1)[down : down + SIDE, right : right + SIDE]  # moved by a pixel at most
        classes = [each["category_id"], int(rng.choice([*CATEGORIES]))]
        if rng.random() < 0.02:
            classes.reverse()
        for category, score in zip(classes, (rng.beta(9, 1), rng.uniform(0.01, 0.2)), strict=True):
            found.append(detection(each["image_id"], category, mask, score))
    for image in truth["images"]:
        if rng.random() < 0.3:
            mask = np.zeros((SIDE, SIDE), bool)
            x, y = rng.integers(0, SIDE - 20, 2)
            mask[y : y + 20, x : x + 20] = True
            found.append(detection(image["id"], int(rng.choice([*CATEGORIES])), mask, rng.uniform(0.01, 0.6)))
    return found


def detection(image_id: int, category: int, mask: np.ndarray, score: float) -> Coco:
    code = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    box = [float(value) for value in coco_mask.toBbox(code)]
    shape = {"size": [SIDE, SIDE], "counts": code["counts"].decode()}
    return {"image_id": image_id, "category_id": category, "score": float(score), "bbox": box, "segmentation": shape}


def doubts_of(truth: Coco, found: list[Coco], **more: Any) -> list[Doubt]:
    return find_doubts(truth, found, **{"with_masks": True, "max_detections": 100, **more})


def test_most_of_the_first_doubts_are_planted_and_named_by_their_kind() -> None:
    clean = drawn_shapes(120, seed=1)
    spoilt, planted = PLANTED["plant"](clean, 1)
    found = noisy_detections(clean, np.random.default_rng(2))
    doubts = doubts_of(spoilt, found)
    entries = [
        {
            "kind": each.kind,
            "image_id": each.image_id,
            "annotations": [] if each.label is None else [spoilt["annotations"][each.label]["id"]],
            "box": found[each.found]["bbox"] if each.label is None else None,
        }
        for each in doubts[: len(planted)]
    ]
    hits = PLANTED["matched"](entries, planted)
    right = [(hit["kind"], each["kind"]) for hit, each in zip(hits, entries, strict=True) if hit is not None]
    assert len(right) >= 0.85 * len(planted)
    for kind in PLANTED["KINDS"]:
        number = sum(each["kind"] == kind for each in planted)
        assert sum(is_kind == kind for is_kind, _ in right) >= 0.7 * number, kind
    assert sum(is_kind == named for is_kind, named in right) >= 0.9 * len(right)
    assert all(0 <= each.suspicion <= 1 for each in doubts)
    assert len({each.label for each in doubts if each.label is not None}) == len(spoilt["annotations"])


def test_labels_that_the_model_agrees_with_are_hardly_suspicious() -> None:
    clean = drawn_shapes(60, seed=3)
    doubts = doubts_of(clean, noisy_detections(clean, np.random.default_rng(4)), least=0.5)
    assert len(doubts) <= 0.07 * len(clean["annotations"])


# ---------------------------------------------------------------- single cases


def scene(labels: list[Coco], found: list[Coco]) -> list[Doubt]:
    """The doubts about image 1, among 30 images that the model agrees with."""
    usual = [thing(number, kind, 10, 10, 40, 40) for number in range(2, 32) for kind in (DOOR, WINDOW)]
    usual = [each | {"bbox": [10 + 60 * (each["category_id"] == DOOR), 10, 40, 40]} for each in usual]
    usual = [thing(each["image_id"], each["category_id"], *map(int, each["bbox"])) for each in usual]
    agreed = [each | {"score": 0.9} for each in usual]
    annotations = [each | {"id": number, "area": 1.0} for number, each in enumerate([*labels, *usual], start=1)]
    truth = {
        "images": [{"id": n, "height": SIZE[0], "width": SIZE[1], "file_name": f"{n}.png"} for n in range(1, 32)],
        "categories": [{"id": DOOR, "name": "door"}, {"id": WINDOW, "name": "window"}],
        "annotations": annotations,
    }
    return [each for each in doubts_of(truth, [*agreed, *found], least=0.3) if each.image_id == 1]


@pytest.mark.parametrize(
    ("labels", "found", "kind", "proposed"),
    [
        ([], [thing(1, DOOR, 10, 10, 40, 40, score=0.9)], "missing", DOOR),
        ([thing(1, DOOR, 10, 10, 40, 40)], [], "spurious", None),
        ([thing(1, DOOR, 10, 10, 40, 40)], [thing(1, WINDOW, 10, 11, 40, 40, score=0.9)], "wrong class", WINDOW),
        ([thing(1, DOOR, 10, 10, 40, 40)], [thing(1, DOOR, 24, 24, 40, 40, score=0.9)], "loose box", DOOR),
        (
            [thing(1, DOOR, 10, 10, 40, 20) | {"bbox": [10, 10, 40, 40]}],
            [thing(1, DOOR, 10, 10, 40, 40, score=0.9)],
            "poor mask",
            DOOR,
        ),
        (
            [thing(1, DOOR, 10, 10, 40, 40), thing(1, DOOR, 10, 11, 40, 40)],
            [thing(1, DOOR, 10, 10, 40, 40, score=0.9)],
            "doubled",
            None,
        ),
    ],
    ids=[*KINDS],
)
def test_each_kind_is_named_with_what_the_label_should_be(
    labels: list[Coco], found: list[Coco], kind: str, proposed: int | None
) -> None:
    (doubt,) = scene(labels, found)
    assert (doubt.kind, doubt.proposed) == (kind, proposed)
    assert (doubt.label is None) == (kind == "missing")
    assert doubt.suspicion > 0.8
    if kind == "doubled":
        assert (doubt.label, doubt.twin) == (1, 0)  # the one that fits worse goes


def doors(number: int, found: Callable[[int], list[Coco]], *, windows: int = 0) -> list[Doubt]:
    """The doubts about one door in each of some images, in the first ones also a window. found: what is detected in an
    image."""
    labels = [thing(image, DOOR, 10, 10, 40, 40) for image in range(1, number + 1)]
    labels += [thing(image, WINDOW, 60, 60, 20, 20) for image in range(1, windows + 1)]
    labels = [each | {"id": row, "area": 1.0} for row, each in enumerate(labels, start=1)]
    truth = {
        "images": [
            {"id": n, "height": SIZE[0], "width": SIZE[1], "file_name": f"{n}.png"} for n in range(1, number + 1)
        ],
        "categories": [{"id": DOOR, "name": "door"}, {"id": WINDOW, "name": "window"}],
        "annotations": labels,
    }
    return doubts_of(truth, [each for image in range(1, number + 1) for each in found(image)])


def seen_as(kind: int, image: int) -> list[Coco]:
    return [thing(image, kind, 10, 10, 40, 40, score=0.9)]


def test_a_model_that_often_takes_one_class_for_another_is_believed_less() -> None:
    once = doors(100, lambda image: seen_as(WINDOW if image == 1 else DOOR, image))
    often = doors(100, lambda image: seen_as(WINDOW if image <= 30 else DOOR, image))
    assert (once[0].kind, once[0].suspicion) == ("wrong class", pytest.approx(20 / 21, abs=0.02))
    assert {each.image_id for each in often[:30]} == set(range(1, 31))
    assert often[0].suspicion < 0.2 < once[0].suspicion


def test_a_class_without_a_right_detection_is_calibrated_by_its_own() -> None:
    images = range(1, 101)
    truth = {
        "images": [{"id": image, "height": SIZE[0], "width": SIZE[1]} for image in images],
        "categories": [{"id": DOOR, "name": "door"}, {"id": WINDOW, "name": "window"}],
        "annotations": [thing(image, DOOR, 10, 10, 40, 40, id=image, area=1.0, iscrowd=0) for image in images],
    }
    found = [thing(image, DOOR, 10, 10, 40, 40, score=0.5 + image / 300) for image in images]
    found += [thing(image, WINDOW, 60, 60, 20, 20, score=0.5 + image / 301) for image in images]
    overlaps = image_overlaps(truth, found, kind="bbox", max_detections=10)
    for image, chances in zip(overlaps, calibrated_scores(overlaps), strict=True):
        doors, windows = chances[image.found_classes == 0], chances[image.found_classes == 1]
        assert doors.min() > 0.9
        assert windows.max() < 0.1


@pytest.mark.parametrize("right", [1, 2])
def test_detections_of_one_score_are_right_as_often_whatever_their_order(right: int) -> None:
    labels = [thing(image, DOOR, 10, 10, 40, 40, id=image, area=1.0, iscrowd=0) for image in (1, 2)]
    truth = {
        "images": [{"id": image, "height": SIZE[0], "width": SIZE[1]} for image in (1, 2)],
        "categories": [{"id": DOOR, "name": "door"}],
        "annotations": labels,
    }
    found = [thing(image, DOOR, 10 if image == right else 60, 10, 40, 40, score=0.9) for image in (1, 2)]
    chances = calibrated_scores(image_overlaps(truth, found, kind="bbox", max_detections=10))
    assert np.concatenate(chances).tolist() == [0.5, 0.5]


def test_a_model_that_finds_few_objects_makes_few_labels_spurious() -> None:
    doubts = doors(100, lambda image: seen_as(DOOR, image) if image > 40 else [])
    assert [each.kind for each in doubts[:40]] == ["spurious"] * 40
    assert doubts[0].suspicion < 0.25
    assert doors(100, lambda image: seen_as(DOOR, image) if image > 1 else [])[0].suspicion == 1.0


def test_a_detection_of_a_class_that_is_hardly_learnt_says_little_against_labels() -> None:
    def found(image: int) -> list[Coco]:
        windows = [thing(image, WINDOW, 60, 10, 20, 20, score=0.95)]  # where none is
        unlabelled = [thing(image, DOOR, 10, 60, 30, 30, score=0.92)] if image == 50 else []
        return [*seen_as(DOOR, image), *windows, *unlabelled]

    missing = [each for each in doors(100, found, windows=30) if each.kind == "missing"]
    assert len(missing) == 101
    assert (missing[0].image_id, missing[0].proposed) == (50, DOOR)
    assert missing[0].suspicion > 0.9
    assert missing[1].suspicion < 0.3


def test_a_label_of_a_class_that_is_hardly_learnt_is_no_doubtful_one() -> None:
    def found(image: int) -> list[Coco]:  # of the windows that are found, one in three is there, and all are a bit off
        return [*seen_as(DOOR, image), *([thing(image, WINDOW, 65, 60, 20, 20, score=0.5)] if image <= 90 else [])]

    labels = [each for each in doors(100, found, windows=30) if each.label is not None]
    assert len(labels) == 130
    assert labels[0].suspicion < 0.05


def test_labels_that_the_model_does_not_find_make_no_detection_surer() -> None:
    def found(image: int) -> list[Coco]:  # of the detections scored 0.3, one in ten is right
        if image <= 60:
            return [thing(image, DOOR, 60, 60, 30, 30, score=0.3)] if image <= 36 else []
        return [thing(image, DOOR, 10, 10, 40, 40, score=0.3 if image <= 64 else 0.9)]

    missing = [each.suspicion for each in doors(100, found) if each.kind == "missing"]
    assert len(missing) == 36
    assert missing[0] < 0.1


def test_a_detection_in_a_crowd_region_is_no_missing_label() -> None:
    found = [thing(1, DOOR, 20, 20, 30, 30, score=0.9)]
    assert scene([thing(1, DOOR, 10, 10, 60, 60, iscrowd=1)], found) == []


def test_an_object_that_is_missing_is_one_doubt_whatever_its_detections_call_it() -> None:
    found = [thing(1, kind, 10, 10, 40, 40, score=score) for kind, score in ((DOOR, 0.9), (WINDOW, 0.8))]
    assert [each.kind for each in scene([], found)] == ["missing"]


def test_a_neighbour_is_no_evidence_for_a_label() -> None:
    labels = [thing(1, DOOR, 10, 10, 40, 40), thing(1, DOOR, 40, 10, 40, 40)]
    (doubt,) = scene(labels, [thing(1, DOOR, 10, 10, 40, 40, score=0.9)])
    assert (doubt.kind, doubt.label) == ("spurious", 1)


def test_boxes_alone_are_enough() -> None:
    clean = drawn_shapes(30, seed=5)
    found = noisy_detections(clean, np.random.default_rng(6))
    truth = clean | {"annotations": [each | {"segmentation": None} for each in clean["annotations"]]}
    plain = [{key: value for key, value in each.items() if key != "segmentation"} for each in found]
    assert {each.kind for each in doubts_of(truth, plain, with_masks=False)} <= {*KINDS} - {"poor mask"}


@pytest.mark.parametrize("with_labels", [True, False])
def test_there_may_be_no_detection_and_no_label(with_labels: bool) -> None:
    clean = drawn_shapes(4, seed=7)
    if not with_labels:
        clean["annotations"] = []
    assert all(each.kind == "spurious" for each in doubts_of(clean, []))
