"""What an evaluation says beside mAP, on cases whose answer is known."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from random_detections import random_data

from maskrcnn_train.evaluation.coco.metrics import evaluate_coco
from maskrcnn_train.evaluation.diagnostics.bootstrap import difference, draw_images, drawn_scores, interval
from maskrcnn_train.evaluation.diagnostics.calibration import calibrate
from maskrcnn_train.evaluation.diagnostics.comparison import Comparison, compare, same_images
from maskrcnn_train.evaluation.diagnostics.curves import best_cut, confidence_curves
from maskrcnn_train.evaluation.diagnostics.diagnostics import Diagnostics, diagnose
from maskrcnn_train.evaluation.diagnostics.errors import classify, confusion_matrix, count_errors
from maskrcnn_train.evaluation.diagnostics.matches import match_detections
from maskrcnn_train.evaluation.diagnostics.overlaps import image_overlaps
from maskrcnn_train.evaluation.diagnostics.sizes import SizeBucket, size_buckets
from maskrcnn_train.reporting.diagnostics import diagnostics_tables, write_diagnostics
from maskrcnn_train.reporting.drawing.diagnostics_figures import confusion_figure, draw_diagnostics, most_frequent
from maskrcnn_train.reporting.drawing.figures import to_image
from maskrcnn_train.reporting.forms import fitted
from maskrcnn_train.reporting.pages.diagnostics_page import diagnostics_pages
from maskrcnn_train.reporting.terminal.tables import comparison_table

LIMITS = {"backend": "hotcoco", "max_detections": [1, 10, 100]}


def one_image(objects, found):
    """objects: (class, box); found: (class, box, score). Classes 1 and 2."""
    truth = {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "categories": [{"id": 1}, {"id": 2}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for n, (c, box) in enumerate(objects, start=1)
        ],
    }
    results = [{"image_id": 1, "category_id": c, "bbox": box, "score": score} for c, box, score in found]
    return truth, results, image_overlaps(truth, results, kind="bbox", max_detections=100)


BOX, FAR, BESIDE = [10, 10, 40, 40], [120, 120, 30, 30], [35, 10, 40, 40]  # BESIDE overlaps BOX by .23
THIRD = [150, 10, 30, 30]
# an object of class 1 with these detections, beside one of class 2 that is found: the AP that mending each kind gives
ERROR_CASES = {
    "classification": ([(2, BOX, 0.9)], {"classification": 0.75}),
    "localisation": ([(1, BESIDE, 0.9)], {"localisation": 0.5}),
    "both": ([(2, BESIDE, 0.9)], {"both": 0.25, "missed": 0.5}),  # such a detection is no near miss
    "duplicate": ([(1, BOX, 0.95), (1, BOX, 0.9)], {"duplicate": 0.0}),  # all objects are found before it
    "background": ([(1, FAR, 0.9)], {"background": 0.0, "missed": 0.0}),  # each alone leaves the other
    "missed": ([], {"missed": 0.5}),
}


def broken_down(overlaps, boxes=None):
    return count_errors(classify(overlaps, iou=0.5, boxes=boxes), iou=0.5)


def costs(objects, found):
    """AP, and the AP that each kind of error with a count costs."""
    errors = broken_down(one_image(objects, found)[2])
    return errors.ap, {kind.name: pytest.approx(kind.ap_gain) for kind in errors.kinds if kind.count}


@pytest.mark.parametrize("name", ERROR_CASES)
def test_every_kind_of_error_is_told_apart_and_costs_what_mending_it_gives(name):
    found, gains = ERROR_CASES[name]
    objects, found = [(1, BOX), (2, THIRD)], [*found, (2, THIRD, 0.8)]
    errors = broken_down(one_image(objects, found)[2])
    assert {kind.name: kind.count for kind in errors.kinds if kind.count} == dict.fromkeys(gains, 1)
    assert costs(objects, found)[1] == gains


def test_false_alarms_and_duplicates_before_a_hit_cost_precision():
    assert costs([(1, BOX)], [(1, FAR, 0.9), (1, BOX, 0.8)]) == (pytest.approx(0.5), {"background": 0.5})
    ap, lost = costs([(1, BOX), (1, FAR)], [(1, BOX, 0.95), (1, BOX, 0.9), (1, FAR, 0.8)])
    assert ap == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert lost == {"duplicate": 1 - ap}


def test_of_two_errors_that_could_be_moved_to_one_object_the_first_is():
    below = [10, 35, 40, 40]  # overlaps BOX as BESIDE does
    ap, lost = costs([(1, BOX), (1, FAR)], [(1, BESIDE, 0.9), (1, below, 0.8)])
    assert (ap, lost) == (0, {"localisation": 51 / 101, "missed": 0.0})


def test_objects_that_are_not_missed_cost_nothing_while_false_alarms_stay():
    alarms = [(1, [10 + 30 * number, 160, 20, 20], 0.9 - 0.1 * number) for number in range(3)]
    assert costs([(1, BOX)], alarms) == (0, {"background": 0.0, "missed": 0.0})
    ap, lost = costs([(1, BOX), (1, FAR)], [*alarms, (1, FAR, 0.5)])
    assert ap == pytest.approx(51 * 0.25 / 101)
    assert lost == {"background": 51 * 0.75 / 101, "missed": 0.25 - ap}


def test_a_right_box_around_a_wrong_mask_is_an_error_of_the_mask():
    boxes = image_overlaps(*one_image([(1, BOX)], [(1, BOX, 0.9)])[:2], kind="bbox", max_detections=100)
    masks = [type(boxes[0])(**{**vars(boxes[0]), "ious": np.array([[0.3]])})]
    errors = broken_down(masks, boxes)
    assert {k.name: (k.count, k.ap_gain) for k in errors.kinds if k.count} == {"mask": (1, 1.0)}
    assert {k.name: k.count for k in broken_down(masks).kinds if k.count} == {"localisation": 1}


def test_the_confusion_matrix_counts_every_object_and_every_shown_detection_once():
    _, _, overlaps = one_image(
        [(1, BOX), (2, FAR), (1, [150, 10, 30, 30])],
        [(2, BOX, 0.9), (2, FAR, 0.8), (1, [0, 150, 20, 20], 0.7), (1, [150, 10, 30, 30], 0.2)],
    )
    found = classify(overlaps, iou=0.5)
    matrix = confusion_matrix(found, num_classes=2, threshold=0.5)
    assert matrix.tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 0]]


def test_the_best_threshold_is_the_score_down_to_which_f1_is_highest():
    _, _, overlaps = one_image(
        [(1, BOX), (1, FAR), (1, [150, 10, 30, 30])],
        [(1, BOX, 0.9), (1, FAR, 0.6), (1, [0, 150, 20, 20], 0.6), (1, [60, 150, 20, 20], 0.3)],
    )
    curve = confidence_curves(match_detections(overlaps, iou_thresholds=[0.5]), ["a", "b"], iou=0.5)[0]
    assert curve.best_threshold == 0.6
    assert (curve.best_f1, curve.best_precision, curve.best_recall) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert curve.recall[60] == pytest.approx(2 / 3)
    assert curve.recall[61] == pytest.approx(1 / 3)


def test_curves_go_over_the_whole_range_where_scores_lie_outside_0_to_1():
    _, _, overlaps = one_image(
        [(1, BOX), (1, FAR)], [(1, BOX, 3.0), (1, FAR, -1.0), (1, [0, 150, 20, 20], -4.0), (2, THIRD, -7.0)]
    )
    curves = confidence_curves(match_detections(overlaps, iou_thresholds=[0.5]), ["a", "b"], iou=0.5)
    assert (curves[0].cuts[0], curves[0].cuts[-1]) == (-7.0, 3.0)
    threshold, f1 = best_cut(curves)
    assert -4 < threshold <= -1
    assert f1 == curves[0].best_f1 == 1
    assert curves[0].best_threshold == -1.0


def test_calibration_compares_the_mean_score_of_a_bin_with_the_share_that_is_right():
    found = [(1, BOX, 0.94), (1, FAR, 0.92), (1, [0, 150, 20, 20], 0.96), (1, [60, 150, 20, 20], 0.25)]
    overlaps = one_image([(1, BOX), (1, FAR)], [*found, (2, THIRD, 0.05)])[2]
    matches = match_detections(overlaps, iou_thresholds=[0.5])
    matches.ignored[0, -1] = True
    found = calibrate(matches, iou=0.5)
    assert found.counts == [0, 0, 1, 0, 0, 0, 0, 0, 0, 3]
    empty = [None] * 10
    assert found.scores == [*empty[:2], pytest.approx(0.25), *empty[3:9], pytest.approx(0.94)]
    assert found.precision == [*empty[:2], 0.0, *empty[3:9], pytest.approx(2 / 3)]
    assert found.error == pytest.approx((0.25 + 3 * (0.94 - 2 / 3)) / 4)


@pytest.mark.parametrize(("score", "probabilities"), [(1.0000001, True), (0.0, True), (-0.5, False), (87.0, False)])
def test_only_scores_from_0_to_1_are_compared_with_shares(score, probabilities):
    matches = match_detections(one_image([(1, BOX)], [(1, BOX, score)])[2], iou_thresholds=[0.5])
    assert (calibrate(matches, iou=0.5) is not None) == probabilities


def test_objects_are_counted_and_found_by_the_side_of_their_square():
    overlaps = one_image([(1, BOX), (1, FAR), (1, THIRD)], [(1, BOX, 0.9), (1, FAR, 0.3)])[2]
    every, confident = (
        match_detections([image.first(count) for image in overlaps], iou_thresholds=[0.5]) for count in (2, 1)
    )
    buckets = size_buckets(overlaps, every, confident)
    assert buckets == [SizeBucket(16, 32, 2, 0.5, 0.0), SizeBucket(32, 64, 1, 1.0, 1.0)]


# ---------------------------------------------------------------- draws


def many_images(count, seed, found_share=0.6):
    rng = np.random.default_rng(seed)
    truth = {
        "images": [{"id": i, "height": 100, "width": 100} for i in range(count)],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [],
    }
    results = []
    for image in range(count):
        for number in range(int(rng.integers(1, 4))):
            box = [30 * number, 10, 20, 20]
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": 1, "bbox": box}
                | {"area": 400, "iscrowd": 0}
            )
            if rng.random() < found_share:
                results.append({"image_id": image, "category_id": 1, "bbox": box, "score": rng.uniform(0.3, 1)})
            if rng.random() < 0.4:
                wrong = [30 * number, 60, 20, 20]
                results.append({"image_id": image, "category_id": 1, "bbox": wrong, "score": rng.uniform(0, 0.8)})
    return truth, results


def ap_draws(truth, results, draws):
    overlaps = image_overlaps(truth, results, kind="bbox", max_detections=100)
    return drawn_scores(match_detections(overlaps, iou_thresholds=[0.5]), draws)[:, 0]


def test_ap_of_a_draw_is_that_of_a_data_set_with_the_images_as_often():
    truth, results = many_images(12, seed=3)
    draws = draw_images(12, 5, seed=0)
    scores = ap_draws(truth, results, draws)
    for row, counts in enumerate(draws):
        copies = [(image, 100 * image + copy) for image, count in enumerate(counts) for copy in range(count)]
        again = {
            "images": [{**truth["images"][image], "id": number} for image, number in copies],
            "categories": truth["categories"],
            "annotations": [
                {**each, "image_id": number}
                for image, number in copies
                for each in truth["annotations"]
                if each["image_id"] == image
            ],
        }
        found = [{**r, "image_id": number} for image, number in copies for r in results if r["image_id"] == image]
        result = evaluate_coco(again, found, **LIMITS, kinds=["bbox"], iou_thresholds=[0.5])
        # copies have equal scores and stand in a row: the draw takes them as one step of several
        assert scores[row] == pytest.approx(result.metrics["bbox/AP"], abs=0.02)
    assert scores[0] == pytest.approx(
        evaluate_coco(truth, results, **LIMITS, kinds=["bbox"]).metrics["bbox/AP50"], abs=1e-12
    )


def test_intervals_hold_the_score_of_all_such_images_about_95_times_in_100():
    everything = ap_draws(*many_images(4000, seed=99), np.ones((1, 4000), np.int64))[0]
    held = 0
    for seed in range(80):
        scores = ap_draws(*many_images(40, seed), draw_images(40, 200, seed))
        found = interval(scores)
        assert found.low < found.value < found.high
        held += found.low <= everything <= found.high
    assert 68 <= held <= 79  # 76 expected; below 68 once in a thousand, all 80 once in sixty


def test_a_difference_is_no_larger_than_scores_allow_and_clear_only_if_its_draws_are() -> None:
    # two images, one of which only a gets right: a draw holds it twice, once or not at all
    change = difference(np.full(201, 0.0), -np.array([0.5, *[0.0] * 51, *[0.5] * 100, *[1.0] * 49]))
    assert change is not None
    assert (change.low, change.high, change.clear) == (-1.0, 0.0, False)


def test_an_interval_is_the_middle_95_percent_of_the_draws_around_the_value():
    found = interval(np.array([0.5, *np.linspace(0.2, 0.6, 401)]))  # their mean is 0.4: moved up by 0.1
    assert (found.low, found.high) == (pytest.approx(0.31), pytest.approx(0.69))
    changes = difference(np.zeros(402), np.array([0.5, *np.linspace(0.2, 0.6, 401)]))
    assert (changes.low, changes.high) == (pytest.approx(0.31), pytest.approx(0.69))


@pytest.mark.parametrize("images", [1, 4])
def test_objects_in_one_image_give_no_interval_and_no_verdict(images):
    truth, results = many_images(images, seed=1, found_share=0.9)
    first = truth["images"][0]["id"]
    truth["annotations"] = [each for each in truth["annotations"] if each["image_id"] == first]
    studies = []
    for found in (results, []):
        result = evaluate_coco(truth, found, **LIMITS, kinds=["bbox"])
        studies.append(diagnose(truth, found, result, num_draws=100, seed=0))
    assert studies[0]["bbox"].intervals == {}
    assert "no interval of AP, AP50, AP75, APs, AR100: fewer than 2 images have such objects" in diagnostics_tables(
        studies[0]["bbox"]
    )
    compared = compare(*studies)
    assert [each.a > each.b for each in compared] == [True] * 5
    for each in compared:
        plain = each.to_plain()
        assert plain["verdict"] == "not distinguishable"
        assert plain["note"] == "no interval: fewer than 2 images have such objects"
        assert plain["difference"]["low"] is None
    assert "no interval of bbox/AP, bbox/AP50" in comparison_table(compared, images)


def test_a_better_model_is_told_from_chance():
    truth, results = many_images(60, seed=5)
    draws = draw_images(60, 300, seed=0)
    base = ap_draws(truth, results, draws)
    one_less = ap_draws(truth, results[:-1], draws)
    assert difference(base, base).clear is False
    assert difference(base, one_less).clear is False
    much_less = [each for each in results if each["image_id"] % 3]
    few = ap_draws(truth, much_less, draws)
    worse, better = difference(base, few), difference(few, base)
    assert worse.high < 0 < better.low
    found = [Comparison("bbox/AP", each.value, 0.0, each) for each in (worse, better)]
    assert [each.verdict for each in found] == ["a is better", "b is better"]


# ---------------------------------------------------------------- the whole


@pytest.fixture(scope="module")
def studied():
    truth, results = random_data(2, num_images=10)
    result = evaluate_coco(truth, results, **LIMITS)
    return truth, result, diagnose(truth, results, result, num_draws=100, seed=0)


def test_a_study_agrees_with_the_metrics(studied):
    truth, result, studies = studied
    for kind, study in studies.items():
        for measure, each in study.intervals.items():
            assert each.value == pytest.approx(result.metrics[f"{kind}/{measure}"], abs=1e-12)
            assert each.low <= each.value <= each.high
        assert study.errors.ap == pytest.approx(result.metrics[f"{kind}/AP50"], abs=1e-12)
        objects = sum(not each["iscrowd"] for each in truth["annotations"])
        assert study.confusion[:-1].sum() == objects
        assert sum(bucket.objects for bucket in study.sizes) == objects
        assert sum(study.calibration.counts) > 0
        assert 0 <= study.calibration.error <= 1


def test_a_study_is_written_as_data_tables_and_pictures(studied, tmp_path):
    _, _, studies = studied
    pictures = write_diagnostics(tmp_path, studies, {"images": [{"id": 1}, {"id": 2}]})
    assert {f"{kind}/{name}" for kind in ("bbox", "segm") for name in ("confusion", "errors", "sizes")} <= set(pictures)
    plain = json.loads((tmp_path / "study.json").read_text())
    assert plain["segm"]["errors"]["kinds"][0]["name"] == "classification"
    for name in pictures:
        assert (tmp_path / f"{name.replace('/', '_')}.png").stat().st_size > 5000
    assert [each["name"] for each in plain["bbox"]["errors"]["kinds"]].count("mask") == 0
    assert "95 % intervals" in diagnostics_tables(studies["segm"])


def test_the_confusion_is_written_whole_also_with_a_class_called_background(studied, tmp_path, monkeypatch):
    monkeypatch.setattr("maskrcnn_train.reporting.drawing.diagnostics_figures.draw_diagnostics", lambda study: {})
    study = replace(studied[2]["segm"], class_names=["window", "background", "shop", "never"])
    write_diagnostics(tmp_path, {"segm": study}, {"images": [{"id": 1}]})
    lines = list(csv.reader((tmp_path / "segm_confusion.csv").read_text().splitlines()))
    assert lines[0] == ["is / taken for", "window", "background", "shop", "never", "background"]
    assert [line[0] for line in lines] == lines[0]
    assert [[int(cell) for cell in line[1:]] for line in lines[1:]] == study.confusion.tolist()


def test_the_picture_of_many_classes_adds_up_the_rare_ones(studied):
    matrix = np.arange(31 * 31).reshape(31, 31)
    study = replace(studied[2]["segm"], class_names=[f"c{number}" for number in range(30)], confusion=matrix)
    shown, names = most_frequent(study)
    assert names == [*(f"c{number}" for number in range(6, 30)), "6 others", ""]
    assert shown.sum() == matrix.sum()
    assert shown[0, 0] == matrix[6, 6]
    assert shown[0, -2] == matrix[6, :6].sum()
    assert shown[-2, -1] == matrix[:6, 30].sum()
    named = replace(study, class_names=["$a$_{", *study.class_names[1:]])  # no formula
    assert to_image(confusion_figure(named)).width > 1000


def test_a_study_of_logits_has_thresholds_among_them_and_no_calibration(studied):
    truth, result, studies = studied
    _, results = random_data(2, num_images=10)
    logits = [{**each, "score": 8 * each["score"] - 5} for each in results]
    found = evaluate_coco(truth, logits, **LIMITS)
    assert found.metrics == pytest.approx(result.metrics, abs=1e-12)
    study = diagnose(truth, logits, found, num_draws=0, seed=0)["bbox"]
    assert (study.confusion == studies["bbox"].confusion).all()
    assert study.calibration is None
    assert "no calibration: scores lie outside 0 to 1" in diagnostics_tables(study)
    figures = draw_diagnostics(study)
    assert "calibration" not in figures
    cuts = study.confidence[0].cuts
    assert cuts[0] == -5
    assert figures["confidence"].axes[0].get_xlim() == (cuts[0], cuts[-1])
    page = diagnostics_pages({"bbox": study})[0]
    assert len(page["charts"]) == 2
    assert " at -5 to " in page["charts"][-1].svg


def test_a_page_takes_curves_that_do_not_say_at_which_scores(studied):
    study = studied[2]["bbox"]
    plain = json.loads(json.dumps(study.to_plain()))
    for curve in plain["confidence"]:
        del curve["cuts"]
    again = fitted(Diagnostics, plain, "study.json")
    assert [each.cuts for each in again.confidence] == [each.cuts for each in study.confidence]
    assert again.to_plain() == study.to_plain()


def test_no_images_give_a_study_without_intervals():
    truth = {"images": [], "categories": [{"id": 1, "name": "a"}], "annotations": []}
    result = evaluate_coco(truth, [], **LIMITS)
    for study in diagnose(truth, [], result, num_draws=100, seed=0).values():
        assert study.intervals == {}
        assert study.threshold == study.errors.ap == 0
        assert diagnostics_tables(study)


def test_two_studies_compare_score_by_score(studied):
    truth, _, studies = studied
    same = compare(studies, studies)
    assert {each.verdict for each in same} == {"not distinguishable"}
    assert {each.name for each in same} >= {"bbox/AP", "segm/AP50", "segm/AR100"}
    with pytest.raises(ValueError, match="a is scored by bbox, b by segm: nothing to compare"):
        compare({"bbox": studies["bbox"]}, {"segm": studies["segm"]})
    with pytest.raises(ValueError, match="score both on the same data"):
        same_images(truth, {**truth, "images": truth["images"][1:]})
    others = [{**image, "id": image["id"] + 5} for image in truth["images"]]
    with pytest.raises(ValueError, match="as many images as b, but 1 of the 10 have ids that b's lack"):
        same_images(truth, {**truth, "images": others})
