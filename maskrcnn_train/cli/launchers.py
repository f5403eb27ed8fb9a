"""Hydra's launchers for the jobs of a sweep: what each needs, and GPUs that no two jobs have at once."""

from __future__ import annotations

import functools
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing import Manager
from multiprocessing.util import Finalize
from pathlib import Path
from signal import SIGTERM, raise_signal
from typing import Any

from maskrcnn_train.engine.signals import Interrupted
from maskrcnn_train.settings.errors import UserError

PLUGINS = {"joblib": "joblib", "submitit_local": "submitit", "submitit_slurm": "submitit", "ray": "ray"}
GPU = "MASKRCNN_TRAIN_GPU"  # of a worker process, from its first job on


@dataclass
class Launcher:
    """name: basic, whose jobs run in this process, or one of conf/hydra/launcher.

    overrides: Hydra's, for the GPUs of this machine. free_gpus: a queue that joblib's processes take theirs from.
    """

    name: str
    overrides: list[str]
    free_gpus: Any = None

    @contextmanager
    def place(self, log: Path) -> Iterator[None]:
        """Where a job runs, in whatever process: on a GPU of its own, and its output in `log`."""
        if self.name == "basic":
            yield
            return
        if self.name == "joblib":
            multiprocessing.set_start_method(None, force=True)  # joblib's own starts no process that loads images
            end_with_parent(os.getppid())
        if self.free_gpus is not None and GPU not in os.environ:
            gpu = self.free_gpus.get()
            os.environ.update({GPU: gpu, "CUDA_VISIBLE_DEVICES": gpu})
            Finalize(None, self.free_gpus.put, (gpu,), exitpriority=1)  # joblib replaces processes that grow
        with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
            try:
                yield
            except Interrupted as stopped:
                if self.name != "ray":  # after the checkpoint: submitit queues the job again, joblib's process ends
                    raise_signal(stopped.number)
                raise


@contextmanager
def launcher_of(overrides: Sequence[str], devices: Sequence[str]) -> Iterator[Launcher]:
    """The launcher that a sweep's overrides name. devices: of all jobs, as their settings say.

    Raises UserError for a plugin that is not installed, and for more jobs at once than GPUs.
    """
    given = {key: value for key, _, value in (text.partition("=") for text in overrides)}
    name = given.get("hydra/launcher", "basic")
    plugin = PLUGINS.get(name)
    if plugin and not _is_installed(f"hydra_{plugin}_launcher"):
        raise UserError(f"hydra/launcher={name} needs one more package: pip install hydra-{plugin}-launcher")
    if plugin:
        _forget_values_of_plugin(name)
    gpus = _gpus() if plugin and set(devices) & {"auto", "cuda"} else []
    if name == "joblib" and gpus:
        number = given.get("hydra.launcher.n_jobs", str(len(gpus)))
        if not number.isdecimal() or not 0 < int(number) <= len(gpus):
            raise UserError(f"hydra.launcher.n_jobs={number}: a GPU has one job at a time; give 1 to {len(gpus)}")
        with Manager() as manager:
            free = manager.Queue()
            for gpu in gpus:
                free.put(gpu)
            yield Launcher(name, [f"hydra.launcher.n_jobs={number}"], free)
    elif name == "submitit_local" and gpus and "hydra.launcher.gpus_per_node" not in given:
        raise UserError("hydra/launcher=submitit_local starts all jobs at once, on one GPU; use hydra/launcher=joblib")
    elif name == "ray" and gpus and "hydra.launcher.ray.remote.num_gpus" not in given:
        yield Launcher(name, ["hydra.launcher.ray.remote.num_gpus=1"])
    else:
        yield Launcher(name, [])


def _is_installed(plugin: str) -> bool:
    return find_spec("hydra_plugins") is not None and find_spec(f"hydra_plugins.{plugin}") is not None


def _forget_values_of_plugin(name: str) -> None:
    """Leave those of conf/hydra/launcher as the only ones: Hydra warns in every process where both are there."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # has them put theirs into the store
    ConfigStore.instance().repo["hydra"]["launcher"].pop(f"{name}.yaml", None)


def _gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch  # most mistakes need not wait for it

    named, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return [str(index) for index in range(count)] if named is None else named.split(",")[:count]


@functools.cache
def end_with_parent(parent: int) -> None:
    """Stop this process as SIGTERM does, with a checkpoint, when the one that launched it is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
