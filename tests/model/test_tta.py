"""Test-time augmentation: views that agree change nothing, and what a view finds is put back where it is."""

import gc

import torch

from maskrcnn_train import build_model, load_config
from maskrcnn_train.model.pyramid import Pyramid
from maskrcnn_train.model.tta import TestTimeAugmentation
from maskrcnn_train.structures.batch import ImageBatch, ImageVersions


def model_and_batch():
    torch.manual_seed(0)
    config = load_config(
        [
            "backbone=resnet10",
            "backbone.fpn_channels=32",
            "roi_head=fc2",
            "roi_head.fc_dim=64",
            "roi_head.score_threshold=0.0",
            "roi_head.detections_per_image=12",
        ]
    )
    model = build_model(config, num_classes=3).eval()
    pixels = torch.randint(0, 255, (2, 3, 96, 128), dtype=torch.uint8)
    pixels[1, :, :, 100:] = 0
    return model, ImageBatch(pixels, [(96, 128), (90, 100)], [(192, 256), (45, 50)])


@torch.no_grad()
def test_one_plain_view_is_the_model_itself():
    model, batch = model_and_batch()
    plain, joined = model.detect(batch), TestTimeAugmentation(model, flip=False).detect(ImageVersions([batch]))
    for expected, found in zip(plain, joined, strict=True):
        assert len(expected) > 5
        assert found.size == expected.size
        for key in ("boxes", "labels", "scores", "probabilities"):
            torch.testing.assert_close(getattr(found, key), getattr(expected, key), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_mirrored_images_give_mirrored_detections():
    model, batch = model_and_batch()
    mirrored = batch.pixels.clone()
    for image, (_, width) in zip(mirrored, batch.sizes, strict=True):
        image[..., :width] = image[..., :width].flip(-1)
    detector = TestTimeAugmentation(model, flip=True)
    first = detector.detect(ImageVersions([batch]))
    second = detector.detect(ImageVersions([ImageBatch(mirrored, batch.sizes, batch.original_sizes)]))
    for one, other, (_, width) in zip(first, second, batch.original_sizes, strict=True):
        x1, y1, x2, y2 = other.boxes.unbind(1)
        turned = torch.stack((width - x2, y1, width - x1, y2), dim=1)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(one.boxes, turned, rtol=1e-3, atol=1e-2)
        torch.testing.assert_close(one.probabilities, other.probabilities.flip(-1), rtol=1e-2, atol=1e-3)


@torch.no_grad()
def test_the_limits_of_the_model_hold_over_all_views():
    model, batch = model_and_batch()
    larger = ImageBatch(
        batch.pixels.repeat_interleave(2, -1).repeat_interleave(2, -2), [(192, 256), (180, 200)], batch.original_sizes
    )
    for found, (height, width) in zip(
        TestTimeAugmentation(model, flip=True).detect(ImageVersions([batch, larger])), batch.original_sizes, strict=True
    ):
        assert len(found.scores) == 12
        assert (found.scores.diff() <= 0).all()
        assert (found.boxes >= 0).all()
        assert (found.boxes[:, 2] <= width + 1e-3).all()
        assert (found.boxes[:, 3] <= height + 1e-3).all()
        assert found.probabilities.shape[1:] == (1, 28, 28)
        assert float(found.probabilities.max()) < 1  # the mean of four views


@torch.no_grad()
def test_rows_are_kept_of_one_view_at_a_time(monkeypatch):
    model, batch = model_and_batch()
    masks, kept = model.roi_heads.mask_probabilities, []

    def counting(*arguments):
        found = masks(*arguments)
        kept.append(sum(type(each) is Pyramid and "rows" in vars(each) for each in gc.get_objects()))
        return found

    monkeypatch.setattr(model.roi_heads, "mask_probabilities", counting)
    TestTimeAugmentation(model, flip=True).detect(ImageVersions([batch, batch]))
    assert kept == [1] * 4
