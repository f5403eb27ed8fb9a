"""Several workers of one search on this machine, each a process of its own."""

import logging
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.overrides import quoted
from maskrcnn_train.tuning.search import Search

logger = logging.getLogger("maskrcnn_train")


def run_workers(search: Search, folder: Path) -> None:
    """Start the workers of a search and wait for them; when this process is stopped, they stop with their checkpoints.

    Raises UserError for a worker that ended with an error; the others go on all the same.
    """
    number = search.config.workers
    devices = _devices(search)
    threads = str(max(1, (os.cpu_count() or 1) // number))
    environment = {"OMP_NUM_THREADS": threads} | os.environ
    given = [text for text in search.given if text.split("=", 1)[0] not in ("workers", "output_dir")]
    given += [f"output_dir={quoted(str(folder))}", "workers=1"]
    given += ["--config-dir", search.config_dir] if search.config_dir else []
    logs = [folder / f"worker_{index}.log" for index in range(number)]
    logger.info("%d workers, whose output is in %s", number, ", ".join(map(str, logs)))
    with ExitStack() as files:
        workers = [
            subprocess.Popen(
                [sys.executable, "-m", "maskrcnn_train.tune", *given, *devices[index % len(devices)]],
                stdout=files.enter_context(log.open("ab")),
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # they get one signal, from here: a second one would stop them at once
            )
            for index, log in enumerate(logs)
        ]
        try:
            codes = [worker.wait() for worker in workers]
        except BaseException:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait()
            raise
    for code, log in zip(codes, logs, strict=True):
        if code == 1:
            raise RuntimeError(f"a worker failed; its traceback is in {log}")
        if code:
            raise UserError(f"a worker ended with code {code}, see {log}; go on with output_dir={folder}")


def _devices(search: Search) -> list[list[str]]:
    """The overrides that give one GPU each to the workers, in turn; nothing where there are none or one is named."""
    if search.config.trainer.device not in ("auto", "cuda"):
        return [[]]
    import torch

    return [[f"trainer.device=cuda:{index}"] for index in range(torch.cuda.device_count())] or [[]]
