"""What the guide's advice is worth: the sweeps of conf/experiment/advice side by side, and their results as CSV.

A sweep goes on where it stopped, so that a night can be cut in pieces: give the same command again. After --minutes no
sweep starts and those that run save their state and stop. The tables are written over and over, of the jobs that are
finished; these keep no checkpoints. What the sweeps have in common, the trainings with the guide's values, comes
first; a sweep that starts after it does not repeat them.

    python benchmarks/advice.py --jobs 2 --minutes 60
    python benchmarks/advice.py --knobs rpn_iou box_convs --seeds 0 1 2 3 4 --data FOLDER
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Transformer

from maskrcnn_train.files import write_rows
from maskrcnn_train.reporting.jobs import JobRecord, find_job, read_jobs, save_job
from maskrcnn_train.reporting.pages.sweep import training_minutes
from maskrcnn_train.reporting.runs import read_json, read_scores
from maskrcnn_train.settings.presets import conf_dir

ADVICE = conf_dir() / "experiment" / "advice"
SCORES = ("bbox/AP", "segm/AP")
BUDGETS = "test_budgets"  # the knob that `analyze` turns, without training again
PRE_TEST, POST_TEST = (50, 100, 250, 500, 1000, 2000, 4000), (10, 30, 50, 100, 300, 1000, 2000)
ONE_AT_A_TIME = len(PRE_TEST) + len(POST_TEST) - 1  # settings, with the trained one once
ON_SHAPES_ALONE = ("box_fcs",)
WEIGHTED = ("initial_weights",)  # on photographs alone, which its weights are of
PHOTOS = ["data=roboflow", "data.min_size=320", "data.max_size=320", "trainer.batch_size=4", "trainer.num_workers=2"]
PHOTOS += ["data.merge=null", "rpn.anchors.sizes=[16,32,64,128,256]", "rpn.nms.pre_train=4000"]
PHOTOS += ["roi_head.sampling.batch_size=128"]
EVERY = 15.0  # seconds between two looks at what is finished


@dataclass(frozen=True)
class Sweep:
    """One knob on one data set: `shapes` or `photos`. settings: beside those of its file."""

    knob: str
    data: str
    folder: Path
    settings: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        words = [sys.executable, "-m", "maskrcnn_train", "-m", f"experiment=advice/{self.knob}"]
        return [*words, *self.settings, f"output_dir={self.folder}"]

    def finished(self) -> Iterator[tuple[Path, JobRecord]]:
        for job in read_jobs(self.folder):
            if job.state == "finished":
                yield self.folder / str(job.number), job


def knobs() -> list[str]:
    return sorted(path.stem for path in ADVICE.glob("[!_]*.yaml"))


def swept_keys(knob: str) -> list[str]:
    """The keys that the file of a knob moves, without the seed; of a section, those inside it."""
    parameters = yaml.safe_load((ADVICE / f"{knob}.yaml").read_text())["hydra"]["sweeper"]["params"]
    keys = []
    for key, values in parameters.items():
        (override,) = OverridesParser.create().parse_overrides([f"{key}={values}"])
        first = next(override.sweep_iterator(Transformer.identity))
        keys += [f"{key}.{inside}" for inside in first] if isinstance(first, dict) else [key]
    return [key for key in keys if key != "seed"]


def adopt(sweep: Sweep, other: Sweep) -> None:
    """Take over the trainings that another sweep has finished and this one has to do as well."""
    done = [job.settings for _, job in sweep.finished()]
    for path, job in other.finished():
        if job.settings not in done:
            number = find_job(sweep.folder, job.settings, job.overrides, job.number).number
            folder = sweep.folder / str(number)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(path, folder, ignore=shutil.ignore_patterns("checkpoints", "analysis"))
            save_job(sweep.folder, replace(job, number=number))


def measure(sweep: Sweep, deadline: float, environment: dict[str, str]) -> str:
    """Run a sweep, and what comes after it; returns its fault, or nothing."""
    adopt(sweep, replace(sweep, knob=BUDGETS, folder=sweep.folder.with_name(f"{BUDGETS}_{sweep.data}")))
    fault = _run(sweep.command, sweep.folder.with_suffix(".log"), deadline, environment)
    for folder, _ in sweep.finished() if sweep.knob == BUDGETS else ():
        if not fault and not (folder / "analysis/budgets.csv").exists():
            shutil.rmtree(folder / "analysis", ignore_errors=True)
            fault = _run(_analysis(folder), sweep.folder.with_suffix(".log"), deadline, environment)
    return fault


def _analysis(folder: Path) -> list[str]:
    """The command that tries one other budget at a time on a trained model."""
    tried = {"pre_test": list(PRE_TEST), "post_test": list(POST_TEST)}
    tried |= {name: [] for name in ("rpn_threshold", "score_threshold", "nms_threshold", "detections_per_image")}
    words = [sys.executable, "-m", "maskrcnn_train.analyze", f"checkpoint={folder / 'checkpoints/best.pt'}"]
    words += ["what=[budgets]", "max_images=null", f"output_dir={folder / 'analysis'}", "budgets.mask_threshold=[]"]
    return [*words, *(f"budgets.{name}={values}" for name, values in tried.items()), f"budgets.most={ONE_AT_A_TIME}"]


def _run(words: list[str], log: Path, deadline: float, environment: dict[str, str]) -> str:
    if time.monotonic() >= deadline:
        return "not started: out of time"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=environment)
        try:
            code = process.wait(timeout=deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            process.terminate()  # a training saves its state first
            process.wait()
            return "stopped: out of time"
    return f"exit code {code}, see {log}" if code else ""


def write_tables(sweep: Sweep, folder: Path) -> None:
    """`<knob>_<data>.csv` of the jobs that are finished, which lose their checkpoints unless they are still needed."""
    tables: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path, job in sweep.finished():
        if sweep.knob == BUDGETS:
            for name in ("pre_test", "post_test"):
                tables[f"proposals_{name}"] += _budget_rows(name, path, job)
        else:
            tables[sweep.knob].append(_row(sweep.knob, path, job))
            shutil.rmtree(path / "checkpoints", ignore_errors=True)
    for name, rows in tables.items():
        if rows:
            write_rows(folder / f"{name}_{sweep.data}.csv", rows)


def _row(knob: str, path: Path, job: JobRecord) -> dict[str, Any]:
    values = {key: reduce(getitem, key.split("."), job.settings) for key in swept_keys(knob)}
    scores = {score: round(value, 5) for score, value in read_scores(path).items() if score in SCORES}
    seconds = 60 * (training_minutes(path) or 0.0)
    return {**values, "seed": job.settings["seed"], **scores, "seconds": round(seconds, 2), "device": _device(path)}


def _budget_rows(name: str, path: Path, job: JobRecord) -> list[dict[str, Any]]:
    """The outcomes of an analysis that differ from the trained setting in one budget, and the trained one."""
    outcomes = read_json(path / "analysis" / "analysis.json").get("outcomes", [])
    rows = []
    for outcome in sorted(outcomes, key=lambda each: each["setting"][name]):
        if {**outcome["setting"], name: 0} == {**outcomes[0]["setting"], name: 0}:
            measured = {"segm/AP of one half": outcome["tuned"], "milliseconds": outcome["milliseconds"]}
            rounded = {key: round(value, 5) for key, value in measured.items()}
            value = {f"rpn.nms.{name}": outcome["setting"][name]}
            rows.append({**value, "seed": job.settings["seed"], **rounded, "device": _device(path)})
    return rows


def _device(path: Path) -> str:
    found = read_json(path / "environment.json")
    return str(found["gpus"][0]) if found.get("gpus") else f"{found.get('processors')} processors"


def sweeps_of(given: argparse.Namespace) -> list[Sweep]:
    """Those with the guide's values first, then those on photographs: they take longest."""
    seeds = "hydra.sweeper.params.seed=" + repr(",".join(map(str, given.seeds)))
    photos = () if given.data is None else (*PHOTOS, f"data.root={given.data}")
    found = []
    for data, settings in (("photos", photos), ("shapes", ())):
        if data in given.on and (settings or data == "shapes"):
            names = [knob for knob in given.knobs if knob not in (ON_SHAPES_ALONE if data == "photos" else WEIGHTED)]
            names = [knob for knob in names if given.weights or knob not in WEIGHTED]
            for name in names:
                own = (f"weights.path={given.weights}",) if name in WEIGHTED else ()
                found.append(Sweep(name, data, given.runs / f"{name}_{data}", (*settings, seeds, *own, *given.set)))
    return sorted(found, key=lambda sweep: sweep.knob != BUDGETS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--knobs", nargs="+", choices=knobs(), default=knobs())
    parser.add_argument("--on", nargs="+", choices=["shapes", "photos"], default=["shapes", "photos"])
    parser.add_argument("--data", type=Path, help="photographs in Roboflow's COCO layout")
    parser.add_argument("--weights", type=Path, help="of benchmarks/lite0_weights.py, for initial_weights")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="sweeps at a time")
    parser.add_argument("--minutes", type=float, default=24 * 60.0)
    parser.add_argument("--set", nargs="+", default=[], help="KEY=VALUE of every training, e.g. trainer.max_steps=100")
    parser.add_argument("--runs", type=Path, default=Path("runs/advice"))
    parser.add_argument("--tables", type=Path, default=Path("docs/knobs"))
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    environment = dict(os.environ) | ({"OMP_NUM_THREADS": "1"} if given.jobs > 1 else {})
    sweeps = sweeps_of(given)
    with ThreadPoolExecutor(given.jobs) as pool:
        running: dict[Future[str], Sweep] = {pool.submit(measure, each, deadline, environment): each for each in sweeps}
        left = set(running)
        while left:
            ended, left = wait(left, timeout=EVERY, return_when="FIRST_COMPLETED")
            for sweep in sweeps:
                write_tables(sweep, given.tables)
            for each in ended:
                print(f"{running[each].folder.name}: {each.result() or 'finished'}", flush=True)
    if faults := [each for each in running if each.result()]:
        raise SystemExit(f"{len(faults)} of {len(running)} sweeps are not finished")


if __name__ == "__main__":
    main()
