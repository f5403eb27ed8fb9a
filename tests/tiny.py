"""The smallest training that is one: a few images of 64 pixels, in fp32, without worker processes or a clock."""

from __future__ import annotations

TINY = [
    "experiment=shapes",
    "data.shapes.num_train=12",
    "data.shapes.num_val=2",
    "data.shapes.num_test=1",
    "data.shapes.image_size=64",
    "data.min_size=64",
    "data.max_size=64",
    "backbone.fpn_channels=32",
    "trainer.batch_size=4",
    "trainer.num_workers=0",
    "trainer.max_minutes=null",
    "trainer.precision=fp32",
    "trainer.log_every=1",
    "evaluation.pictures=0",
    "evaluation.study=false",
]
