"""What a result depends on besides its settings: machine, GPUs, versions, code, data."""

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import torch

from maskrcnn_train import __version__

PASSWORD = re.compile(r"(://[^:/@\s]+:)[^@\s]+@")  # in the URL of a database


def environment(annotations: list[Path], world_size: int) -> dict[str, Any]:
    """For environment.json. annotations: the JSONs of the data, which are hashed whole."""
    return {
        "command": PASSWORD.sub(r"\1...@", shlex.join(sys.orig_argv)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "maskrcnn_train": __version__,
        **{name: version(name) for name in ("torch", "torchvision", "numpy")},
        "world_size": world_size,
        **_gpus(),
        "git": _git(Path.cwd()),
        "data": {str(path): _sha256(path) for path in annotations if path.is_file()},
        "packages": _packages(),
    }


def _packages() -> dict[str, str]:
    """Version by name of every installed package."""
    known = [each.metadata for each in distributions()]  # read anew at each access
    return dict(sorted((each["Name"], each["Version"]) for each in known if each["Name"]))


def _gpus() -> dict[str, Any]:
    """GPUs that this process sees, and what runs them; of another rank's machine nothing is known here."""
    if not torch.cuda.is_available():
        return {"gpus": []}
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "gpus": [f"{each.name}, {each.total_memory / 2**30:.0f} GiB" for each in properties],
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0],
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())),
    }


def _git(folder: Path) -> dict[str, Any] | None:
    """Commit of the folder that the command was called in, and the files changed since; None outside a repository."""
    commit = _output("git", "-C", str(folder), "rev-parse", "HEAD")
    changed = _output("git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": [line[3:] for line in changed.splitlines()]} if commit else None


def _output(*command: str) -> str:
    """What a program prints; nothing where it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    return done.stdout.rstrip() if done.returncode == 0 else ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
