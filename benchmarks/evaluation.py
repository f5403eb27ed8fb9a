"""A whole evaluation of a validation set - images, model, masks, mAP - with the same weights on both sides.

torchvision's Mask R-CNN with its own resize and paste, and pycocotools, against `validation.Validation`:
ours as it is used, and ours with torchvision's precision. Needs a checkpoint of `experiment=torchvision_v1`.
torchvision shrinks images without antialiasing; to compare the scores it is also run, without timing, on our pixels.

python benchmarks/evaluation.py --checkpoint RUN/checkpoints/last.pt [--images 8] [--rounds 3] [--min-size 800]
    [--score-threshold 0.0]
"""

from __future__ import annotations

import argparse
import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sides import coco_results, data_root, in_turn, machine, print_ratios
from torchvision.models.detection import maskrcnn_resnet50_fpn
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms.functional import to_pil_image, to_tensor

from maskrcnn_train.data.loading import evaluation_loader
from maskrcnn_train.data.splits.splitting import Split, read_split
from maskrcnn_train.data.transforms import Transform
from maskrcnn_train.engine.distributed import ALONE
from maskrcnn_train.evaluation.coco.ground_truth import complete_ground_truth
from maskrcnn_train.model.weights.files import torchvision_state
from maskrcnn_train.prediction.predictor import Predictor, load_checkpoint
from maskrcnn_train.prediction.validation import Validation
from maskrcnn_train.settings.compose import load_config


def torchvision_model(predictor: Predictor, min_size: int) -> torch.nn.Module:
    """The same layers and weights, with the checkpoint's budgets and thresholds."""
    config = predictor.config
    sizes, ratios = config.rpn.anchors.sizes, config.rpn.anchors.aspect_ratios
    model: torch.nn.Module = maskrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=predictor.model.num_classes,
        min_size=min_size,
        max_size=round(min_size * 5 / 3),
        rpn_anchor_generator=AnchorGenerator(tuple((size,) for size in sizes), (tuple(ratios),) * len(sizes)),
        rpn_pre_nms_top_n_test=config.rpn.nms.pre_test,
        rpn_post_nms_top_n_test=config.rpn.nms.post_test,
        rpn_nms_thresh=config.rpn.nms.threshold,
        box_score_thresh=config.roi_head.score_threshold,
        box_nms_thresh=config.roi_head.nms_threshold,
        box_detections_per_img=config.roi_head.detections_per_image,
    )
    model.load_state_dict(torchvision_state(predictor.model))
    model.eval()
    return model


class OurPixels(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's preparation of images with the resizing of our loader."""

    def normalize(self, image: torch.Tensor) -> torch.Tensor:
        return image  # after the resizing

    def resize(self, image: torch.Tensor, target: None = None) -> tuple[torch.Tensor, None]:
        transform = Transform(min_sizes=self.min_size, max_size=self.max_size)
        height, width = image.shape[-2:]
        resized = transform.geometry((height, width), None).resize(to_pil_image(image.mul(255).round().byte()))
        return super().normalize(to_tensor(resized)), target


def theirs(model: torch.nn.Module, truth: dict[str, Any], folder: Path, class_ids: list[int]) -> dict[str, float]:
    """As the reference scripts do it: full-size masks, one code at a time."""
    results: list[dict[str, Any]] = []
    for image in truth["images"]:
        pixels = to_tensor(Image.open(folder / image["file_name"]).convert("RGB"))
        with torch.inference_mode():
            (output,) = model([pixels])
        results += coco_results(output, image["id"], class_ids)
    scores = {}
    for kind in ("bbox", "segm"):
        plain = [{key: value for key, value in each.items() if kind == "bbox" or key != "bbox"} for each in results]
        with contextlib.redirect_stdout(io.StringIO()):
            reference = COCO()
            reference.dataset = {"info": {}, **complete_ground_truth(truth, [kind])}
            reference.createIndex()
            evaluation = COCOeval(reference, reference.loadRes(plain), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        scores[f"{kind}/AP"] = float(evaluation.stats[0])
    return scores


def ours(predictor: Predictor, split: Split, precision: str, min_size: int) -> dict[str, float]:
    data = replace(predictor.config.data, min_size=min_size, max_size=round(min_size * 5 / 3))
    trainer = replace(predictor.config.trainer, precision=precision, num_workers=1)
    config = replace(predictor.config, data=data, trainer=trainer)
    validation = Validation(evaluation_loader(config, split, predictor.classes), config, ALONE)
    metrics = validation.evaluate_predictor(replace(predictor, config=config))
    return {key: metrics[key] for key in ("bbox/AP", "segm/AP")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--min-size", type=int, default=800)
    parser.add_argument("--score-threshold", type=float, help="of both sides; as in the checkpoint by default")
    arguments = parser.parse_args()
    print(machine())
    predictor = load_checkpoint(arguments.checkpoint, device="cpu")
    if arguments.score_threshold is not None:
        predictor.config.roi_head.score_threshold = arguments.score_threshold
        rules = predictor.model.roi_heads.rules
        predictor.model.roi_heads.rules = replace(rules, score_threshold=arguments.score_threshold)
    predictor.config.data = load_config(["data=roboflow", f"data.root={data_root()}"]).data
    split, _ = read_split(predictor.config.data, "val", predictor.classes, with_masks=True)
    split = replace(split, rows=split.rows[: arguments.images])
    truth = evaluation_loader(predictor.config, split, predictor.classes).dataset.ground_truth()
    model = torchvision_model(predictor, arguments.min_size)
    scores: dict[str, dict[str, float]] = {}

    def keep(name: str, run: Any) -> Any:
        def timed() -> None:
            scores[name] = run()

        return timed

    size = arguments.min_size
    sides = {
        "torchvision": keep("torchvision", lambda: theirs(model, truth, split.images, predictor.classes.ids)),
        "ours": keep("ours", lambda: ours(predictor, split, "auto", size)),
        "ours, fp32": keep("ours, fp32", lambda: ours(predictor, split, "fp32", size)),
    }
    seconds = in_turn(sides, arguments.rounds, warmup=0)
    print_ratios(seconds, "ours")
    ratios = [a / b for a, b in zip(seconds["torchvision"], seconds["ours, fp32"], strict=True)]
    print(f"both in fp32: {sorted(ratios)[len(ratios) // 2]:.2f} x ours")
    given: Any = model.transform
    model.transform = OurPixels(given.min_size, given.max_size, given.image_mean, given.image_std).eval()
    scores["torchvision on our pixels"] = theirs(model, truth, split.images, predictor.classes.ids)
    for name, found in scores.items():
        print(name, {key: round(value, 5) for key, value in found.items()})


if __name__ == "__main__":
    main()
