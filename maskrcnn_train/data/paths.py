"""Files and folders that a person names: there, of the right kind and readable, or one line that says which not."""

import os
from pathlib import Path
from typing import NoReturn

from maskrcnn_train.settings.errors import UserError


def visible_files(folder: Path, pattern: str = "*") -> list[Path]:
    """Files in a folder and those within, sorted. Not those that tools hide or leave behind: names that begin with a
    dot (.ipynb_checkpoints, ._a.jpg of macOS), __MACOSX, and links that lead nowhere."""
    return sorted(
        path
        for path in folder.rglob(pattern)
        if path.is_file() and not any(part[0] == "." or part == "__MACOSX" for part in path.relative_to(folder).parts)
    )


def require_file(path: Path, hint: str) -> None:
    """Raise UserError unless `path` is a file that can be opened. hint: what to give instead."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a file; {hint}")
    try:
        path.open("rb").close()
    except OSError as error:
        _refuse(path, error, hint)


def require_folder(path: Path, hint: str) -> None:
    """Raise UserError unless `path` is a folder that can be listed. hint: what to give instead."""
    try:
        os.listdir(path)
    except NotADirectoryError:
        raise UserError(f"{path} is a file, not a folder; {hint}") from None
    except OSError as error:
        _refuse(path, error, hint)


def _refuse(path: Path, error: OSError, hint: str) -> NoReturn:
    reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
    raise UserError(f"{path} {reason}; {hint}") from None
