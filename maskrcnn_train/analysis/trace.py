"""One pass of a model over a split that stops between the stages; every analysis looks at it."""

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from maskrcnn_train.evaluation.coco.metrics import AREA_NAMES, SIZE_LIMITS
from maskrcnn_train.model.inputs import NetworkInput
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.model.modes import evaluating
from maskrcnn_train.model.proposals import RPNPredictions
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.structures.batch import ImageBatch, Target
from maskrcnn_train.structures.boxes import resize_boxes
from maskrcnn_train.structures.classes import ClassMap

SIZES = AREA_NAMES[1:]


@dataclass
class Trace:
    """A batch after the RPN's head. seconds: what backbone, FPN and that head took for the batch."""

    image_ids: list[int]
    inputs: NetworkInput
    features: Pyramid
    predictions: RPNPredictions
    seconds: float

    @property
    def device(self) -> torch.device:
        return self.predictions.anchors.device

    def of_image(self, image: int) -> RPNPredictions:
        """The RPN's predictions of one image of the batch, as a batch of one."""
        whole, own = self.predictions, slice(image, image + 1)
        return RPNPredictions(whole.hidden, whole.objectness[own], whole.deltas[own], whole.anchors, whole.level_sizes)


def trace_batches(
    model: MaskRCNN,
    loader: Iterable[tuple[ImageBatch, list[Target]]],
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Iterator[Trace]:
    """Every batch of the loader. The caller's work on a batch runs without gradients and in the model's precision."""
    # around all batches, so that the weights are converted once
    with evaluating(model), torch.inference_mode(), autocast():
        for images, targets in loader:
            began = now(device)
            inputs = model.prepare(images.to(device))
            features = model.features(inputs)
            predictions = model.rpn.predict(features, inputs.padded_size)
            ids = [target["image_id"] for target in targets]
            yield Trace(ids, inputs, features, predictions, now(device) - began)


def now(device: torch.device) -> float:
    """Seconds on a clock, read after the GPU has finished all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass
class Objects:
    """The ground truth of one image, without crowd regions. boxes: float32 [G, 4], network pixels; labels: int64 [G];
    rows: of the ground truth's annotations."""

    boxes: Tensor
    labels: Tensor
    rows: list[int]


class ObjectsOfImages:
    """Objects in network pixels from a COCO ground truth.

    size_limits: as `evaluation.size_limits`. sizes: one of SIZES for each row of the ground truth's annotations.
    """

    def __init__(
        self, ground_truth: dict[str, Any], classes: ClassMap, *, size_limits: Sequence[float] = SIZE_LIMITS
    ) -> None:
        self.annotations = ground_truth["annotations"]
        limits = [limit**2 for limit in size_limits]
        self.sizes = [SIZES[bisect_right(limits, annotation["area"])] for annotation in self.annotations]
        self.labels = {category_id: label for label, category_id in enumerate(classes.ids, start=1)}
        self.rows: dict[int, list[int]] = {image["id"]: [] for image in ground_truth["images"]}
        for row, annotation in enumerate(self.annotations):
            if not annotation["iscrowd"]:
                self.rows[annotation["image_id"]].append(row)

    def of(self, trace: Trace, image: int) -> Objects:
        """Those of one image of a batch, on the batch's device."""
        rows = self.rows[trace.image_ids[image]]
        own = [self.annotations[row] for row in rows]
        boxes = torch.tensor([each["bbox"] for each in own], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = resize_boxes(boxes, trace.inputs.original_sizes[image], trace.inputs.sizes[image])
        labels = torch.tensor([self.labels[each["category_id"]] for each in own], dtype=torch.int64)
        return Objects(boxes.to(trace.device), labels.to(trace.device), rows)
