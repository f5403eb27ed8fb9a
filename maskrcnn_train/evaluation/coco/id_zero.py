"""What pycocotools makes of an annotation with id 0, which it reads as "no match"."""

from collections.abc import Sequence

from maskrcnn_train.evaluation.coco.evaluators import Limits, run_evaluator
from maskrcnn_train.evaluation.coco.ground_truth import Coco, check_results, complete_ground_truth
from maskrcnn_train.evaluation.coco.metrics import CocoResult, area_ranges, mean_present

CATEGORY_ID = {"categories": "id", "annotations": "category_id"}  # where each item has it


def explain_id_zero(ground_truth: Coco, results: Sequence[Coco], scored: CocoResult) -> list[str]:
    """A sentence with the AP that pycocotools and Detectron2 give, if an annotation has id 0.

    Only the class of that annotation differs from `scored`, so only that class is evaluated again.
    """
    rows = [row for row, annotation in enumerate(ground_truth["annotations"]) if annotation.get("id") == 0]
    if not rows:
        return []
    kinds = list(scored.precision)
    truth = complete_ground_truth(ground_truth, kinds)
    zero = truth["annotations"][rows[0]]
    zero["id"] = 0
    own = {key: [each for each in truth[key] if each[name] == zero["category_id"]] for key, name in CATEGORY_ID.items()}
    found = [result for result in results if result["category_id"] == zero["category_id"]]
    areas = check_results(truth, found, kinds)
    limits = Limits(scored.max_detections, scored.iou_thresholds, area_ranges(scored.size_limits))
    column = list(scored.class_names).index(zero["category_id"])
    pairs = []
    for kind in kinds:
        precision, _ = run_evaluator("pycocotools", {**truth, **own}, found, kind, limits, areas)
        every_class = scored.precision[kind].copy()
        every_class[:, :, column] = precision[:, :, 0]
        there, here = mean_present(every_class[..., 0, -1]), scored.metrics[f"{kind}/AP"]
        pairs.append(f"{kind} AP {100 * there:.1f} there, {100 * here:.1f} here")
    return [
        "an annotation has id 0: pycocotools and Detectron2 count a detection that finds it as false "
        f"({'; '.join(pairs)})"
    ]
