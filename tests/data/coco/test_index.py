from __future__ import annotations

import logging
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_coco import assert_equal, small_coco, write_json

from maskrcnn_train.data.coco import reader as coco_module
from maskrcnn_train.data.coco.index import cache_folder, sample_hash, save_index, state_folder
from maskrcnn_train.data.coco.reader import open_index, read_coco
from maskrcnn_train.data.coco.skipped import SkippedTable


def broken_coco() -> dict[str, list[dict[str, object]]]:
    coco = small_coco()
    coco["annotations"][0]["bbox"] = [0, 0, 0, 0]
    return coco


def test_the_second_start_does_not_read_the_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json(tmp_path / "train.json", broken_coco())
    first = open_index(path)
    monkeypatch.setattr(coco_module, "read_coco", lambda path: pytest.fail("the JSON was read again"))
    second = open_index(path)
    assert second.folder is not None
    assert_equal(first, second)
    assert_equal(second, read_coco(path))


@pytest.mark.parametrize(
    ("variable", "below"),
    [("MASKRCNN_TRAIN_CACHE", "."), ("XDG_CACHE_HOME", "maskrcnn_train"), ("HOME", ".cache/maskrcnn_train")],
)
def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
) -> None:
    for name in ("MASKRCNN_TRAIN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    assert state_folder("name", "state").parent == tmp_path / below


def test_a_path_may_look_like_several(tmp_path: Path) -> None:
    path = write_json(tmp_path / "doors + windows" / "train.json", small_coco())
    for _ in range(2):  # read, and opened again
        assert open_index(path).sources == [path]


def test_columns_are_mapped_from_the_file(tmp_path: Path) -> None:
    index = open_index(write_json(tmp_path / "train.json", small_coco()))
    assert isinstance(index.coordinates.base, np.memmap)


def test_a_changed_file_is_read_again_and_its_old_index_removed(tmp_path: Path, cache: Path) -> None:
    path = write_json(tmp_path / "train.json", small_coco(4))
    open_index(path)
    write_json(path, small_coco(6))
    assert open_index(path).num_images == 6
    assert len(list(cache.iterdir())) == 1


def test_a_touched_file_of_the_same_size_is_read_again(tmp_path: Path) -> None:
    path = write_json(tmp_path / "train.json", small_coco())
    before = cache_folder(path)
    os.utime(path, ns=(1, 1))
    assert cache_folder(path) != before


def test_other_content_of_the_same_size_and_time_is_read_again(tmp_path: Path) -> None:
    path = write_json(tmp_path / "train.json", small_coco())
    open_index(path)
    stat = path.stat()
    path.write_text(path.read_text().replace("door", "gate"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert open_index(path).categories[0].name == "gate"


@pytest.mark.parametrize("place", [0, 2_000_000, 3_999_999])
def test_every_byte_up_to_4_mb_is_hashed(tmp_path: Path, place: int) -> None:
    content = bytearray(4_000_000)
    (tmp_path / "a").write_bytes(content)
    before = sample_hash(tmp_path / "a")
    content[place] = 1
    (tmp_path / "a").write_bytes(content)
    assert sample_hash(tmp_path / "a") != before


def test_samples_of_a_large_file_reach_from_end_to_end(tmp_path: Path) -> None:
    content = bytearray(40_000_000)
    seen = set()
    for change in (None, (0, 1), (39_999_999, 1), (20_000_000, 700_000)):
        if change is not None:
            content[change[0] : change[0] + change[1]] = b"x" * change[1]
        (tmp_path / "a").write_bytes(content)
        seen.add(sample_hash(tmp_path / "a"))
    assert len(seen) == 4


def test_processes_that_build_one_index_at_once_agree(tmp_path: Path, cache: Path) -> None:
    path = write_json(tmp_path / "train.json", small_coco(400))
    code = (
        "import sys, pathlib; import maskrcnn_train.data.coco.reader as r; i = r.open_index(pathlib.Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", f"{code}; print(i.num_annotations, i.folder.name)", str(path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate() for process in running}
    assert said == {(f"800 {cache_folder(path).name}\n", "")}
    assert [folder.name for folder in cache.iterdir()] == [cache_folder(path).name]


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-8])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def one_row_less(file: Path) -> None:
    np.save(file, np.load(file)[:-1])


def other_numbers(file: Path) -> None:
    np.save(file, np.load(file).astype(np.float32))


@pytest.mark.parametrize("damage", [Path.unlink, empty, cut_off, one_row_less, other_numbers])
@pytest.mark.parametrize("column", ["boxes", "image_sizes", "coordinates", "part_offsets"])
def test_a_damaged_cache_is_rebuilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, column: str, damage: Callable[[Path], None]
) -> None:
    path = write_json(tmp_path / "train.json", small_coco())
    open_index(path)
    damage(cache_folder(path) / f"{column}.npy")
    assert_equal(open_index(path), read_coco(path))
    assert "rebuilding them" in caplog.text
    caplog.clear()
    assert open_index(path).folder is not None
    assert caplog.text == ""


def test_an_unwritable_cache_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MASKRCNN_TRAIN_CACHE", str(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        index = open_index(write_json(tmp_path / "train.json", small_coco()))
    assert index.folder is None
    assert index.num_images == 4
    assert "MASKRCNN_TRAIN_CACHE" in caplog.text


def test_two_writers_leave_one_whole_index(tmp_path: Path, cache: Path) -> None:
    path = write_json(tmp_path / "train.json", small_coco())
    index = read_coco(path)
    save_index(index, cache_folder(path))
    assert_equal(save_index(index, cache_folder(path)), index)
    assert [folder.name for folder in cache.iterdir()] == [cache_folder(path).name]


def test_a_pickled_index_is_a_path_not_a_copy(tmp_path: Path) -> None:
    path = write_json(tmp_path / "train.json", small_coco())
    mapped, in_memory = open_index(path), read_coco(path)
    assert len(pickle.dumps(mapped)) < 500
    assert_equal(pickle.loads(pickle.dumps(mapped)), mapped)
    assert_equal(pickle.loads(pickle.dumps(in_memory)), mapped)
    assert mapped.folder is not None
    shutil.rmtree(mapped.folder)  # as a command does that reads a newer state of the JSON
    assert_equal(pickle.loads(pickle.dumps(mapped)), in_memory)


def test_the_table_lists_losses_first_and_names_every_id() -> None:
    table = SkippedTable()
    for number in range(9):
        table.add("repaired", number, f"annotation {number}", dropped=False)
    table.add("lost", 40, "annotation 40")
    assert [(row.reason, row.count) for row in table] == [("lost", 1), ("repaired", 9)]
    assert len(table.rows["repaired"].examples) == 5
    assert table.rows["repaired"].ids == list(range(9))
    assert table.num_dropped == 1
