"""Images a second and peak memory of a training step, the sides in turn in one process."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from place import Place
from sides import in_turn
from steps import Batch, Step, load, sides

from maskrcnn_train.engine.precision import wait_for
from maskrcnn_train.settings.errors import is_out_of_memory

FULL = -1.0  # MB: a step needs more than there is


@dataclass
class Speed:
    """One side at one batch size. images_per_second: median, slowest, fastest round; None: out of memory. peak_mb: of
    a GPU, without what the other sides hold there; None on a processor.
    """

    batch_size: int
    side: str
    images_per_second: tuple[float, float, float] | None
    peak_mb: float | None

    def __str__(self) -> str:
        speed = "out of memory" if self.images_per_second is None else f"{self.images_per_second[0]:.2f} images/s"
        memory = "" if self.peak_mb is None else f", {self.peak_mb:.0f} MB"
        return f"{self.batch_size} images, {self.side}: {speed}{memory}"


def measure(place: Place) -> Iterator[Speed]:
    """Every side at every batch size."""
    sizes = [1, 2] if place.small else [1, 2, 4, 8, 16]
    images = load(place, max(sizes))
    built: dict[str, Callable[[Batch], Step]] = {}
    held: dict[str, float] = {}  # weights and momentum of each side, MB
    for name, build in sides(place).items():
        before = _allocated(place)
        built[name] = build()
        built[name](images.first(1))()
        held[name] = _allocated(place) - before
    for size in sizes:
        steps = {name: side(images.first(size)) for name, side in built.items()}
        peaks = {name: _peak(step, place, held[name]) for name, step in steps.items()}
        speeds = _in_turn(size, {name: step for name, step in steps.items() if peaks[name] != FULL}, place)
        for name in steps:
            yield Speed(size, name, speeds.get(name), None if peaks[name] == FULL else peaks[name])


def _in_turn(size: int, steps: dict[str, Step], place: Place) -> dict[str, tuple[float, float, float]]:
    """Images a second: median, slowest, fastest round."""
    rounds, repeats = (1, 1) if place.small else (3, max(2, 16 // size))

    def repeated(step: Step) -> Callable[[], None]:
        def run() -> None:
            for _ in range(repeats):
                step()
            wait_for(place.torch_device)

        return run

    seconds = in_turn({name: repeated(step) for name, step in steps.items()}, rounds, warmup=0 if place.small else 1)
    images = size * repeats
    return {
        name: (images / statistics.median(times), images / max(times), images / min(times))
        for name, times in seconds.items()
    }


def _peak(step: Step, place: Place, held: float) -> float | None:
    """The most memory during a step, MB, without what others hold; FULL where there is not enough."""
    gc.collect()
    if place.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    others = _allocated(place) - held
    try:
        step()
        wait_for(place.torch_device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return FULL
    return torch.cuda.max_memory_allocated() / 2**20 - others if place.device == "cuda" else None


def _allocated(place: Place) -> float:
    """MB of the GPU that tensors take; 0 on a processor."""
    return torch.cuda.memory_allocated() / 2**20 if place.device == "cuda" else 0.0
