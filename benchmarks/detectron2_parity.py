"""Are our numbers Detectron2's? Its R50-FPN models and ours with the same converted random weights, in one process.

Needs Detectron2 in the same environment; says so and ends with code 0 where it is missing.

    python benchmarks/detectron2_parity.py
"""

from __future__ import annotations

import importlib.util
import sys

import torch
from torch import Tensor

from maskrcnn_train import build_model, load_config
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.weights.detectron2 import from_detectron2
from maskrcnn_train.model.weights.files import StoredWeights
from maskrcnn_train.model.weights.loading import load_weights
from maskrcnn_train.structures.batch import ImageBatch
from maskrcnn_train.structures.detections import Detections
from maskrcnn_train.structures.pasting import MaskPasting

MODELS = {
    "detectron2_r50_fpn": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
    "detectron2_r101_fpn": "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x.yaml",
    "detectron2_r50_fpn_gn": "Misc/mask_rcnn_R_50_FPN_3x_gn.yaml",
}
SIZES = [(320, 416), (288, 512), (352, 352)]  # height, width
NAMES = [f"class {index}" for index in range(80)]
THRESHOLD = 0.02  # random weights give low scores


def build_theirs(path: str) -> torch.nn.Module:
    """Detectron2's model with random weights whose predictors tell places apart."""
    from detectron2 import model_zoo
    from detectron2.modeling import build_model as build

    config = model_zoo.get_config(path)
    config.MODEL.DEVICE = "cpu"
    config.MODEL.WEIGHTS = ""
    config.MODEL.ROI_HEADS.SCORE_THRESH_TEST = THRESHOLD
    torch.manual_seed(0)
    model: torch.nn.Module = build(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("objectness", "anchor_deltas", "cls_score", "bbox_pred", "predictor")):
                parameter.normal_(std=0.02)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.05)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
            elif name.endswith("conv3.norm.weight"):  # keeps the sums of the residual blocks from growing
                buffer.uniform_(0.02, 0.1)
    return model


def build_ours(experiment: str, theirs: torch.nn.Module) -> MaskRCNN:
    config = load_config([f"experiment={experiment}", f"roi_head.score_threshold={THRESHOLD}"])
    model: MaskRCNN = build_model(config, len(NAMES) + 1)
    model.eval()
    stored = StoredWeights("Detectron2", from_detectron2(theirs.state_dict()), class_names=[None, *NAMES])
    report = load_weights(model, stored, config, NAMES)
    assert not report.reinitialized, report.reinitialized
    return model


def differences(theirs: torch.nn.Module, ours: MaskRCNN, size: tuple[int, int]) -> tuple[int, float, float, float]:
    """Detections of one image, and the largest difference of boxes (pixels), scores, and masks (share of pixels)."""
    height, width = size
    pixels = torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(height)).to(torch.uint8)
    with torch.no_grad():
        found = theirs([{"image": pixels.flip(0).float(), "height": height, "width": width}])[0]["instances"]
        (mine,) = ours.detect(ImageBatch(pixels[None], [size], [size]))
    mine.pasting = MaskPasting(0.5, "continuous")
    count = len(found)
    if len(mine) != count or count == 0:
        return count, float("inf"), float("inf"), float("inf")
    bitmaps = torch.from_numpy(mine.bitmaps())
    order = counterparts(mine, found.pred_boxes.tensor, found.pred_classes)
    boxes = (mine.boxes[order] - found.pred_boxes.tensor).abs().max()
    scores = (mine.scores[order] - found.scores).abs().max()
    return count, float(boxes), float(scores), float((bitmaps[order] ^ found.pred_masks).float().mean())


def counterparts(mine: Detections, boxes: Tensor, classes: Tensor) -> Tensor:
    """Which of our detections is which of theirs: of the same class, the nearest box. Round-off swaps equal scores."""
    distances = (mine.boxes[None] - boxes[:, None]).abs().amax(dim=2)
    distances[(mine.labels - 1)[None] != classes[:, None]] = torch.inf
    order = distances.argmin(dim=1)
    assert len(order.unique()) == len(order), "detections differ"
    return order


def main() -> None:
    if importlib.util.find_spec("detectron2") is None:
        print("Detectron2 is not installed here: nothing compared")
        return
    worst = 0.0
    print(f"{'model':24}{'image':>12}{'found':>7}{'boxes, px':>12}{'scores':>11}{'mask pixels':>13}")
    for experiment, path in MODELS.items():
        theirs = build_theirs(path)
        ours = build_ours(experiment, theirs)
        for size in SIZES:
            count, boxes, scores, masks = differences(theirs, ours, size)
            worst = max(worst, scores, boxes / 100, masks)
            print(f"{experiment:24}{size[0]:>6} x{size[1]:>4}{count:>7}{boxes:>12.2g}{scores:>11.2g}{masks:>13.2g}")
    sys.exit(worst > 1e-3)


if __name__ == "__main__":
    main()
