"""Text files of labels: lists of names and paths, a line each, and small JSONs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson

from maskrcnn_train.files import write_text
from maskrcnn_train.settings.errors import UserError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # as Notepad writes it


def read_lines(path: Path) -> list[str]:
    """The lines of a text, without spaces around them. Raises UserError for anything else."""
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path} cannot be read as a text: {error}") from None


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text of these lines."""
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_json(path: Path) -> Any:
    """The content of a JSON file, also after a byte-order mark. Raises UserError for anything else."""
    try:
        return orjson.loads(path.read_bytes().removeprefix(BYTE_ORDER_MARK))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def names_file(masks: Path) -> Path | None:
    """The classes.txt beside the masks or in a folder above."""
    paths = [folder / "classes.txt" for folder in (masks, *list(masks.parents)[:2])]
    return next((path for path in paths if path.is_file()), None)


def read_names(masks: Path) -> dict[int, str] | None:
    """The classes of `names_file`, numbered from 1; None without one."""
    path = names_file(masks)
    return None if path is None else dict(enumerate(filter(None, read_lines(path)), start=1))
