import contextlib

import pytest
import torch
from pycocotools import mask as coco_mask
from torch import nn

from maskrcnn_train.evaluation.detect import detect
from maskrcnn_train.structures.batch import ImageBatch


class Stub(nn.Module):
    """Finds one object an image, as wide as the image's first pixel says."""

    def __init__(self, masks=True):
        super().__init__()
        self.masks, self.norm = masks, nn.BatchNorm2d(3)

    def forward(self, images):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        return [self.one(float(pixels[0, 0, 0])) for pixels in images.pixels]

    def one(self, width):
        found = {
            "boxes": torch.tensor([[2.0, 3, 2 + width, 13]]),
            "labels": torch.tensor([2]),
            "scores": torch.tensor([0.5]),
        }
        return found | ({"masks": torch.ones(1, 1, 28, 28)} if self.masks else {})


def loader(num_batches=7):
    for index in range(num_batches):
        pixels = torch.stack([torch.full((3, 32, 32), 4 + 2 * index + k, dtype=torch.uint8) for k in range(2)])
        targets = [{"image_id": 100 - 2 * index - k} for k in range(2)]
        yield ImageBatch(pixels, [(32, 32)] * 2, [(40, 50)] * 2), targets


def run(model, **options):
    return detect(
        model,
        loader(),
        device="cpu",
        autocast=contextlib.nullcontext,
        threshold=0.5,
        rule="integer",
        class_ids={1: 10, 2: 77},
        **options,
    )


def test_results_are_in_the_loaders_order_as_coco_wants_them():
    done = []
    results = run(Stub(), on_batch=done.append)
    assert [r["image_id"] for r in results] == list(range(100, 86, -1))
    assert results[3] | {"segmentation": None} == {
        "image_id": 97,
        "category_id": 77,
        "bbox": [2.0, 3.0, 7.0, 10.0],
        "score": 0.5,
        "segmentation": None,
    }
    assert results[3]["segmentation"]["size"] == [40, 50]
    assert coco_mask.toBbox(results[3]["segmentation"]).tolist() == pytest.approx([2, 3, 7, 10], abs=2)
    assert done == [[number, number - 1] for number in range(100, 86, -2)]


def test_a_box_only_model_gives_no_segmentation():
    assert all("segmentation" not in result for result in run(Stub(masks=False)))


def test_every_module_keeps_its_mode_even_when_the_model_fails():
    model = Stub()
    model.train()
    model.norm.eval()
    run(model)
    assert (model.training, model.norm.training) == (True, False)
    model.one = None
    with pytest.raises(TypeError):
        run(model)
    assert (model.training, model.norm.training) == (True, False)
