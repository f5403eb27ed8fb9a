"""One evaluation of a model on a split: detections on every rank, mAP, numbers and pictures of a run."""

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from maskrcnn_train.analysis.budgets import Setting, time_settings
from maskrcnn_train.data.images import ImageError
from maskrcnn_train.data.loading import DetectionLoader, ScaledLoader
from maskrcnn_train.engine import distributed
from maskrcnn_train.engine.distributed import World
from maskrcnn_train.evaluation.coco.evaluators import check_backend
from maskrcnn_train.evaluation.coco.ground_truth import of_images
from maskrcnn_train.evaluation.coco.metrics import CocoResult, score_coco
from maskrcnn_train.evaluation.diagnostics.diagnostics import Diagnostics, diagnose
from maskrcnn_train.files import write_json
from maskrcnn_train.model.mask_rcnn import MaskRCNN
from maskrcnn_train.prediction.cost import slow_box_head
from maskrcnn_train.prediction.predictor import Predictor
from maskrcnn_train.prediction.results import detect_all, validation_losses
from maskrcnn_train.reporting.drawing.pictures import draw_validation, objects_from_coco
from maskrcnn_train.reporting.tensorboard import MetricWriter
from maskrcnn_train.reporting.terminal.progress import Forecast
from maskrcnn_train.settings.schema import TrainConfig

TIMED_IMAGES = 16  # of which the latency is the median


class Validation:
    """Evaluates models on one split again and again; keeps the last results for the end of a run.

    Called on every rank; each looks at its share of the images. ground_truth: of all images; scored: the same without
    those that could not be read, which `data.on_bad_image=skip` allows.
    """

    def __init__(self, loader: DetectionLoader | ScaledLoader, config: TrainConfig, world: World) -> None:
        self.loader = loader
        self.config = config
        self.world = world
        check_backend(config.evaluation.backend)  # now rather than after an epoch
        self.ground_truth = self.scored = loader.dataset.ground_truth()
        self.results: list[dict[str, Any]] = []
        self.result: CocoResult | None = None
        self.forecast = Forecast("evaluation", slow_box_head(config))

    @property
    def main_metric(self) -> str:
        """What decides which weights are the best."""
        return f"{self.config.kinds[-1]}/AP"

    def evaluate(self, model: nn.Module, between: Callable[[], None] = lambda: None) -> dict[str, float]:
        """Metrics of a MaskRCNN, as `evaluate_predictor`; the first time it is said if they take long.

        between: called after each batch; what it raises breaks the evaluation off.
        """
        assert isinstance(model, MaskRCNN)
        share = math.ceil(len(self.loader.dataset.rows) / self.world.size)

        def on_batch(done: int) -> None:
            self.forecast.update(done, share)
            between()

        return self.evaluate_predictor(Predictor(model, self.loader.dataset.classes, self.config), on_batch)

    def evaluate_predictor(
        self, predictor: Predictor, on_batch: Callable[[int], None] | None = None
    ) -> dict[str, float]:
        """COCO metrics as fractions, the same on every rank. Raises UserError for impossible results.

        on_batch is told the number of images that this rank has done.
        """
        seen: list[int] = []

        def count(image_ids: list[int]) -> None:
            seen.extend(image_ids)
            if on_batch is not None:
                on_batch(len(seen))

        found = detect_all(predictor, self.loader, on_batch=count)
        self.results = distributed.gather(found, self.world)
        self.scored = of_images(self.ground_truth, set(distributed.gather(seen, self.world)))
        losses = self._losses(predictor) if self.config.evaluation.loss else {}
        if self.world.is_main:
            self.result = score_coco(self.scored, self.results, self.config.evaluation, kinds=self.config.kinds)
        metrics: dict[str, float] = distributed.broadcast(self.result.metrics if self.result else None, self.world)
        return metrics | losses

    def _losses(self, predictor: Predictor) -> dict[str, float]:
        """Mean losses over the images of all ranks, as val_loss/...; a rank without images has none."""
        everyone = distributed.gather([validation_losses(predictor, self.loader)], self.world)
        images = sum(part.pop("images") for part in everyone)
        names = dict.fromkeys(name for part in everyone for name in part)
        means = {f"val_loss/{name[5:]}": sum(part.get(name, 0.0) for part in everyone) / images for name in names}
        return means | {"val_loss/total": sum(means.values())}

    def diagnose(self, seed: int) -> dict[str, Diagnostics]:
        """More than mAP of the last evaluation, with intervals if `evaluation.bootstrap` draws any images."""
        assert self.result is not None
        num_draws = self.config.evaluation.bootstrap
        return diagnose(self.scored, self.results, self.result, num_draws=num_draws, seed=seed)

    def latency(self, model: nn.Module) -> float:
        """Median milliseconds of an image in a MaskRCNN, of this rank's first images."""
        assert isinstance(model, MaskRCNN)
        assert isinstance(self.loader, DetectionLoader)
        predictor, setting = Predictor(model, self.loader.dataset.classes, self.config), Setting.of(self.config)
        timed = time_settings(model, {"": setting}, self.loader, TIMED_IMAGES, predictor.device, predictor.autocast)
        return timed[""]

    def write_predictions(self, path: Path) -> None:
        """All detections as COCO results."""
        write_json(path, self.results)

    def draw(self, run_dir: Path, writer: MetricWriter, step: int) -> list[Path]:
        """Pictures of some images, ground truth beside predictions: `pictures/*.jpg` and TensorBoard."""
        if not self.world.is_main:
            return []
        truth, found = _by_image(self.ground_truth["annotations"]), _by_image(self.results)
        classes, reader = self.loader.dataset.classes, self.loader.dataset.reader
        labels = {category_id: label for label, category_id in enumerate(classes.ids, start=1)}
        threshold = self.config.evaluation.picture_threshold
        samples = {}
        for position in self._positions(truth):
            about = self.ground_truth["images"][position]
            size = (about["height"], about["width"])
            try:
                image = reader.read(Path(self.loader.dataset.image_path(position)), expected=size)
            except ImageError:
                continue  # met and named when its batch was loaded
            expected = objects_from_coco(truth[about["id"]], labels=labels, size=size)
            predicted = objects_from_coco(found[about["id"]], labels=labels, size=size, threshold=threshold)
            samples[f"{position:05d}"] = (np.asarray(reader.show(image)), expected, predicted)
        written = draw_validation(run_dir, samples, names=classes.names)
        for path, picture in written:
            writer.picture(step, f"predictions/{path.stem}", picture)
        return [path for path, _ in written]

    def _positions(self, truth: dict[int, list[dict[str, Any]]]) -> list[int]:
        """Positions of evenly spread images, those with objects if there are any."""
        images = self.ground_truth["images"]
        shown = [position for position, image in enumerate(images) if truth[image["id"]]] or list(range(len(images)))
        count = min(self.config.evaluation.pictures, len(shown))
        return [shown[index * len(shown) // count] for index in range(count)]


def _by_image(items: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for item in items:
        groups[item["image_id"]].append(item)
    return groups
