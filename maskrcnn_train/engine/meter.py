"""Losses and rates between two log lines."""

import math
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any


class Meter:
    """Sums since the last log line. lr: of the last step. norms: steps with a finite gradient; fp16 has others."""

    def __init__(self) -> None:
        self.lr = 0.0
        self.warned_of_starving = self.told_length = False
        self.restart()

    def restart(self) -> None:
        self.losses: dict[str, float] = defaultdict(float)
        self.norm, self.norms = 0.0, 0
        self.steps, self.images, self.data_seconds = 0, 0, 0.0
        self.started = time.perf_counter()

    def add(self, losses: dict[str, float], norm: float, images: int) -> None:
        for name, value in losses.items():
            self.losses[name] += value
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

    def timed(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches; the time that the training waits for each is counted."""
        began = time.perf_counter()
        for batch in batches:
            self.data_seconds += time.perf_counter() - began
            yield batch
            began = time.perf_counter()
