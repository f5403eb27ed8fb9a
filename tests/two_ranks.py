"""Pairs of processes that train as one, without torchrun: rank 1 of each meets a fault of `planted_fault.py`.

    two_ranks.py FOLDER PHASE/FAULT,... [SETTING ...]

writes FOLDER/FAULT/: the run, and `ended.json` with exit codes, last lines and seconds from the fault to the end. All
are forked from one process, which has imported everything: that saves seconds for each.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from pathlib import Path

from planted_fault import plant


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


def start(rank: int, port: int, folder: Path, phase: str, fault: str, settings: list[str]) -> int:
    """The process id of one rank, in a fork; what it prints goes to FOLDER/rankN.txt."""
    if (process := os.fork()) > 0:
        return process
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    os.environ |= {"MASTER_PORT": str(port), "STRUCK": str(folder / "struck")}
    output = os.open(folder / f"rank{rank}.txt", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        if rank == 1:
            plant(phase, fault)
        sys.argv = ["train", *settings, f"output_dir={folder / 'run'}"]
        main()
        code = 0
    except SystemExit as leaving:
        code = int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(folder: Path, processes: list[int]) -> dict[str, object]:
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    lines = [(folder / f"rank{rank}.txt").read_text().splitlines() for rank in range(2)]
    seconds = time.time() - float((folder / "struck").read_text())
    return {"codes": codes, "said": [each[-1] if each else "" for each in lines], "seconds": seconds}


if __name__ == "__main__":
    import maskrcnn_train.train  # noqa: F401  (so that no fork imports it again)
    from maskrcnn_train.__main__ import main

    home, faults, *settings = sys.argv[1:]
    for phase, fault in (each.split("/") for each in faults.split(",")):
        folder = Path(home) / fault
        folder.mkdir()
        port = free_port()
        processes = [start(rank, port, folder, phase, fault, settings) for rank in range(2)]
        (folder / "ended.json").write_text(json.dumps(ended(folder, processes)))
