import copy
import io
from contextlib import redirect_stdout

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from random_detections import HEIGHT, WIDTH, random_data

from maskrcnn_train.evaluation.coco.ground_truth import check_results, results_as_ground_truth
from maskrcnn_train.evaluation.coco.metrics import distinct_names, evaluate_coco, explain_absent
from maskrcnn_train.evaluation.diagnostics.curves import precision_recall_curves
from maskrcnn_train.settings.errors import UserError

BACKENDS = ("pycocotools", "faster_coco_eval", "hotcoco")
LIMITS = {"max_detections": [1, 10, 100]}
RANGES = [[0, 1e10], [0, 20**2], [20**2, 50**2], [50**2, 1e10]]


def reference(truth, results, kind, max_detections, **params):
    """pycocotools as its users call it (Detectron2's way: results without boxes for masks)."""
    truth = copy.deepcopy(truth)
    for number, annotation in enumerate(truth["annotations"], start=1):
        annotation["id"] = number
    results = [{k: v for k, v in r.items() if k != ("bbox" if kind == "segm" else "segmentation")} for r in results]
    with redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = truth
        gt.createIndex()
        evaluator = COCOeval(gt, gt.loadRes(copy.deepcopy(results)), kind)
        evaluator.params.maxDets = max_detections
        vars(evaluator.params).update(params)
        evaluator.evaluate()
        evaluator.accumulate()
        if not params:
            evaluator.summarize()
    return evaluator


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("backend", BACKENDS)
def test_metrics_and_arrays_equal_pycocotools_own(backend, seed):
    truth, results = random_data(seed)
    found = evaluate_coco(truth, results, backend=backend, max_detections=[1, 10, 100])
    for kind in ("bbox", "segm"):
        expected = reference(truth, results, kind, [1, 10, 100])
        for key in ("precision", "recall"):
            np.testing.assert_allclose(getattr(found, key)[kind], expected.eval[key], rtol=0, atol=1e-9)
        keys = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
        values = [found.metrics[f"{kind}/{key}"] for key in keys]
        np.testing.assert_allclose(values, expected.stats, rtol=0, atol=1e-9)
        assert 0 < found.metrics[f"{kind}/AP"] < 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_ap_is_taken_at_the_last_of_max_detections(backend):
    truth, results = random_data(4)
    found = evaluate_coco(truth, results, backend=backend, max_detections=[1, 2, 3])
    expected = reference(truth, results, "bbox", [1, 2, 3]).eval
    assert found.metrics["bbox/AP"] == pytest.approx(
        expected["precision"][..., 0, 2].clip(0)[:, :, :3].mean(), abs=1e-9
    )
    assert {"bbox/AR1", "bbox/AR2", "bbox/AR3"} <= set(found.metrics)
    assert "bbox/AR100" not in found.metrics


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_results_give_zero_and_the_input_is_left_alone(backend):
    truth, _ = random_data(1)
    before = copy.deepcopy(truth)
    found = evaluate_coco(truth, [], backend=backend, max_detections=[1, 10, 100])
    assert found.metrics["segm/AP"] == found.metrics["bbox/AR100"] == found.metrics["bbox/AP/door"] == 0
    assert found.metrics["bbox/AP/never"] == -1
    assert truth == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_split_without_objects_or_images_is_absent_not_an_error(backend):
    truth, results = random_data(1)
    for images in (truth["images"], []):
        empty = {**truth, "images": images, "annotations": []}
        kept = results if images else []
        found = evaluate_coco(empty, kept, backend=backend, max_detections=[1, 10, 100])
        assert set(found.metrics.values()) == {-1.0}
        assert explain_absent(found)[0].startswith("every AP and AR is absent: this split has no objects")


def test_nothing_is_printed(capfd):
    truth, results = random_data(1, num_images=3)
    for backend in BACKENDS:
        evaluate_coco(truth, results, backend=backend, max_detections=[1, 10, 100])
    assert capfd.readouterr() == ("", "")


def test_an_absent_size_and_class_are_explained_in_words():
    truth, results = random_data(1)
    truth["annotations"] = [a for a in truth["annotations"] if a["area"] < 96**2]
    found = evaluate_coco(truth, results, backend="hotcoco", max_detections=[1, 10, 100])
    said = explain_absent(found)
    assert "segm/APl and segm/ARl are absent: no large objects (area above 96^2 pixels) in this split" in said
    assert said[-1].startswith("no AP for never")
    assert found.support[41] == 0
    assert found.support[3] == sum(a["category_id"] == 3 and not a["iscrowd"] for a in truth["annotations"])


def test_area_and_iscrowd_may_be_missing_and_annotation_ids_zero():
    truth, results = random_data(2)
    truth["annotations"] = [a for a in truth["annotations"] if not a["iscrowd"] and isinstance(a["segmentation"], dict)]
    found = evaluate_coco(truth, results, backend="pycocotools", max_detections=[1, 10, 100])
    bare = {
        **truth,
        "annotations": [
            {k: v for k, v in a.items() if k not in ("area", "iscrowd")} | {"id": 0} for a in truth["annotations"]
        ],
    }
    assert evaluate_coco(bare, results, backend="pycocotools", max_detections=[1, 10, 100]).metrics == found.metrics


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 3}, "has image_id 3, which the ground truth lacks"),
        ({"image_id": "5"}, "has image_id '5' as text; the ground truth has the number 5"),
        ({"image_id": "five"}, "has image_id 'five', which the ground truth lacks"),
        ({"image_id": "--5"}, "has image_id '--5', which the ground truth lacks"),
        ({"image_id": [5]}, "has image_id \\[5\\] and category_id 7; both are whole numbers"),
        ({"category_id": {"id": 7}}, "category_id {'id': 7}; both are whole numbers"),
        ({"category_id": "7"}, "has category_id '7'; the ground truth has 3, 7, 40, 41"),
        ({"category_id": 9}, "has category_id 9; the ground truth has 3, 7, 40, 41"),
        ({"score": float("nan")}, "has score nan"),
        ({"score": True}, "has score True"),
        ({"bbox": [1, "2", 3, 4]}, "it must be \\[x, y, width, height\\]"),
        ({"bbox": [1, 2, float("inf"), -float("inf")]}, "it must be \\[x, y, width, height\\]"),
        ({"bbox": [1, 2, -3, 4]}, "with sides from 0"),
        ({"bbox": [1, 2, 3]}, "it must be \\[x, y, width, height\\]"),
        ({"segmentation": {"size": [170, 150], "counts": "0"}}, "has an RLE of size \\[170, 150\\]"),
        ({"segmentation": {"size": None, "counts": "0"}}, "has an RLE of size missing"),
        ({"segmentation": {"size": 150, "counts": "0"}}, "has an RLE of size 150; the image is \\[150, 170\\]"),
        ({"segmentation": {"size": [150.0, 170.0], "counts": "0"}}, "has an RLE of size \\[150.0, 170.0\\]"),
        ({"bbox": [1] * 1000}, "has bbox \\[1, 1, .{1,60}; it must be"),
        ({"segmentation": {"size": [150, 170], "counts": "52203"}}, "don't describe 150 x 170 pixels"),
        ({"segmentation": [[0, 0, 5, 0, 5, 5]]}, "not polygons"),
    ],
)
def test_malformed_results_are_named_in_one_line(change, message):
    truth, results = random_data(1)
    results[5] |= change
    with pytest.raises(ValueError, match=f"result 5 .*{message}") as caught:
        evaluate_coco(truth, results, backend="pycocotools", max_detections=[1, 10, 100])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["pycocotools", "hotcoco"])  # faster_coco_eval keeps ids as floats itself
def test_ids_that_no_float_holds_stay_apart(backend):
    truth, results = random_data(3)
    expected = evaluate_coco(truth, results, backend="pycocotools", **LIMITS).metrics
    shift = 2**53 + 1
    for image in truth["images"]:
        image["id"] = shift + image["id"] // 5
    for item in truth["annotations"] + results:
        item["image_id"] = shift + item["image_id"] // 5
    assert evaluate_coco(truth, results, backend=backend, **LIMITS).metrics == expected


@pytest.mark.parametrize("backend", BACKENDS)
def test_ids_below_zero_are_taken(backend):
    truth, results = random_data(2)
    expected = evaluate_coco(truth, results, backend=backend, **LIMITS).metrics
    for item in [*truth["annotations"], *results]:
        item["image_id"] -= 1000
    for image in truth["images"]:
        image["id"] -= 1000
    found = evaluate_coco(truth, results, backend=backend, **LIMITS)
    assert found.metrics == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_results_score_zero(backend):
    truth, _ = random_data(3)
    found = evaluate_coco(truth, [], backend=backend, **LIMITS).metrics
    assert (found["bbox/AP"], found["segm/AP"]) == (0, 0)


def test_a_damaged_mask_among_hundreds_is_named():
    truth, results = random_data(1)
    many = [{**results[index % len(results)]} for index in range(450)]
    areas = check_results(truth, many, ["segm"])
    assert areas == [float(coco_mask.area(each["segmentation"])) for each in many]
    many[421]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": "52203"}
    with pytest.raises(ValueError, match=r"result 421 .*don't describe 150 x 170 pixels"):
        check_results(truth, many, ["segm"])


def test_box_only_ground_truth_scores_boxes_and_says_why_it_cannot_score_masks():
    truth, results = random_data(1)
    for item in truth["annotations"] + results:
        del item["segmentation"]
    found = evaluate_coco(truth, results, backend="hotcoco", max_detections=[1, 10, 100], kinds=["bbox"])
    assert found.metrics["bbox/AP"] > 0
    assert not any(key.startswith("segm") for key in found.metrics)
    with pytest.raises(ValueError, match="has no segmentation"):
        evaluate_coco(truth, results, backend="hotcoco", max_detections=[1, 10, 100])


def test_an_evaluator_that_is_not_installed_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    truth, results = random_data(1, num_images=2)
    with pytest.raises(UserError, match=r"backend=faster_coco_eval needs the package faster-coco-eval.*\[evaluators\]"):
        evaluate_coco(truth, results, backend="faster_coco_eval", **LIMITS)


def test_two_classes_of_one_name_keep_their_own_ap():
    assert distinct_names({1: "car", 2: "bus", 5: "car"}) == {1: "car (1)", 2: "bus", 5: "car (5)"}


def test_precision_recall_curves_are_of_every_class_with_objects_at_the_evaluated_ious():
    truth, results = random_data(1)
    found = evaluate_coco(truth, results, **LIMITS, backend="hotcoco", iou_thresholds=[0.5, 0.6])
    curves = precision_recall_curves(found, kind="segm")
    assert {(curve.class_name, curve.iou) for curve in curves} == {(name, 0.5) for name in ("window", "door", "shop")}
    assert len(curves[0].recall) == len(curves[0].precision) == 101
    mean = np.mean([curve.precision for curve in curves])
    assert mean == pytest.approx(found.metrics["segm/AP50"])


def test_more_than_255_masks_in_plain_counts_are_taken() -> None:
    shape = {"size": [2, 2], "counts": [0, 4]}
    result = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [0, 0, 2, 2], "segmentation": shape}
    truth = {"images": [{"id": 1, "height": 2, "width": 2}], "categories": [{"id": 1}]}
    areas = check_results(truth, [result] * 300, ["segm"])
    found = results_as_ground_truth(truth, [result] * 300, "segm", areas)["annotations"]
    assert [annotation["area"] for annotation in found] == [4.0] * 300


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_iou_thresholds_and_sizes_count_as_pycocotools_would(backend):
    truth, results = random_data(3)
    found = evaluate_coco(
        truth,
        results,
        backend=backend,
        max_detections=[1, 10, 100],
        iou_thresholds=[0.3, 0.75],
        size_limits=[20, 50],
    )
    expected = reference(truth, results, "segm", [1, 10, 100], iouThrs=np.array([0.3, 0.75]), areaRng=RANGES).eval
    np.testing.assert_allclose(found.precision["segm"], expected["precision"], rtol=0, atol=1e-9)
    assert "segm/AP50" not in found.metrics
    assert found.metrics["segm/AP75"] < found.metrics["segm/AP"]
