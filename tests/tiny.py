"""The smallest training that is one: a few images of 64 pixels, in fp32, without worker processes or a clock."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

TINY = [
    "experiment=shapes",
    "data.shapes.num_train=12",
    "data.shapes.num_val=2",
    "data.shapes.num_test=1",
    "data.shapes.image_size=64",
    "data.min_size=64",
    "data.max_size=64",
    "backbone.fpn_channels=32",
    "roi_head.detections_per_image=20",  # an untrained model fills them all
    "trainer.ema=0",  # smaller checkpoints
    "trainer.batch_size=4",
    "trainer.num_workers=0",
    "trainer.max_minutes=null",
    "trainer.precision=fp32",
    "trainer.log_every=1",
    "evaluation.pictures=0",
    "evaluation.study=false",
    "backbone=resnet10",
]


def untrained_checkpoint(folder: Path, *overrides: str) -> Path:
    """A checkpoint of the built-in shapes with random weights: half a second instead of a training."""
    import torch

    from maskrcnn_train import build_model, load_config
    from maskrcnn_train.data.shapes import CATEGORIES
    from maskrcnn_train.engine.checkpoint import FORMAT, save_plain
    from maskrcnn_train.structures.classes import ClassMap

    torch.manual_seed(0)
    config = load_config([*TINY, f"data.root={folder / 'shapes'}", "roi_head.score_threshold=0", *overrides])
    classes = ClassMap(list(CATEGORIES.values()), list(CATEGORIES))
    model = build_model(config, classes.num_classes)
    with torch.no_grad():  # scores far apart, as a trained model's are: ties go either way in any program
        model.roi_heads.box_predictor.cls_score.weight.mul_(20)
    content = {"format": FORMAT, "config": asdict(config), "classes": classes.to_plain(), "model": model.state_dict()}
    save_plain(content, folder / "untrained.pt")
    return folder / "untrained.pt"
