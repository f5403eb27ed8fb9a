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
from maskrcnn_train.prediction.tiling import merge_tiles
from maskrcnn_train.structures.batch import ImageBatch, ImageVersions, Target, to_device
from maskrcnn_train.structures.detections import Detections
from maskrcnn_train.structures.tiles import Tile, is_last

Result = dict[str, Any]
TilesSoFar = list[tuple[Detections, Tile]]
Loader = Iterable[tuple[ImageBatch | ImageVersions, list[Target]]]
OUTSTANDING_BATCHES = 4  # predictions that may wait for their masks: bounds the memory


def detect_all(
    predictor: Predictor, loader: Loader, *, on_batch: Callable[[list[int]], None] | None = None
) -> list[Result]:
    """COCO results of every image, in the loader's order; the model's training mode is left as found.

    Tiles of an image follow one another, and their detections are merged. Masks are coded while the next batch
    computes. on_batch: told after each batch which images, by their ids, are done.
    """
    waiting: deque[Future[list[Result]]] = deque()
    tiles: TilesSoFar = []
    results: list[Result] = []
    pool = ThreadPoolExecutor(threads_beside(predictor.device), thread_name_prefix="masks")
    # around all batches, so that the weights are converted once
    with evaluating(predictor.model), pool, predictor.autocast(), naming_lost_workers():
        for images, targets in loader:
            found = zip(predictor.detect(images), targets, strict=True)
            whole = [image for each, target in found for image in _whole(each, target, tiles)]
            waiting.extend(pool.submit(_to_coco, *image) for image in whole)
            while len(waiting) > OUTSTANDING_BATCHES * len(targets) or (waiting and waiting[0].done()):
                results += waiting.popleft().result()
            if on_batch:
                on_batch([image_id for _, image_id, _ in whole])
        for future in waiting:
            results += future.result()
    return results


def _whole(found: Detections, target: Target, tiles: TilesSoFar) -> list[tuple[list[Detections], int, list[Tile]]]:
    """The detections of an image, its id and its tiles; nothing before its last tile. tiles: those seen of it."""
    if "tile" not in target:
        return [([found], target["image_id"], [])]
    if target["tile"][0][:2] == (0, 0):
        tiles.clear()  # of an image whose last tile could not be read
    tiles.append((found, target["tile"]))
    if not is_last(target["tile"]):
        return []
    parts, places = zip(*tiles, strict=True)
    tiles.clear()
    return [([*parts], target["image_id"], [*places])]


@torch.inference_mode()
def _to_coco(found: list[Detections], image_id: int, tiles: list[Tile]) -> list[Result]:
    if len(tiles) < 2:
        return found[0].to_coco(image_id)
    return merge_tiles([window for window, _ in tiles], found, tiles[0][1]).to_coco(image_id)


def validation_losses(predictor: Predictor, loader: Loader) -> dict[str, float]:
    """Sums of each loss over the images, and their number as `images`; sampled the same way at every call."""
    sums: dict[str, float] = {"images": 0.0}
    model, device = predictor.model, predictor.device
    with evaluating(model), torch.random.fork_rng(devices=[]), torch.inference_mode(), predictor.autocast():
        for images, targets in loader:
            # for each batch, because a loader without workers draws whenever it begins, one with workers only once
            torch.manual_seed(int(sums["images"]))
            losses = model.losses(to_device(images, device), to_device(targets, device))
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(images)
            sums["images"] += len(images)
    return sums
