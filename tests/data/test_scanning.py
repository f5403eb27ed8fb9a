from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskrcnn_train.data import scanning
from maskrcnn_train.data.scanning import find_near, group_pairs, perceptual_hash, scan_images


def picture(seed: int, size: tuple[int, int] = (300, 200)) -> Image.Image:
    colors = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    return Image.fromarray(colors).resize(size, Image.Resampling.BICUBIC)


def hashes(images: list[Image.Image]) -> np.ndarray:
    return np.frombuffer(b"".join(map(perceptual_hash, images)), dtype=np.uint8).reshape(len(images), -1)


def test_copies_are_found_whatever_their_size_and_compression_and_no_others(tmp_path: Path) -> None:
    originals = [picture(seed) for seed in range(20)]
    originals[3].save(tmp_path / "3.jpg", quality=30)
    copies = [
        Image.open(tmp_path / "3.jpg"),
        originals[5].resize((90, 60)),
        originals[8].point(lambda value: value * 0.8),
    ]
    found = find_near(hashes([*originals, *copies]), 8)
    assert found.tolist() == [[3, 20], [5, 21], [8, 22]]


def test_near_pairs_are_those_of_comparing_all_with_all() -> None:
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 256, (30, 16), dtype=np.uint8)
    flips = np.packbits(rng.random((300, 128)) < 0.03, axis=1)
    rows = np.unique(centres[rng.integers(0, 30, 300)] ^ flips, axis=0)
    bits = np.unpackbits(rows, axis=1).astype(int)
    distances = np.abs(bits[:, None] - bits[None]).sum(axis=2)
    for distance in (0, 4, 8):
        expected = np.argwhere(np.triu(distances <= distance, 1))
        assert find_near(rows, distance).tolist() == expected.tolist()


def test_equal_pictures_are_paired_with_the_first() -> None:
    rows = np.zeros((4, 16), dtype=np.uint8)
    assert find_near(rows, 8).tolist() == [[0, 1], [0, 2], [0, 3]]


def test_pairs_join_groups() -> None:
    assert group_pairs(6, np.array([[4, 5], [1, 4], [0, 2]])).tolist() == [0, 1, 0, 3, 1, 1]
    assert group_pairs(2, np.zeros((0, 2), dtype=np.int64)).tolist() == [0, 1]


def test_processes_report_every_file_in_order(tmp_path: Path) -> None:
    files = []
    for number in range(40):
        path = tmp_path / f"{number}.png"
        picture(number, (30, 20)).save(path)
        files.append((path, (20, 30) if number != 7 else (20, 31)))
    files[9][0].write_bytes(b"nothing")
    alone, together = (scan_images(files, workers, lambda done, total: None) for workers in (1, 2))
    assert alone == together
    assert [row for row, fact in enumerate(alone) if fact.fault] == [7, 9]
    assert [fact.wrong_size for fact in alone if fact.fault] == [True, False]


SCRIPT = """
import os, signal, sys
from contextlib import suppress
from pathlib import Path
from maskrcnn_train.data.scanning import scan_images

def progress(done, total):
    if sys.argv[1] == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__mp_main__" and sys.argv[1] == "SIGINT":  # in the first process that has just started
    with suppress(FileExistsError):
        os.mkdir(sys.argv[2] + ".struck")
        os.killpg(0, signal.SIGINT)
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a shell ignore it
    with suppress(KeyboardInterrupt):
        scan_images([(Path(sys.argv[2]), (20, 30))] * 1000, 2, progress)
        print("scanned")
"""


@pytest.mark.parametrize(("fault", "code"), [("SIGINT", 0), ("SIGKILL", -9)])
def test_processes_end_with_the_main_one(fault: str, code: int, tmp_path: Path) -> None:
    picture(0, (30, 20)).save(tmp_path / "a.png")
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), fault, str(tmp_path / "a.png")]
    # the output ends when the last process has closed it
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, start_new_session=True)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr


def test_windows_has_no_more_than_61_processes_in_a_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(0, (30, 20)).save(tmp_path / "a.png")
    files = [(tmp_path / "a.png", (20, 30)) for _ in range(17)]
    asked = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers: int, **_: object) -> None:
            asked.append(workers)
            super().__init__(1)

    monkeypatch.setattr(scanning, "ProcessPoolExecutor", Pool)
    assert len(scan_images(files, 96, lambda done, total: None)) == 17
    assert asked == [61]
