"""Seconds until a mistake is told: 25 typos and wrong paths, each a command of its own, as a person types them.

python benchmarks/mistakes.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
import time

from sides import machine

TRAIN, PREFIX = "python -m maskrcnn_train", "python -m maskrcnn_train."
MISTAKES = [
    f"{TRAIN} backbone=resnet5",
    f"{TRAIN} backbon=resnet50",
    f"{TRAIN} rpn.nms.post_trian=1000",
    f"{TRAIN} rpn.nms.post_train=many",
    f"{TRAIN} rpn.fg_iou=0.7",
    f"{TRAIN} optimizer.lr=-1",
    f"{TRAIN} --lr 0.01",
    f"{TRAIN} trainer.batch_size=0",
    f"{TRAIN} pooler=3",
    f"{TRAIN} roi_head.num_convs=0 roi_head.num_fcs=0",
    f"{TRAIN} experiment=finetun",
    f"{TRAIN} data=coco data.root=/no/such/folder",
    f"{TRAIN} data=roboflow data.root=/no/such/folder",
    f"{TRAIN} resume=/no/such/run",
    f"{TRAIN} weights=file weights.path=/no/such/weights.pt",
    f"{TRAIN} hydra.run.dir=here",
    f"{TRAIN} trainer.precision=fp8",
    f"{TRAIN} -m backbone=resnet18,resnet19",
    "python -m maskrcnn_train.chek",
    f"{PREFIX}evaluate checkpoint=/no/such/best.pt",
    f"{PREFIX}predict checkpoint=/no/such/best.pt images=.",
    f"{PREFIX}export checkpoint=/no/such/best.pt",
    f"{PREFIX}report run=/no/such/run",
    f"{PREFIX}check data=coco data.root=/no/such/folder",
    f"{PREFIX}split annotations=/no/such/file.json",
]


def seconds_of(command: str) -> float:
    words = [sys.executable, *shlex.split(command)[1:]]
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    said = done.stderr.strip().splitlines()
    if done.returncode != 2 or not said or "Traceback" in done.stderr:
        raise SystemExit(f"{command}: exit code {done.returncode}, said {said[-1:]}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    print(machine())
    medians = {command: statistics.median(seconds_of(command) for _ in range(rounds)) for command in MISTAKES}
    worst = max(medians, key=lambda command: medians[command])
    print(f"{len(MISTAKES)} mistakes: median {statistics.median(medians.values()):.2f} s, worst {medians[worst]:.2f} s")
    print(f"worst: {worst}")


if __name__ == "__main__":
    main()
