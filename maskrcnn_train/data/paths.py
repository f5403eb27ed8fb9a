"""Files and folders that a person names: there, of the right kind and readable, or one line that says which not."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NoReturn

from maskrcnn_train.settings.errors import UserError


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a tool hides or leaves it behind in the folder: .ipynb_checkpoints, ._a.jpg of macOS, __MACOSX."""
    return any(part[0] == "." or part == "__MACOSX" for part in path.relative_to(folder).parts)


def visible_files(folder: Path, pattern: str) -> Iterator[Path]:
    """Files in a folder and those within, in no order; neither hidden ones nor links that lead nowhere."""
    return (path for path in folder.rglob(pattern) if not is_hidden(path, folder) and path.is_file())


def common_folder(folders: Iterable[Path]) -> Path:
    """The deepest folder that holds all of these. Raises UserError where there is none: on two drives of Windows."""
    places = [folder.absolute() for folder in folders]
    try:
        return Path(os.path.commonpath(places))
    except ValueError:
        drives = ", ".join(sorted({place.anchor for place in places}))
        raise UserError(f"images on several drives ({drives}) have no folder in common; bring them to one") from None


def relative_path(path: Path, folder: Path) -> str:
    """The way from a folder to a path; the whole path where there is none: to another drive of Windows."""
    try:
        return os.path.relpath(path, folder)
    except ValueError:
        return os.path.abspath(path)


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
