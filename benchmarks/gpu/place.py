"""Where and how large everything runs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from tiny import TINY

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """device: cuda or cpu. small: sizes that a processor does in two minutes. folder: for data and runs."""

    device: str
    small: bool
    folder: Path

    @property
    def image_size(self) -> int:
        return 128 if self.small else 800

    @property
    def image_width(self) -> int:
        """Of the benchmark's images, which are drawn square and widened."""
        return 213 if self.small else 1333

    @property
    def backbone(self) -> str:
        return "resnet18" if self.small else "resnet50"

    @property
    def training(self) -> list[str]:
        """Settings of a short training that two runs repeat to the bit."""
        sizes = {"data.shapes.image_size": 64, "data.min_size": 64, "data.max_size": 64}
        scale = 1 if self.small else 4
        settings = [*TINY, f"data.root={self.folder / 'shapes'}", f"trainer.device={self.device}"]
        settings += [f"{key}={scale * value}" for key, value in sizes.items()]
        return [*settings, "trainer.max_steps=4", "trainer.interval_unit=step", "trainer.checkpoint_every=1"]

    @property
    def environment(self) -> dict[str, str]:
        """Of other processes: they import what this one does."""
        paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        threads = {"OMP_NUM_THREADS": "1"} if self.device == "cpu" else {}
        return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, paths))}

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device, 0) if self.device == "cuda" else torch.device(self.device)

    @property
    def benchmark(self) -> list[str]:
        """Settings of the benchmark: a ResNet with FPN, torchvision's heads, three trained stages."""
        size, images = self.image_size, 6 if self.small else 24
        data = ["data=shapes", f"data.root={self.folder / 'shapes'}", f"data.shapes.image_size={size}"]
        data += [f"data.shapes.num_train={images}", "data.shapes.num_val=1", "data.shapes.num_test=1"]
        data += [f"data.min_size={size}", f"data.max_size={self.image_width}", "augmentation=none"]
        norms = ["backbone.norm=frozen", "backbone.trainable_stages=3"]
        precision = "auto" if self.device == "cpu" else "bf16"
        trainer = [f"trainer.device={self.device}", f"trainer.precision={precision}"]
        return ["experiment=torchvision_v1", f"backbone={self.backbone}", *data, *norms, *trainer]
