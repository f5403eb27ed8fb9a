"""environment.json: what a result depends on besides its settings."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from maskrcnn_train.engine import environment as module
from maskrcnn_train.engine.environment import environment


def test_a_run_says_what_it_depends_on(run_dir: Path) -> None:
    found = json.loads((run_dir / "environment.json").read_text())
    assert found["world_size"] == 1
    assert found["packages"]["torch"] == found["torch"]
    assert found["gpus"] == []
    assert len(found["data"]) == 3
    for path, digest in found["data"].items():
        assert digest == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_gpus_driver_and_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    card = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 27, 3))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setattr(module, "_output", lambda program, *_: "570.1\n570.1" if program == "nvidia-smi" else "")
    found = environment([], world_size=16)
    assert found["gpus"] == ["NVIDIA H100, 80 GiB"] * 2
    assert (found["driver"], found["cudnn"], found["nccl"], found["world_size"]) == ("570.1", 91002, "2.27.3", 16)
    assert found["cuda"] == torch.version.cuda


def test_the_commit_of_the_callers_folder_is_kept_with_what_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert environment([], world_size=1)["git"] is None
    (tmp_path / "a.yaml").write_text("1")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *arguments], check=True)
    (tmp_path / "a.yaml").write_text("2")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert environment([], world_size=1)["git"] == {"commit": commit, "changed": ["a.yaml"]}


def test_the_password_of_a_storage_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "storage=postgresql+psycopg://me:s3cret@db.example/search"
    monkeypatch.setattr(module.sys, "orig_argv", ["python", "-m", "maskrcnn_train.tune", url])
    assert environment([], world_size=1)["command"].endswith("storage=postgresql+psycopg://me:...@db.example/search")
