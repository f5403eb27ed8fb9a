"""Files and folders of the wrong kind: one line that names the path, says what it is and what to give."""

from __future__ import annotations

import ntpath
import os
from pathlib import Path

import pytest
from small_coco import Configure, roboflow, small_coco

from maskrcnn_train.data.coco.reader import open_index, read_coco
from maskrcnn_train.data.coco.results import read_results
from maskrcnn_train.data.images import ImageError, decode
from maskrcnn_train.data.paths import common_folder, relative_path, require_file, require_folder
from maskrcnn_train.data.splits.splitting import read_splits
from maskrcnn_train.settings.errors import UserError


@pytest.mark.parametrize("read", [open_index, read_coco, read_results])
def test_a_folder_named_like_a_json_is_not_said_to_be_missing(tmp_path: Path, read: object) -> None:
    folder = tmp_path / "train.json"
    folder.mkdir()
    with pytest.raises(UserError, match=r"train\.json is a folder, not a file; give"):
        read(folder)  # type: ignore[operator]


@pytest.mark.parametrize("text", ["images:\n  - id: 1\n", "just a text", "\x00\x01", "[[1, 2"])
def test_a_file_that_is_no_json_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=r"data\.yaml is not JSON: .*Export the annotations as COCO JSON") as error:
        open_index(tmp_path / "data.yaml")
    assert "\n" not in str(error.value)


def test_the_layout_names_what_is_there_instead(tmp_path: Path, configure: Configure) -> None:
    roboflow(tmp_path / "data", small_coco())
    json = tmp_path / "data" / "valid" / "_annotations.coco.json"
    json.unlink()
    json.mkdir()
    with pytest.raises(UserError, match=r"coco\.json is a folder, not a file; .*data\.val\.annotations"):
        read_splits(configure())
    with pytest.raises(UserError, match=r"1\.png is a file, not a folder; set data\.root"):
        read_splits(configure(f"data.root={tmp_path}/data/train/1.png"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir(mode=0)
    (tmp_path / "secret.json").touch(mode=0)
    with pytest.raises(UserError, match=r"secret\.json cannot be read \(Permission denied\); hint"):
        require_file(tmp_path / "secret.json", "hint")
    with pytest.raises(UserError, match=r"secret cannot be read \(Permission denied\); hint"):
        require_folder(tmp_path / "secret", "hint")


def test_a_folder_given_for_a_picture_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(ImageError, match=r"a\.jpg cannot be read as an image: Is a directory$"):
        decode(tmp_path / "a.jpg")


def test_paths_may_lie_on_two_drives_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert common_folder([Path("/d/a/b"), Path("/d/c")]) == Path("/d")
    assert relative_path(Path("/d/a"), Path("/d/c")) == "../a"
    monkeypatch.setattr(os.path, "relpath", lambda *_: ntpath.relpath(r"D:\a", r"C:\b"))
    monkeypatch.setattr(os.path, "commonpath", lambda _: ntpath.commonpath([r"D:\a", r"C:\b"]))
    assert relative_path(Path("/d/a"), Path("/c/b")) == "/d/a"
    with pytest.raises(UserError, match="have no folder in common"):
        common_folder([Path("/d/a"), Path("/c/b")])
