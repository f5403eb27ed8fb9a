"""A predictor on a whole loader: order, ids, masks, and modes as they were."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from maskrcnn_train import load_config
from maskrcnn_train.data.loading import LostWorker
from maskrcnn_train.prediction.predictor import Predictor
from maskrcnn_train.prediction.results import Result, detect_all
from maskrcnn_train.structures.batch import ImageBatch, Target
from maskrcnn_train.structures.classes import ClassMap
from maskrcnn_train.structures.detections import Detections


class Stub(nn.Module):
    """Finds one object an image, as wide as the image's first pixel says."""

    def __init__(self, masks: bool = True) -> None:
        super().__init__()
        self.masks, self.norm = masks, nn.BatchNorm2d(3)

    def detect(self, images: ImageBatch, rules: Any) -> list[Detections]:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        return [self.one(float(pixels[0, 0, 0])) for pixels in images.pixels]

    def one(self, width: float) -> Detections:
        boxes = torch.tensor([[2.0, 3, 2 + width, 13]])
        masks = torch.ones(1, 1, 28, 28) if self.masks else None
        return Detections(boxes, torch.tensor([2]), torch.tensor([0.5]), (40, 50), masks)


def loader(num_batches: int = 7) -> Iterator[tuple[ImageBatch, list[Target]]]:
    for index in range(num_batches):
        pixels = torch.stack([torch.full((3, 32, 32), 4 + 2 * index + k, dtype=torch.uint8) for k in range(2)])
        yield ImageBatch(pixels, [(32, 32)] * 2, [(40, 50)] * 2), [{"image_id": 100 - 2 * index - k} for k in range(2)]


def run(model: Any, **options: Any) -> list[Result]:
    predictor = Predictor(model, ClassMap(names=["a", "b"], ids=[10, 77]), load_config())
    return detect_all(predictor, loader(), **options)


def test_results_are_in_the_loaders_order_as_coco_wants_them() -> None:
    done: list[list[int]] = []
    results = run(Stub(), on_batch=done.append)
    assert [result["image_id"] for result in results] == list(range(100, 86, -1))
    code = results[3].pop("segmentation")
    assert results[3] == {"image_id": 97, "category_id": 77, "bbox": [2.0, 3.0, 7.0, 10.0], "score": 0.5}
    assert code["size"] == [40, 50]
    assert coco_mask.toBbox(code).tolist() == pytest.approx([2, 3, 7, 10], abs=2)
    assert done == [[number, number - 1] for number in range(100, 86, -2)]


def test_a_box_only_model_gives_no_segmentation() -> None:
    assert all("segmentation" not in result for result in run(Stub(masks=False)))


def test_every_module_keeps_its_mode_even_when_the_model_fails() -> None:
    model: Any = Stub()
    model.train()
    model.norm.eval()
    run(model)
    assert (model.training, model.norm.training) == (True, False)
    model.one = None
    with pytest.raises(TypeError):
        run(model)
    assert (model.training, model.norm.training) == (True, False)


def test_a_lost_loading_process_is_named_wherever_its_signal_strikes() -> None:
    class Struck(Stub):
        def detect(self, images: ImageBatch, rules: Any) -> list[Detections]:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    predictor = Predictor(Struck(), ClassMap(names=["a", "b"], ids=[10, 77]), load_config())
    with pytest.raises(LostWorker, match="a process that loads images was killed"):
        detect_all(predictor, loader())
