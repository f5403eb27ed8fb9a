"""trainer.profile: a trace of a few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

FIRST, COUNT = 5, 3  # steps in the trace; the ones before are not typical


@contextmanager
def profiled(folder: Path, *, enabled: bool) -> Iterator[Callable[[], None]]:
    """Gives a function to call after each step; writes `folder`/trace.json once the traced steps are done."""
    if not enabled:
        yield lambda: None
        return
    folder.mkdir(parents=True, exist_ok=True)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(
        activities=activities,
        schedule=schedule(wait=FIRST - 2, warmup=1, active=COUNT, repeat=1),
        on_trace_ready=lambda trace: trace.export_chrome_trace(str(folder / "trace.json")),
    ) as trace:
        yield trace.step
