"""Where the files of a data set are: folder of images and COCO JSON of each split, by layout."""

from pathlib import Path

from maskrcnn_train.data.paths import require_file, require_folder
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.settings.schema import DataConfig, SplitPathsConfig

NAMES = ("train", "val", "test")
LAYOUTS = {  # of each split: (folder of images, annotations), below data.root
    "coco": {name: (f"{name}2017", f"annotations/instances_{name}2017.json") for name in NAMES},
    "shapes": {name: (name, f"annotations/{name}.json") for name in NAMES},
    "roboflow": {
        name: (folder, f"{folder}/_annotations.coco.json")
        for name, folder in zip(NAMES, ("train", "valid", "test"), strict=True)
    },
}


def data_root(data: DataConfig) -> Path | None:
    """The data set's folder, drawn first for data=shapes; None without data.root. Raises UserError if it is missing."""
    if data.root is None:
        return None
    root = Path(data.root).expanduser()
    if data.name == "shapes":
        from maskrcnn_train.data.shapes import ensure_shapes

        return ensure_shapes(data.shapes, root)
    if data.name != "custom":
        require_folder(root, "set data.root to the folder of the data set")
    return root


def locate(data: DataConfig, root: Path | None, name: str) -> tuple[Path, Path] | None:
    """(folder of images, annotations) of a split; None for an optional split that is not there.

    Paths given for the split win over those of the layout. Raises UserError naming a missing file.
    """
    given: SplitPathsConfig = getattr(data, name)
    if data.split.fractions is not None and name != "train":
        if given.annotations is None:
            return None
        what = f"data.split.fractions cuts {name} from the training JSON"
        raise UserError(f"data.{name}.annotations is set, but {what}; remove one of them")
    images, annotations = LAYOUTS[data.name][name] if data.name in LAYOUTS else (None, None)
    images_path, json_path = (
        Path(own).expanduser() if own else (root or Path()) / usual if usual else None
        for own, usual in ((given.images, images), (given.annotations, annotations))
    )
    if name == "test" and given.annotations is None and not (json_path and json_path.is_file()):
        return None
    if images_path is None or json_path is None:
        raise UserError(f"data.{name}.images and data.{name}.annotations must both be set: a folder and a COCO JSON")
    require_file(json_path, _hint(data, name))
    return images_path, json_path


def _hint(data: DataConfig, name: str) -> str:
    if data.name == "custom":
        return f"set data.{name}.annotations to the COCO JSON of this split"
    cut = ", or cut one from the training images with data.split.fractions=[0.8,0.2]" if name == "val" else ""
    looks = f"data={data.name} looks for {LAYOUTS[data.name][name][1]} in data.root={data.root}"
    return f"{looks}. Correct data.root, name the file with data.{name}.annotations{cut}"
