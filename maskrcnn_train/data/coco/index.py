"""Images and annotations of one split as flat numpy columns, kept on disk and memory-mapped.

Worker processes share the pages of the mapped files; Python lists would be copied into each of them. Without torch.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from maskrcnn_train.data.coco.skipped import SkippedRow, SkippedTable
from maskrcnn_train.files import folder_written_aside

FORMAT_VERSION = 10  # raise when columns, meta.json or what is read from a file change: older caches are then rebuilt
NO_MASK, POLYGON, RLE = 0, 1, 2  # AnnotationIndex.kinds
JOINED = " + "  # between the names of joined files
SAMPLES, SAMPLE = 64, 2**16  # blocks of a JSON that are hashed, and bytes of each

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Category:
    """One entry of the JSON's `categories`."""

    id: int
    name: str
    supercategory: str | None


@dataclass
class AnnotationIndex:
    """M images and A annotations, annotations sorted by image; all lengths in image pixels.

    sources: its file, or the files that were joined.
    image_ids int64 [M]; image_sizes int64 [M, 2] height, width; names uint8, utf-8, image i at
    name_offsets[i]:name_offsets[i+1]; annotations of image i are rows first[i]:first[i+1].
    boxes float64 [A, 4] x y w h, clipped to the image; written_boxes as in the JSON, which scores are measured
    against (computed where the JSON has none); areas float64; crowd bool; kinds uint8.
    extents float64 [A, 4] x1 y1 x2 y2 around the segmentation (the box where there is none).
    Polygon parts of annotation a: part_offsets[a]:part_offsets[a+1]; numbers x y x y ... of part p:
    coordinates[point_offsets[p]:point_offsets[p+1]]. RLE: runs[run_offsets[a]:run_offsets[a+1]], zeros first,
    down the columns of the whole image.
    places: where other files than a COCO JSON have annotation a, utf-8 at place_offsets[a]:place_offsets[a+1]; for a
    JSON both are empty.
    """

    sources: list[Path]
    categories: list[Category]
    skipped: SkippedTable
    image_ids: NDArray[np.int64]
    image_sizes: NDArray[np.int64]
    names: NDArray[np.uint8]
    name_offsets: NDArray[np.int64]
    first: NDArray[np.int64]
    annotation_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    image_rows: NDArray[np.int64]
    boxes: NDArray[np.float64]
    written_boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    kinds: NDArray[np.uint8]
    extents: NDArray[np.float64]
    part_offsets: NDArray[np.int64]
    point_offsets: NDArray[np.int64]
    coordinates: NDArray[np.float64]
    run_offsets: NDArray[np.int64]
    runs: NDArray[np.uint32]
    places: NDArray[np.uint8]
    place_offsets: NDArray[np.int64]
    folder: Path | None = None  # where the columns are mapped from; None: in memory only

    @property
    def num_images(self) -> int:
        return len(self.image_ids)

    @property
    def num_annotations(self) -> int:
        return len(self.annotation_ids)

    @property
    def source(self) -> str:
        """Its file in words, or the files that were joined."""
        return JOINED.join(map(str, self.sources))

    @property
    def short_name(self) -> str:
        """Name of its file that tells the JSONs of a data set apart; Roboflow gives all of them one file name."""
        return JOINED.join("/".join(path.parts[-2:]) for path in self.sources)

    @property
    def used_categories(self) -> set[int]:
        """Ids of the categories that annotations have."""
        return set(np.unique(self.category_ids).tolist())

    @property
    def from_json(self) -> bool:
        """Whether ids are those of a COCO JSON; those of other files are our own numbers."""
        return len(self.place_offsets) == 0

    def item(self, row: int) -> int | str:
        """What a person finds annotation `row` by: its id, or where other files than a JSON have it."""
        if self.from_json:
            return int(self.annotation_ids[row])
        return self.places[self.place_offsets[row] : self.place_offsets[row + 1]].tobytes().decode()

    def items(self, rows: Iterable[int]) -> list[int | str]:
        """`item` of several annotations."""
        return [self.item(row) for row in rows]

    def columns(self) -> dict[str, NDArray[Any]]:
        """All columns by name."""
        return {name: getattr(self, name) for name in _column_names()}

    def file_name(self, row: int) -> str:
        """`file_name` of image `row`, relative to the folder of images."""
        return self.names[self.name_offsets[row] : self.name_offsets[row + 1]].tobytes().decode()

    def size(self, row: int) -> tuple[int, int]:
        """(height, width) of image `row` as the JSON has it."""
        height, width = self.image_sizes[row].tolist()
        return height, width

    def annotations(self, row: int) -> slice:
        """Annotation rows of image `row`."""
        return slice(int(self.first[row]), int(self.first[row + 1]))

    def parts(self, row: int) -> list[NDArray[np.float64]]:
        """Polygons of annotation `row`: float64 [2 n] each, x y x y ..."""
        bounds = self.point_offsets[self.part_offsets[row] : self.part_offsets[row + 1] + 1].tolist()
        return [self.coordinates[start:end] for start, end in pairwise(bounds)]

    def counts(self, row: int) -> NDArray[np.uint32]:
        """Run lengths of annotation `row`, zeros first."""
        return self.runs[self.run_offsets[row] : self.run_offsets[row + 1]]

    def image_entry(self, row: int) -> dict[str, Any]:
        """Image `row` as COCO writes it."""
        height, width = self.size(row)
        return {"id": int(self.image_ids[row]), "height": height, "width": width, "file_name": self.file_name(row)}

    def annotation_entry(self, row: int) -> dict[str, Any]:
        """Annotation `row` as COCO writes it, without its segmentation; the box as in the JSON."""
        return {
            "id": int(self.annotation_ids[row]),
            "image_id": int(self.image_ids[self.image_rows[row]]),
            "category_id": int(self.category_ids[row]),
            "bbox": self.written_boxes[row].tolist(),
            "area": float(self.areas[row]),
            "iscrowd": int(self.crowd[row]),
        }

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker that is not forked opens the files again instead of receiving a copy; a command that read a newer
        # state of the JSON may have deleted them
        if self.folder is not None and self.folder.is_dir():
            return load_index, (self.folder,)
        return AnnotationIndex, tuple(getattr(self, item.name) for item in fields(self))


def _column_names() -> list[str]:
    return [item.name for item in fields(AnnotationIndex)[3:-1]]  # all but sources, categories, skipped and folder


def cache_folder(annotations: Path) -> Path:
    """The cache folder of this JSON in its present state.

    The state is the size, the times of the last change (mtime, and ctime, which programs cannot set back) and a hash
    of samples of the content. Hashing all of a large file would take longer than all the rest.
    """
    path = annotations.resolve()
    stat = path.stat()
    return state_folder(str(path), f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {sample_hash(path)}")


def state_folder(name: str, state: str) -> Path:
    """The folder of an index in $MASKRCNN_TRAIN_CACHE, or in the user's cache folder.

    name: what the index is of; state: another one for every content of its files.
    """
    name, content = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in (name, f"{state} {FORMAT_VERSION}"))
    given, base = os.environ.get("MASKRCNN_TRAIN_CACHE"), os.environ.get("XDG_CACHE_HOME")
    root = Path(given) if given else Path(base or Path.home() / ".cache") / "maskrcnn_train"
    return root / f"{name}-{content}"


def sample_hash(path: Path) -> str:
    """Hash of evenly spaced blocks of a file, the first and last included: of all of it up to 4 MB."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        last = max(0, path.stat().st_size - SAMPLE)
        for start in dict.fromkeys(last * number // (SAMPLES - 1) for number in range(SAMPLES)):
            file.seek(start)
            found.update(file.read(SAMPLE))
    return found.hexdigest()


class BrokenIndex(Exception):
    """A saved index that lacks files, or whose columns are not those that were written."""


def open_saved(folder: Path) -> AnnotationIndex | None:
    """The saved index; None where there is none, or a damaged one, which is deleted."""
    try:
        return load_index(folder) if folder.is_dir() else None
    except BrokenIndex as error:
        logger.warning("%s: the cached annotations are damaged (%s); rebuilding them", folder, error)
        shutil.rmtree(folder, ignore_errors=True)
        return None


def load_index(folder: Path) -> AnnotationIndex:
    """Open a saved index without reading its columns. Raises BrokenIndex."""
    try:
        meta = orjson.loads((folder / "meta.json").read_bytes())
        # plain arrays over the mapped pages: slicing a np.memmap is several times slower
        columns = {name: np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in _column_names()}
        for name, column in columns.items():
            if meta["columns"][name] != _form(column):
                raise BrokenIndex(f"{name} has the form {_form(column)}, not {meta['columns'][name]}")
        return AnnotationIndex(
            sources=[Path(each) for each in meta["sources"]],
            categories=[Category(**category) for category in meta["categories"]],
            skipped=SkippedTable({reason: SkippedRow(**row) for reason, row in meta["skipped"].items()}),
            folder=folder,
            **columns,
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise BrokenIndex(f"{type(error).__name__}: {error}") from error


def _form(column: NDArray[Any]) -> list[Any]:
    return [column.dtype.str, list(column.shape)]


def save_index(index: AnnotationIndex, folder: Path) -> AnnotationIndex:
    """Write the index to `folder` and return it mapped from there; where that fails, in memory and with a warning.

    Several processes may do so at once.
    """
    try:
        with folder_written_aside(folder) as aside:
            _write(index, aside)
        for other in folder.parent.glob(folder.name.split("-")[0] + "-*"):
            if other != folder:  # an earlier state of the JSON; processes that map it keep their pages
                shutil.rmtree(other, ignore_errors=True)
        return load_index(folder)
    except (OSError, BrokenIndex) as error:
        logger.warning("%s: annotations cannot be cached (%s); set MASKRCNN_TRAIN_CACHE", folder.parent, error)
        return index


def _write(index: AnnotationIndex, folder: Path) -> None:
    columns = index.columns()
    for name, column in columns.items():
        np.save(folder / f"{name}.npy", column)
    meta = {
        "sources": [str(each) for each in index.sources],
        "categories": index.categories,
        "skipped": index.skipped.rows,
        "columns": {name: _form(column) for name, column in columns.items()},
    }
    (folder / "meta.json").write_bytes(orjson.dumps(meta, option=orjson.OPT_INDENT_2))
