"""What was found, as one page for people and one file for programs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from checks import Result, words
from speed import Speed

NAMED = ("gpus", "driver", "cuda", "cudnn", "nccl", "torch", "torchvision", "python", "platform", "processors")
FIRST = "torchvision with AMP"  # whose speed the others are compared with


def write(folder: Path, about: dict[str, Any], results: list[Result], speeds: list[Speed]) -> None:
    """gpu_report.md and gpu_report.json. about: the device, sizes, seconds, and the environment."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**about, "checks": [asdict(each) for each in results], "speed": [asdict(each) for each in speeds]}
    (folder / "gpu_report.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "gpu_report.md").write_text(page(about, results, speeds))


def page(about: dict[str, Any], results: list[Result], speeds: list[Speed]) -> str:
    """The Markdown."""
    environment = about["environment"]
    git = environment["git"] or {"commit": "unknown", "changed": []}
    machine = [[name, str(environment[name])] for name in NAMED if environment.get(name) is not None]
    machine.append(["commit", f"{git['commit']}, with {len(git['changed'])} files changed since"])
    checks = [[each.name, words(each.passed), f"{each.seconds:.0f}", each.seen] for each in results]
    parts = [
        f"# scripts/gpu\n\n`{environment['command']}`: {about['seconds']:.0f} s on {about['device']}, images of "
        f"{about['image_size']} px.",
        "## Machine",
        table(["what", "is"], machine),
        "## Checks",
        table(["check", "result", "seconds", "seen"], checks),
    ]
    if speeds:
        parts += ["## Training steps", _explanation(about)]
        parts.append(table(*_speed_table([each for each in speeds if each.what == "training"])))
        parts += ["## Evaluation", EVALUATION]
        parts.append(table(*_speed_table([each for each in speeds if each.what == "evaluation"])))
    return "\n\n".join(parts) + "\n"


def table(head: list[str], rows: list[list[str]]) -> str:
    cells = [
        [cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in [head, ["---"] * len(head), *rows]
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


EVALUATION = (
    "From images on the host to COCO results with run-length codes. The networks are hardly trained: each image has "
    "100 objects, the most that it can have, and their masks are large and ragged."
)


def _explanation(about: dict[str, Any]) -> str:
    return (
        f"{about['backbone']} with FPN and torchvision's heads, frozen norms, three trained stages, SGD; ours in "
        f"{about['precision']}, torchvision as written in fp32, AMP in bf16. Images a second: median of the rounds, in "
        "which the sides take turns (slowest to fastest)."
    )


def _speed_table(speeds: list[Speed]) -> tuple[list[str], list[list[str]]]:
    firsts = {each.batch_size: each.images_per_second for each in speeds if each.side == FIRST}
    rows = []
    for each in speeds:
        if each.images_per_second is None:
            rows.append([str(each.batch_size), each.side, "out of memory", "", ""])
            continue
        median, slowest, fastest = each.images_per_second
        first = firsts.get(each.batch_size)
        peak = "" if each.peak_mb is None else f"{each.peak_mb:,.0f}"
        times = "" if first is None else f"{median / first[0]:.2f}"
        rows.append([str(each.batch_size), each.side, f"{median:.2f} ({slowest:.2f} to {fastest:.2f})", times, peak])
    return ["images a step", "side", "images/s", f"x {FIRST}", "peak memory, MB"], rows
