"""Where the files of a data set are: the labels of each split, in whatever format, and the folder of its images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maskrcnn_train.data.coco.index import AnnotationIndex
from maskrcnn_train.data.formats.coco import LAYOUTS, NAMES
from maskrcnn_train.data.formats.labelled import LabelFiles
from maskrcnn_train.data.formats.registry import FORMATS, find_parts
from maskrcnn_train.data.paths import common_folder, require_file, require_folder
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import DataConfig, SplitPathsConfig


@dataclass(frozen=True)
class Source:
    """Where the labels and images of a split are. files: those of one format, or several to be joined."""

    files: tuple[LabelFiles, ...]

    @property
    def images(self) -> Path:
        """The folder that file names are relative to."""
        return self.files[0].images if len(self.files) == 1 else common_folder([each.images for each in self.files])

    def require_images(self) -> None:
        """Raise UserError unless the folders of images are there."""
        for each in self.files:
            require_folder(each.images, f"give the folder of the images that {each.annotations} names")

    @property
    def name(self) -> str:
        return ", ".join(str(each.annotations) for each in self.files)


def _data_root(data: DataConfig) -> Path | None:
    """The data set's folder, drawn first for data=shapes; None without data.root. Raises UserError if it is missing."""
    if data.root is None:
        return None
    root = Path(data.root).expanduser()
    if data.name == "shapes":
        from maskrcnn_train.data.shapes import ensure_shapes

        return ensure_shapes(data.shapes, root)
    if data.name in LAYOUTS:
        require_folder(root, "set data.root to the folder of the data set")
    return root


def locate_all(data: DataConfig, names: Iterable[str] = NAMES, *, needs_val: bool = True) -> dict[str, Source]:
    """The labels and images of the splits that are there; the rest as in `locate`."""
    found = {name: locate(data, name, needs_val=needs_val) for name in names}
    return {name: source for name, source in found.items() if source is not None}


def locate(data: DataConfig, name: str, *, needs_val: bool = True) -> Source | None:
    """The labels and images of a split; None for an optional split that is not there: test, or not `needs_val` val.

    Paths given for the split win over those of the layout. Raises UserError naming a missing file.
    """
    root = _data_root(data)
    given: SplitPathsConfig = getattr(data, name)
    annotations, images = as_paths(given.annotations), as_paths(given.images)
    is_optional = not images and (name == "test" or (name == "val" and not needs_val))
    if data.split.fractions is not None and name != "train":
        if not annotations and not images:
            return None
        key, what = "annotations" if annotations else "images", f"cuts {name} from the training images"
        raise UserError(f"data.{name}.{key} is set, but data.split.fractions {what}; remove one of them")
    if annotations:
        format_ = data.name if data.name in FORMATS and data.name != "coco" else "auto"
        return Source(tuple(given_files(annotations, images, name, format_, f"data.{name}.", _usual(data, root, name))))
    if (files := _usual(data, root, name)) is None:
        files = _found(data, root, name, is_optional)
    elif is_optional and not files.annotations.is_file():
        files = None
    else:
        require_file(files.annotations, _hint(data, name))
    (folder,) = _folders(images, 1, f"data.{name}.")
    return None if files is None else Source((_with_images(files, folder, f"data.{name}."),))


def as_paths(given: Any) -> list[Path]:
    """A setting that is a path, a list of paths or null."""
    values = given if isinstance(given, list) else [] if given is None else [given]
    return [Path(str(value)).expanduser() for value in values]


def given_files(
    annotations: Sequence[Path],
    images: Sequence[Path],
    name: str,
    format_: str,
    section: str,
    usual: LabelFiles | None = None,
) -> list[LabelFiles]:
    """The files that a person names for a split. format_: a name in FORMATS, or auto. section: that the split's keys
    are in, with a dot at its end, for messages.

    images: a folder for each, or one for all; where there is none, that of `usual`, or as the format has it.
    """
    found = []
    for path, folder in zip(annotations, _folders(images, len(annotations), section), strict=True):
        if path.suffix.lower() == ".json" and format_ in ("auto", "coco"):
            folder = folder or (usual.images if usual else None)
            if folder is None:
                raise UserError(f"{section}images is not set; give the folder of the images that {path} names")
            require_file(path, f"set {section}annotations to the COCO JSON of this split")
            found.append(LabelFiles("coco", folder, path))
            continue
        parts = find_parts(path, format_, f"{section}annotations")
        if name not in parts and len(parts) > 1:
            raise UserError(f"{section}annotations={path} has no part for {name}; it has {', '.join(parts)}")
        files = parts.get(name) or next(iter(parts.values()))
        found.append(_with_images(files, folder, section))
    return found


def _folders(images: Sequence[Path], number: int, section: str) -> list[Path | None]:
    """The folder given for each of some files of labels; None where none is."""
    if len(images) not in (0, 1, number):
        raise UserError(f"{section}images names {len(images)} folders for {number} files; give one for each")
    folders: list[Path | None] = [*images] if images else [None]
    return folders * number if len(folders) == 1 else folders


def _with_images(files: LabelFiles, folder: Path | None, section: str) -> LabelFiles:
    """The files with another folder of images, where one is given."""
    if folder is None:
        return files
    if not FORMATS[files.format].images_apart:
        raise UserError(f"{section}images has no effect: {FORMATS[files.format].title} says itself where they are")
    return replace(files, images=folder)


def _usual(data: DataConfig, root: Path | None, name: str) -> LabelFiles | None:
    """The files of a split in a layout of COCO JSONs; None in other formats."""
    if data.name not in LAYOUTS:
        return None
    images, annotations = LAYOUTS[data.name][name]
    return LabelFiles("coco", (root or Path()) / images, (root or Path()) / annotations)


def _found(data: DataConfig, root: Path | None, name: str, is_optional: bool) -> LabelFiles | None:
    """The part of a data set in another format; None for an optional one that is not there."""
    if data.name == "custom" or root is None:
        if is_optional:
            return None
        raise UserError(f"data.{name}.images and data.{name}.annotations must both be set: a folder and a COCO JSON")
    parts = find_parts(root, data.name, "data.root")
    if name in parts:
        return parts[name]
    if is_optional:
        return None
    title, only = FORMATS[next(iter(parts.values())).format].title, ", ".join(parts)
    cut = "; cut it with data.split.fractions=[0.8,0.2]" if name == "val" else ""
    raise UserError(f"data.root={root} ({title}) has no part for {name}, only {only}{cut}")


def _hint(data: DataConfig, name: str) -> str:
    cut = ", or cut one from the training images with data.split.fractions=[0.8,0.2]" if name == "val" else ""
    looks = f"data={data.name} looks for {LAYOUTS[data.name][name][1]} in data.root={data.root}"
    return f"{looks}. Correct data.root, name the file with data.{name}.annotations{cut}"


def found_notes(data: DataConfig, sources: dict[str, Source], indices: dict[str, AnnotationIndex]) -> list[str]:
    """What is in no split, and what data=auto found, in one line: the format, and the images of each split."""
    files = [each for source in sources.values() for each in source.files]
    notes = unused_notes(files)
    if data.name != "auto":
        return notes
    titles = dict.fromkeys(FORMATS[each.format].title for each in files)
    counts = ", ".join(f"{name} {index.num_images} images" for name, index in indices.items())
    return [f"data=auto: {data.root or 'the files given'} is {' and '.join(titles)}: {counts}", *notes]


def unused_notes(files: Iterable[LabelFiles]) -> list[str]:
    """What of the files is in no split, each once."""
    return [*dict.fromkeys(each.note for each in files if each.note)]
