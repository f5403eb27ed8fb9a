"""What only a GPU can show: tests of computing, checks, and speed. Started by scripts/gpu.

scripts/gpu [--device cuda] [--output runs/gpu/DATE] [--only waits speed ...]
scripts/gpu --device cpu --small      # everything, on a processor: that it runs, not how fast
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import ranks
import reads
import torch
import trainings
from checks import Check, expect, result_of
from place import Place
from report import write
from speed import Speed, captured, compiled, measure

from maskrcnn_train.engine.environment import environment
from maskrcnn_train.engine.precision import resolve_precision

PARTS: dict[str, dict[str, Check]] = {
    "waits": reads.CHECKS,
    "trainings": trainings.CHECKS,
    "ranks": ranks.CHECKS,
    "speed": {},  # its check keeps the figures for the report
}


def main() -> int:
    """The exit code: 1 where a check failed, 2 where there is no GPU."""
    arguments = parsed()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: torch sees none here; `--device cpu --small` tries everything without one", file=sys.stderr)
        return 2
    began, results, speeds = time.perf_counter(), [], list[Speed]()
    with tempfile.TemporaryDirectory() as folder:
        place = Place(arguments.device, arguments.small, Path(folder))
        speed: dict[str, Check] = {
            "speed": lambda place: measured(place, speeds),
            "compiled": compiled,
            "captured": captured,
        }
        parts = {**PARTS, "speed": speed}
        for part in arguments.only:
            results += [result_of(name, check, place) for name, check in parts[part].items()]
            write(arguments.output, about(place, time.perf_counter() - began), results, speeds)
    print(f"report: {arguments.output / 'gpu_report.md'}")
    return int(any(each.passed is False for each in results))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes for a processor")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some of the parts")
    parser.add_argument("--output", type=Path, default=Path("runs/gpu") / f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    return parser.parse_args()


def measured(place: Place, speeds: list[Speed]) -> str:
    """speeds: gets each figure at once, so that those before a failure are kept."""
    for speed in measure(place):
        speeds.append(speed)
        print(speed, flush=True)
    expect(any(each.side == "ours" and each.images_per_second for each in speeds), "ours never fits into memory")
    return f"{len(speeds)} figures"


def about(place: Place, seconds: float) -> dict[str, object]:
    return {
        "device": torch.cuda.get_device_name() if place.device == "cuda" else "a processor",
        "small": place.small,
        "image_size": f"{place.image_size} x {place.image_width}",
        "backbone": place.backbone,
        "precision": resolve_precision("auto" if place.device == "cpu" else "bf16", place.torch_device),
        "seconds": seconds,
        "environment": environment([], world_size=1),
    }


if __name__ == "__main__":
    sys.exit(main())
