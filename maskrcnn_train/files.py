"""Result files: written aside and renamed, so that whoever reads one finds the old file or the new, never a part."""

from __future__ import annotations

import csv
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it becomes `path` at the end, and nothing is left after an error.

    Makes the folder. Raises OSError with the path when the disk is full; a file that was there stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{uuid.uuid4().hex[:8]}.part")  # as long as the name is, it may have the longest one
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(aside):  # a full disk names none
            error.filename = str(path)
        raise
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_written_aside(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` to fill; it becomes `folder` at the end, unless another process was first.

    A killed process leaves a hidden `.<name>.<random>`, free to delete.
    """
    aside = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    aside.mkdir(parents=True)
    try:
        yield aside
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def unused_name(name: str, used: dict[str, int]) -> str:
    """The name, with a number where a file of that name would be one of `used`.

    used: names in small letters, because on macOS and Windows A.png and a.png are one file, each with the next number
    to try. The name is added.
    """
    found, number = name, used.get(name.casefold(), 2)
    while found.casefold() in used:
        found, number = f"{name}_{number}", number + 1
    used[name.casefold()] = number
    used.setdefault(found.casefold(), 2)
    return found


def write_text(path: Path, text: str) -> Path:
    """Write a text file in UTF-8; returns its path. Bytes of file names that are no UTF-8 become e.g. \\udcff."""
    with written_aside(path) as aside:
        aside.write_text(text, **TEXT)
    return path


def write_json(path: Path, content: Any, *, indent: int | None = None) -> Path:
    """Write JSON; returns its path. indent: for files that people read."""
    return write_text(path, json.dumps(content, indent=indent) + ("" if indent is None else "\n"))


def write_picture(path: Path, picture: Image, **options: Any) -> Path:
    """Write a picture as PNG where the path ends so, else as JPEG; returns its path. options: Pillow's."""
    with written_aside(path) as aside:
        picture.save(aside, format="PNG" if path.suffix.lower() == ".png" else "JPEG", **options)
    return path


def write_csv(path: Path, lines: Iterable[Sequence[object]]) -> Path:
    """Write lines of cells, the head first; returns the path."""
    with written_aside(path) as aside, open(aside, "w", newline="", **TEXT) as file:
        csv.writer(file).writerows([csv_cell(cell) for cell in line] for line in lines)
    return path


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write rows of one kind as CSV, the first giving the columns; returns the path."""
    columns = list(rows[0]) if rows else []
    return write_csv(path, [columns, *([row[column] for column in columns] for row in rows)] if rows else [])


def csv_cell(cell: object) -> object:
    """The cell, with an apostrophe before a text that a spreadsheet would run as a formula."""
    if not isinstance(cell, str) or not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell
