"""Single matches: by COCO's rule, so that AP and recall taken from them are the evaluator's to the last bits."""

import numpy as np
import pytest
from random_detections import NAMES, random_data

from maskrcnn_train.evaluation.coco.ground_truth import complete_ground_truth
from maskrcnn_train.evaluation.coco.metrics import IOU_THRESHOLDS, area_ranges, evaluate_coco
from maskrcnn_train.evaluation.diagnostics.matches import average_precision, match_detections
from maskrcnn_train.evaluation.diagnostics.overlaps import image_overlaps


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(6))
def test_ap_and_recall_from_matches_equal_pycocotools(seed, kind):
    truth, results = random_data(seed, num_images=12)
    truth["images"] = truth["images"][::-1]  # evaluators go by image id
    result = evaluate_coco(truth, results, backend="pycocotools", max_detections=[1, 2, 3])
    complete = complete_ground_truth(truth, ["bbox", "segm"])
    overlaps = image_overlaps(complete, results, kind=kind, max_detections=3)
    for area, limits in enumerate(area_ranges((32, 96))):
        matches = match_detections(overlaps, iou_thresholds=IOU_THRESHOLDS, area_range=limits)
        for number in range(len(NAMES)):
            own, objects = matches.classes == number, matches.object_classes == number
            once, total = np.ones((1, own.sum()), np.int64), np.array([objects.sum()])
            ap = average_precision(matches.hits[:, own], matches.ignored[:, own], once, total)[0]
            expected = result.precision[kind][:, :, number, area, -1].mean(axis=1)
            np.testing.assert_allclose(np.nan_to_num(ap, nan=-1), expected, rtol=0, atol=1e-12)
            if objects.any():
                recall = matches.found[:, objects].mean(axis=1)
                np.testing.assert_allclose(recall, result.recall[kind][:, number, area, -1], rtol=0, atol=1e-12)


def test_a_detection_in_a_crowd_region_is_neither_right_nor_wrong():
    boxes = [[0, 0, 50, 50], [60, 0, 20, 20]]
    truth = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "categories": [{"id": 3}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": box, "area": box[2] * box[3], "iscrowd": crowd}
            for box, crowd in zip(boxes, (1, 0), strict=True)
        ],
    }
    found = [[0, 0, 20, 20], [20, 20, 20, 20], [60, 0, 20, 20], [80, 80, 9, 9]]
    results = [{"image_id": 1, "category_id": 3, "bbox": box, "score": 0.9 - 0.1 * i} for i, box in enumerate(found)]
    matches = match_detections(image_overlaps(truth, results, kind="bbox", max_detections=100), iou_thresholds=[0.5])
    assert matches.hits[0].tolist() == [False, False, True, False]
    assert matches.ignored[0].tolist() == [True, True, False, False]
    assert matches.found.tolist() == [[True]]


def test_no_images_and_no_detections_match_nothing():
    empty = match_detections([], iou_thresholds=[0.5, 0.75])
    assert empty.hits.shape == (2, 0)
    truth, _ = random_data(1)
    complete = complete_ground_truth(truth, ["bbox"])
    matches = match_detections(
        image_overlaps(complete, [], kind="bbox", max_detections=100), iou_thresholds=[0.5, 0.75]
    )
    assert matches.hits.shape == (2, 0)
    assert not matches.found.any()
    assert matches.found.shape[1] == sum(not a["iscrowd"] for a in truth["annotations"])
