"""A predictor on a whole loader: COCO results, and losses."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

from maskrcnn_train.data.loading import naming_lost_workers
from maskrcnn_train.engine.precision import threads_beside
from maskrcnn_train.model.modes import evaluating
from maskrcnn_train.prediction.predictor import Predictor
from maskrcnn_train.structures.batch import ImageBatch, ImageVersions, Target, to_device
from maskrcnn_train.structures.detections import Detections

Result = dict[str, Any]
Loader = Iterable[tuple[ImageBatch | ImageVersions, list[Target]]]
OUTSTANDING_BATCHES = 4  # predictions that may wait for their masks: bounds the memory


def detect_all(
    predictor: Predictor, loader: Loader, *, on_batch: Callable[[list[int]], None] | None = None
) -> list[Result]:
    """COCO results of every image, in the loader's order; the model's training mode is left as found.

    Masks are coded while the next batch computes. on_batch: told the image ids of every batch that is done.
    """
    waiting: deque[Future[list[Result]]] = deque()
    results: list[Result] = []
    pool = ThreadPoolExecutor(threads_beside(predictor.device), thread_name_prefix="masks")
    # around all batches, so that the weights are converted once
    with evaluating(predictor.model), pool, predictor.autocast(), naming_lost_workers():
        for images, targets in loader:
            ids = [target["image_id"] for target in targets]
            found = zip(predictor.detect(images), ids, strict=True)
            waiting.extend(pool.submit(_to_coco, *image) for image in found)
            while len(waiting) > OUTSTANDING_BATCHES * len(ids) or (waiting and waiting[0].done()):
                results += waiting.popleft().result()
            if on_batch:
                on_batch(ids)
        for future in waiting:
            results += future.result()
    return results


@torch.inference_mode()
def _to_coco(found: Detections, image_id: int) -> list[Result]:
    return found.to_coco(image_id)


def validation_losses(predictor: Predictor, loader: Loader) -> dict[str, float]:
    """Sums of each loss over the images, and their number as `images`; sampled the same way at every call."""
    sums: dict[str, float] = {"images": 0.0}
    model, device = predictor.model, predictor.device
    with evaluating(model), torch.random.fork_rng(devices=[]), torch.inference_mode(), predictor.autocast():
        torch.manual_seed(0)
        for images, targets in loader:
            losses = model.losses(to_device(images, device), to_device(targets, device))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(images)
            sums["images"] += len(images)
    return sums
