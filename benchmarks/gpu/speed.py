"""Images a second and peak memory of training steps and evaluations, the sides in turn in one process."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from checks import NotHere, expect
from place import Place
from sides import in_turn
from steps import Batch, Ours, Side, Step, load, sides

from maskrcnn_train.engine.capturing import capture_backbone
from maskrcnn_train.engine.compiling import compile_backbone
from maskrcnn_train.engine.precision import wait_for
from maskrcnn_train.settings.errors import is_out_of_memory

SLOWEST = "torchvision as written"  # in fp32: not part of the evaluation
FULL = -1.0  # MB: a step needs more than there is


@dataclass
class Speed:
    """One side at one batch size. what: training, evaluation.

    images_per_second: median, slowest, fastest round; None: out of memory. peak_mb: of a GPU, without what the other
    sides hold there; None on a processor.
    """

    what: str
    batch_size: int
    side: str
    images_per_second: tuple[float, float, float] | None
    peak_mb: float | None

    def __str__(self) -> str:
        speed = "out of memory" if self.images_per_second is None else f"{self.images_per_second[0]:.2f} images/s"
        memory = "" if self.peak_mb is None else f", {self.peak_mb:.0f} MB"
        return f"{self.what}, {self.batch_size} images, {self.side}: {speed}{memory}"


def measure(place: Place) -> Iterator[Speed]:
    """Every side: training at every batch size, then evaluation at one."""
    sizes = [1, 2] if place.small else [1, 2, 4, 8, 16]
    images = load(place, max(sizes))
    built: dict[str, Side] = {}
    held: dict[str, float] = {}  # weights and momentum of each side, MB
    for name, build in sides(place).items():
        before = _allocated(place)
        built[name] = build()
        built[name](images.first(1))()
        held[name] = _allocated(place) - before
    for size in sizes:
        steps = {name: side(images.first(size)) for name, side in built.items()}
        yield from _measured("training", size, 1 if place.small else max(2, 16 // size), steps, held, place)
    size, count = (1, 1) if place.small else (8, 2)
    batches = [images.first(size)] * count
    evaluations = {name: side.evaluation(batches) for name, side in built.items() if name != SLOWEST}
    yield from _measured("evaluation", size, 1, evaluations, held, place, images=size * count)


def compiled(place: Place) -> str:
    """What `trainer.compile` gives: a training step as it is and compiled, in turn."""
    if place.device == "cpu":
        raise NotHere("needs a GPU: on a processor it takes minutes")
    side, images = Ours(place), load(place, 8)
    compile_backbone(side.model.backbone)
    step = side(images)
    began = time.perf_counter()
    step()
    wait_for(place.torch_device)
    took = time.perf_counter() - began
    return f"{_against_plain(side, Ours(place), images, place)}; {took:.0f} s to compile"


def captured(place: Place) -> str:
    """What `trainer.capture` gives with few images, and that its losses are those of steps as they are."""
    if place.device == "cpu":
        raise NotHere("needs a GPU")
    side, plain, images = Ours(place), Ours(place), load(place, 4)
    capture_backbone(side.model.backbone)
    for _ in range(3):
        ours, expected = side(images)(), plain(images)()
        expect(all(abs(ours[name] / expected[name] - 1) < 0.01 for name in ours), f"losses {ours} and {expected}")
    return "; ".join(_against_plain(side, plain, images.first(size), place) for size in (1, 2, 4))


def _against_plain(side: Ours, plain: Ours, images: Batch, place: Place) -> str:
    """The speed of training steps of `side`, in turn with those as they are."""
    steps: dict[str, Step] = {"plain": plain(images), "fast": side(images)}
    for step in steps.values():
        step()
    size = len(images.targets)
    speeds = _in_turn(4 * size, 4, steps, place)
    slow, fast = speeds["plain"][0], speeds["fast"][0]
    return f"{fast:.1f} images/s, {fast / slow:.2f} x as many as without, {size} images a step"


def _measured(
    what: str, size: int, repeats: int, steps: dict[str, Step], held: dict[str, float], place: Place, images: int = 0
) -> Iterator[Speed]:
    """The sides in turn, `repeats` steps in a row each. images: of a step, by default one batch."""
    peaks = {name: _peak(step, place, held[name]) for name, step in steps.items()}
    fitting = {name: step for name, step in steps.items() if peaks[name] != FULL}
    speeds = _in_turn((images or size) * repeats, repeats, fitting, place)
    for name in steps:
        yield Speed(what, size, name, speeds.get(name), None if peaks[name] == FULL else peaks[name])


def _in_turn(images: int, repeats: int, steps: dict[str, Step], place: Place) -> dict[str, tuple[float, float, float]]:
    """Images a second: median, slowest, fastest round."""
    rounds = 1 if place.small else 3

    def repeated(step: Step) -> Callable[[], None]:
        def run() -> None:
            for _ in range(repeats):
                step()
            wait_for(place.torch_device)

        return run

    warmup = 0 if place.small else 1
    seconds = in_turn({name: repeated(step) for name, step in steps.items()}, rounds, warmup)
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
