"""Run a model over a loader and give COCO results, coding the masks while the next batch computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from maskrcnn_train.structures.batch import ImageBatch, ImageVersions, Target, to_device
from maskrcnn_train.structures.rle import masks_to_rle

Result = dict[str, Any]
OUTSTANDING_BATCHES = 4  # predictions that may wait for their masks: bounds the memory


def detect(
    model: nn.Module,
    loader: Iterable[tuple[ImageBatch | ImageVersions, list[Target]]],
    *,
    device: torch.device | str,
    autocast: Callable[[], AbstractContextManager[Any]],
    threshold: float,
    rule: str,
    class_ids: Mapping[int, int] | Sequence[int],
    on_batch: Callable[[list[int]], None] | None = None,
) -> list[Result]:
    """COCO results of every image, in the loader's order; the model's training mode is left as found.

    `autocast` makes the context of the forward passes. `threshold` and `rule` set how masks are pasted
    (`mask_head.threshold`, `numerics.mask_paste`). `class_ids[label]` is the category id in the JSON.
    `on_batch` is told the image ids of every batch that is done.
    """
    waiting: deque[Future[list[Result]]] = deque()
    results: list[Result] = []
    pool = ThreadPoolExecutor(1, thread_name_prefix="masks")
    # around all batches, so that the weights are converted once
    with evaluating(model), pool, torch.inference_mode(), autocast():
        for images, targets in loader:
            outputs = model(images.to(device, non_blocking=True))
            batch = [{key: value.cpu() for key, value in output.items()} for output in outputs]
            ids = [target["image_id"] for target in targets]
            waiting.append(pool.submit(_encode_batch, batch, ids, images.original_sizes, threshold, rule, class_ids))
            while len(waiting) > OUTSTANDING_BATCHES or (waiting and waiting[0].done()):
                results += waiting.popleft().result()
            if on_batch:
                on_batch(ids)
        for future in waiting:
            results += future.result()
    return results


def validation_losses(
    model: nn.Module,
    loader: Iterable[tuple[ImageBatch | ImageVersions, list[Target]]],
    *,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> dict[str, float]:
    """Sums of each loss over the images, and their number as `images`; sampled the same way at every call."""
    sums: dict[str, float] = {"images": 0.0}
    with evaluating(model), torch.random.fork_rng(devices=[]), torch.inference_mode(), autocast():
        torch.manual_seed(0)
        for images, targets in loader:
            losses = model.losses(to_device(images, device), to_device(targets, device))  # type: ignore[operator]
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(images)
            sums["images"] += len(images)
    return sums


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside, each in its own mode again afterwards (a frozen norm stays in eval)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _encode_batch(
    batch: list[dict[str, Tensor]],
    image_ids: list[int],
    sizes: list[tuple[int, int]],
    threshold: float,
    rule: str,
    class_ids: Mapping[int, int] | Sequence[int],
) -> list[Result]:
    results = []
    with torch.inference_mode():
        for output, image_id, size in zip(batch, image_ids, sizes, strict=True):
            results += to_results(output, image_id, size, threshold=threshold, rule=rule, class_ids=class_ids)
    return results


def to_results(
    output: dict[str, Tensor],
    image_id: int,
    size: tuple[int, int],
    *,
    threshold: float,
    rule: str,
    class_ids: Mapping[int, int] | Sequence[int],
) -> list[Result]:
    """The COCO results of one image, best score first as the model gives them.

    output: boxes [N, 4] x1 y1 x2 y2 in pixels of the image of `size` (height, width), labels [N],
    scores [N] and, unless the model gives boxes only, masks [N, 1, M, M]. Boxes come out as x y width height.
    """
    boxes = output["boxes"].float()
    corners = torch.cat([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], dim=1).tolist()
    labels, scores = output["labels"].tolist(), output["scores"].float().tolist()
    results: list[Result] = [
        {"image_id": image_id, "category_id": class_ids[label], "bbox": box, "score": score}
        for box, label, score in zip(corners, labels, scores, strict=True)
    ]
    if "masks" in output:
        codes = masks_to_rle(output["masks"], boxes, size, threshold=threshold, rule=rule)
        for result, code in zip(results, codes, strict=True):
            result["segmentation"] = code
    return results
