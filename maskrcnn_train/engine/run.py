"""A run: the folder of one training, and everything that writes there while it goes on."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path

import yaml
from rich.console import Console
from torch.profiler import profile, schedule

from maskrcnn_train.data.splits.splitting import Splits, summarize
from maskrcnn_train.engine import distributed
from maskrcnn_train.engine.alarm import LostPeer
from maskrcnn_train.engine.checkpoint import Checkpoints
from maskrcnn_train.engine.distributed import World
from maskrcnn_train.engine.environment import environment
from maskrcnn_train.engine.failed_steps import FailedSteps
from maskrcnn_train.engine.holding import held
from maskrcnn_train.engine.run_folder import LOG_FILE, find_run, open_run_folder
from maskrcnn_train.engine.state import Position
from maskrcnn_train.files import write_json, write_text
from maskrcnn_train.reporting.runs import DATA_FILE, SCORES_FILE
from maskrcnn_train.reporting.tensorboard import METRICS_FILE, MetricWriter
from maskrcnn_train.reporting.terminal.progress import Progress, logging_to
from maskrcnn_train.settings.compose import default_config
from maskrcnn_train.settings.errors import UserError, as_user_error, one_line
from maskrcnn_train.settings.overrides import overrides_of
from maskrcnn_train.settings.schema import TrainConfig
from maskrcnn_train.structures.classes import ClassMap

LOCK_FILE = ".lock"
PROFILED = {"wait": 3, "warmup": 1, "active": 3, "repeat": 1}  # steps of the trace; the first are not typical
logger = logging.getLogger("maskrcnn_train")


class Run:
    """The folder of a training, its checkpoints and failed steps; while it records: metrics, progress bar, profiler.

    Every rank has one. Only rank 0 writes, except for failed steps.
    """

    writer: MetricWriter  # these three are there while the run is recording
    progress: Progress
    _trace_step: Callable[[], None]
    resumes: bool  # whether there is a checkpoint to go on from

    def __init__(self, folder: Path, config: TrainConfig, classes: ClassMap, world: World, console: Console) -> None:
        self.folder, self.config, self.classes, self.is_main = folder, config, classes, world.is_main
        self.world_size = world.size
        about = {"config": asdict(config), "classes": classes.to_plain()}
        self.checkpoints = Checkpoints(folder / "checkpoints", about=about, enabled=world.is_main)
        self.failed_steps = FailedSteps(folder / "autopsy", about=about, trainer=config.trainer, rank=world.rank)
        self._console = console

    @classmethod
    @contextmanager
    def open(cls, config: TrainConfig, classes: ClassMap, world: World) -> Iterator[Run]:
        """Make the run's folder, or find the one to resume, and hold it. What ends the run is written to its train.log.

        Raises UserError for a folder that is not empty, a run to resume that is not there, or one that another process
        trains.
        """
        folder = None
        if world.is_main:
            folder = find_run(config, Path("runs/train")) or open_run_folder(config.output_dir, "train")
        folder = distributed.broadcast(folder, world)
        with (
            _leaving_no_trace(folder) if world.is_main else nullcontext(),
            logging_to(folder / LOG_FILE, enabled=world.is_main) as console,
            held(folder, folder / LOCK_FILE) if world.is_main else nullcontext(),
        ):
            run = cls(folder, config, classes, world, console)
            if world.is_main:
                for part in folder.rglob(".*.part"):  # what a killed process was writing
                    part.unlink(missing_ok=True)
            with run._logging_end(world):
                run.resumes = has_checkpoint(run.checkpoints, world)
                if config.resume not in (None, "auto") and not run.resumes:
                    lost = f"resume={config.resume}: {run.checkpoints.folder} has no last.pt to go on from"
                    raise UserError(f"{lost}; to start from a best.pt: weights=file weights.path=FILE")
                yield run

    @contextmanager
    def _logging_end(self, world: World) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError):
                error.filename = error.filename or str(self.folder)  # a full disk does not say where
            if world.is_main or not isinstance(error, LostPeer):
                _log_end(self.folder / LOG_FILE, error)
            raise

    @contextmanager
    def recording(self, position: Position) -> Iterator[None]:
        """Record metrics, progress and trace. What an earlier sitting wrote beyond `position` is dropped."""
        again = position.step > 0 or (self.folder / METRICS_FILE).exists()
        repeated = f"{self.config.kinds[-1]}/AP" if position.evaluating else None
        trace = _profiled(self.folder / "profile", enabled=self.config.trainer.profile and self.is_main)
        purge = position.step if again else None
        writer = MetricWriter(self.folder, purge_step=purge, repeated=repeated, enabled=self.is_main)
        progress = Progress("train", console=self._console, enabled=self.is_main)
        with trace as self._trace_step, writer as self.writer, progress as self.progress:
            if self.is_main:
                (self.folder / SCORES_FILE).unlink(missing_ok=True)  # of a training that was shorter
                writer.text("config", f"```yaml\n{(self.folder / 'config.yaml').read_text(encoding='utf-8')}\n```")
                writer.settings(overrides_of(self.config, default_config()))
            yield

    def after_step(self) -> None:
        """Go on with the trace; raise what went wrong with a checkpoint that was being written."""
        self._trace_step()
        self.checkpoints.check()

    def describe(self, splits: Splits) -> None:
        """Write config.yaml, overrides.yaml, classes.json, environment.json and data.json."""
        if self.is_main:
            write_text(self.folder / "config.yaml", yaml.safe_dump(asdict(self.config), sort_keys=False))
            write_text(self.folder / "overrides.yaml", yaml.safe_dump(overrides_of(self.config, default_config())))
            write_json(self.folder / "classes.json", self.classes.to_plain(), indent=2)
            jsons = sorted({path for split in splits.by_name.values() for path in split.index.sources})
            write_json(self.folder / "environment.json", environment(jsons, self.world_size), indent=2)
            write_json(self.folder / DATA_FILE, summarize(splits), indent=2)


@contextmanager
def _leaving_no_trace(folder: Path) -> Iterator[None]:
    """A mistake that shows before anything is written but the log, such as a wrong weights.path, leaves no folder: the
    corrected command may take its name."""
    try:
        yield
    except UserError:
        if [path.name for path in folder.iterdir()] == [LOG_FILE]:
            (folder / LOG_FILE).unlink()
            folder.rmdir()
        raise


def has_checkpoint(checkpoints: Checkpoints, world: World) -> bool:
    """Whether rank 0 has one. Raises UserError where only the folder of another rank, on another machine, does."""
    places = distributed.gather([(checkpoints.exist, socket.gethostname())], world)
    leader = places[0][1]
    for rank, (exists, host) in enumerate(places):
        if exists and not places[0][0]:
            raise UserError(
                f"{checkpoints.folder} is there on {host} (rank {rank}), but not on {leader} (rank 0), which goes on "
                "from it; share the folder between the machines, or copy it there"
            )
    return bool(places[0][0])


@contextmanager
def _profiled(folder: Path, *, enabled: bool) -> Iterator[Callable[[], None]]:
    """Gives a function to call after each step; writes `folder`/trace.json once the traced steps are done."""
    if not enabled:
        yield lambda: None
        return
    folder.mkdir(parents=True, exist_ok=True)
    save = partial(profile.export_chrome_trace, path=str(folder / "trace.json"))
    with profile(schedule=schedule(**PROFILED), on_trace_ready=save) as trace:
        yield trace.step
    if not (folder / "trace.json").exists():
        needed = PROFILED["wait"] + PROFILED["warmup"] + PROFILED["active"]
        logger.warning("trainer.profile wrote no trace: it needs %d steps in one go", needed)


def _log_end(log: Path, error: Exception) -> None:
    """One line for what the person can mend, the traceback for everything else."""
    user_error = as_user_error(error)
    text = traceback.format_exc() if user_error is None else one_line(user_error)
    with suppress(OSError), log.open("a", encoding="utf-8") as file:  # the disk may be what failed
        file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} ERROR {text.rstrip()}\n")
