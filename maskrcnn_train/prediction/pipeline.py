"""Decode, detect and write many images at the same time: a thread on each side of the model."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from maskrcnn_train.data.images import ImageError
from maskrcnn_train.prediction.files import PredictionFiles
from maskrcnn_train.prediction.pictures import Picture, Prepared, prepare
from maskrcnn_train.prediction.predictor import Predictor, detect_pictures
from maskrcnn_train.settings.command_schema import PredictConfig
from maskrcnn_train.structures.tiles import Tiles

AHEAD = 4  # batches that may be decoded before the model needs them, and images that may wait to be drawn
AHEAD_TILED = 1  # images, both: they are large
logger = logging.getLogger("maskrcnn_train")


@dataclass
class Source:
    """An image to detect on. picture: a path, or a frame of a video; name: of its files; image_id: in the results;
    size: (height, width) that a file should have, as its JSON says."""

    picture: Picture
    name: str
    image_id: int
    size: tuple[int, int] | None = None


Batch = list[tuple[Source, Prepared]]


@dataclass
class Pipeline:
    """One call of `predict`. images: how many the model has done."""

    predictor: Predictor
    config: PredictConfig
    files: PredictionFiles
    images: int = 0

    @property
    def tiles(self) -> Tiles | None:
        tile = self.config.tile
        return self.predictor.tiles if tile.size is None else Tiles(tile.size, tile.overlap)

    def run(self, sources: Iterable[Source], on_batch: Callable[[], None]) -> None:
        """Detect on every image and write its files; unreadable images are named and skipped."""
        config = self.config
        most_waiting = AHEAD if self.tiles is None else AHEAD_TILED
        with _thread() as decoders, _thread() as writers:
            waiting: deque[Future[None]] = deque()
            for batch in self._batches(sources, decoders):
                prepared, limits = [image for _, image in batch], (config.score_threshold, config.batch_size)
                detections = detect_pictures(self.predictor, prepared, *limits)
                for (source, image), found in zip(batch, detections, strict=True):
                    if config.classes is not None:
                        found = found.keep_classes(config.classes)
                    waiting.append(writers.submit(self.files.add, image, found, source.name, source.image_id))
                self.images += len(batch)
                while len(waiting) > most_waiting:
                    waiting.popleft().result()
                on_batch()
            for future in waiting:
                future.result()

    def _batches(self, sources: Iterable[Source], decoders: ThreadPoolExecutor) -> Iterator[Batch]:
        """Batches of readable images, decoded ahead of the model; with tiles a batch is of one image."""
        size = self.config.batch_size if self.tiles is None else 1
        batch: Batch = []
        for source, future in self._decoding(sources, decoders):
            try:
                batch.append((source, future.result()))
            except ImageError as error:
                self._skip(error)
            if len(batch) == size:
                yield batch
                batch = []
        if batch:
            yield batch

    def _decoding(
        self, sources: Iterable[Source], decoders: ThreadPoolExecutor
    ) -> Iterator[tuple[Source, Future[Prepared]]]:
        """Each image, while those after it are being decoded."""
        count = AHEAD * self.config.batch_size if self.tiles is None else AHEAD_TILED
        ahead: deque[tuple[Source, Future[Prepared]]] = deque()
        try:
            for source in sources:
                given = self.predictor.config, source.picture, self.tiles, source.size
                ahead.append((source, decoders.submit(prepare, *given)))
                if len(ahead) > count:
                    yield ahead.popleft()
        except ImageError as error:  # a video that ends early; what came before it is done
            self._skip(error)
        yield from ahead

    def _skip(self, error: ImageError) -> None:
        self.files.failed.append(str(error))
        logger.warning("skipped: %s", error)


def _thread() -> ThreadPoolExecutor:
    """A thread beside the model's: torch uses one processor in it, or the two would wait for each other."""
    return ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
