"""Finds the images that a person names: a file, a folder, a glob, a text list or a COCO JSON."""

import glob
from pathlib import Path
from typing import NamedTuple

from maskrcnn_train.data.coco.reader import open_index
from maskrcnn_train.data.paths import is_hidden
from maskrcnn_train.data.texts import read_lines
from maskrcnn_train.settings.errors import UserError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
SUFFIXES = (*PICTURES, ".npy")


def list_pictures(folder: Path) -> list[Path]:
    """All pictures in a folder and those within, sorted; where there is none, its NumPy arrays.

    Beside pictures, arrays are mostly something else: masks, features.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and not is_hidden(path, folder) and path.is_file()
    )
    return [path for path in files if path.suffix.lower() in PICTURES] or files


class FoundImage(NamedTuple):
    """image_id, size: (height, width), as a COCO JSON has them; None where there is no JSON."""

    path: Path
    image_id: int | None = None
    size: tuple[int, int] | None = None


def find_images(given: str) -> list[FoundImage]:
    """Image files in order.

    given: a file, a folder (its pictures, those in sub-folders too), a glob, a .txt with a path a line, or a COCO JSON
    (paths relative to the file's folder). Raises UserError with one line if there are no images.
    """
    path = Path(given).expanduser()
    if path.is_dir():
        files = list_pictures(path)
        if not files:
            raise UserError(f"images={given} holds no pictures ({', '.join(SUFFIXES)})")
        return [FoundImage(each) for each in files]
    if path.suffix.lower() == ".json" and path.is_file():
        index = open_index(path)
        if not index.num_images:
            raise UserError(f"images={given} names no images")
        rows = range(index.num_images)
        return [
            FoundImage(path.parent / index.file_name(row), int(index.image_ids[row]), index.size(row)) for row in rows
        ]
    if path.suffix.lower() == ".txt" and path.is_file():
        lines = [line for line in read_lines(path) if line]
        if not lines:
            raise UserError(f"images={given} is an empty list; write one path a line")
        return [FoundImage(path.parent / line) for line in lines]
    if path.is_file():
        return [FoundImage(path)]
    matches = sorted(Path(each) for each in glob.glob(str(path), recursive=True))
    if not matches:
        raise UserError(f"images={given} is no file, folder or glob that matches anything")
    files = [each for each in matches if each.is_file()]
    if not files:
        raise UserError(f"images={given} matches folders only; give one of them, or images='{path}/*.jpg'")
    return [FoundImage(each) for each in files]
