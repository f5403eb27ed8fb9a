"""A result file is whole, or as it was."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from maskrcnn_train.files import unused_name, write_csv, write_text


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_text(tmp_path / "folder/file.txt", "old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_text(path, "new")
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_may_have_the_longest_name_and_text_that_is_no_utf8(tmp_path: Path) -> None:
    path = write_text(tmp_path / ("a" * 251 + ".txt"), os.fsdecode(b"b\xff.png"))
    assert path.read_text() == "b\\udcff.png"
    with pytest.raises(OSError, match="too long") as error:
        write_text(tmp_path / ("a" * 252 + ".txt"), "")
    assert error.value.filename == str(tmp_path / ("a" * 252 + ".txt"))
    assert write_csv(tmp_path / "rows.csv", [[os.fsdecode(b"b\xff.png")]]).read_text() == "b\\udcff.png\n"


def test_names_that_differ_in_case_alone_are_told_apart() -> None:
    used: dict[str, int] = {}
    assert [unused_name(name, used) for name in ("Cat", "cat", "dog", "CAT")] == ["Cat", "cat_2", "dog", "CAT_3"]
    assert [unused_name(name, used) for name in ("dog_2", "dog", "dog_2")] == ["dog_2", "dog_3", "dog_2_2"]


def test_many_files_of_one_name_take_no_longer_each() -> None:
    used: dict[str, int] = {}
    began = time.process_time()
    assert [unused_name("image", used) for _ in range(20_000)][-1] == "image_20000"
    assert time.process_time() - began < 5  # when each looked at all names before it: minutes
