"""Losses and rates between two log lines."""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Meter:
    """Sums since the last log line. lr: of the last step. norms: steps with a finite gradient; fp16 has others."""

    losses: dict[str, float] = field(default_factory=dict)
    norm: float = 0.0
    norms: int = 0
    steps: int = 0
    images: int = 0
    data_seconds: float = 0.0
    lr: float = 0.0
    warned_of_starving: bool = False
    told_length: bool = False
    started: float = field(default_factory=time.perf_counter)

    def add(self, losses: dict[str, float], norm: float, images: int) -> None:
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value
        if math.isfinite(norm):
            self.norm, self.norms = self.norm + norm, self.norms + 1
        self.steps += 1
        self.images += images

    def means(self, world_size: int) -> dict[str, float]:
        """Losses, rates of this log interval, learning rate."""
        seconds = time.perf_counter() - self.started
        steps = max(self.steps, 1)
        means = {name: total / steps for name, total in self.losses.items()}
        values = {f"loss/{name[5:]}": mean for name, mean in means.items() if name.startswith("loss_")}
        return values | {
            "loss/total": sum(values.values()) if values else math.nan,
            "gradient_norm": self.norm / self.norms if self.norms else math.nan,
            "time/step": seconds / steps,
            "time/data": self.data_seconds / steps,
            "images_per_second": self.images * world_size / seconds,
            "lr": self.lr,
        }

    def restart(self) -> None:
        self.losses, self.norm, self.norms = {}, 0.0, 0
        self.steps, self.images, self.data_seconds = 0, 0, 0.0
        self.started = time.perf_counter()

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches; the time that the training waits for each is counted."""
        began = time.perf_counter()
        for batch in batches:
            self.data_seconds += time.perf_counter() - began
            yield batch
            began = time.perf_counter()
