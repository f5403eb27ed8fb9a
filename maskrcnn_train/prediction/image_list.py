"""images.json beside the results of `predict`: which file has which image id, so that any ground truth can be matched.

In COCO's form: `images` with id, file_name, width and height, and the `categories`.
"""

import json
import logging
from collections import defaultdict
from pathlib import Path, PurePath
from typing import Any

from maskrcnn_train.files import write_json
from maskrcnn_train.settings.errors import UserError
from maskrcnn_train.structures.classes import ClassMap

IMAGE_LIST = "images.json"
logger = logging.getLogger("maskrcnn_train")


def write_image_list(folder: Path, images: dict[int, tuple[str, int, int]], classes: ClassMap) -> None:
    """images: file, as `images=` leads to it, or name of each image id, its height and width."""
    entries = [
        {"id": image_id, "file_name": PurePath(name).as_posix(), "width": width, "height": height}
        for image_id, (name, height, width) in images.items()
    ]
    categories = [{"id": each, "name": name} for each, name in classes.name_of_id.items()]
    write_json(folder / IMAGE_LIST, {"images": entries, "categories": categories})


def with_ids_of(
    ground_truth: dict[str, Any], annotations: Path, results: list[dict[str, Any]], predictions: Path
) -> list[dict[str, Any]]:
    """Results with the image ids of a ground truth, matched by file name where the names beside `predictions` differ.

    Results of other programs, with no list beside them, and those whose ids agree are returned as they are. Raises
    UserError for a file that has no image, or several, of its name in the ground truth, or shares it with another file.
    """
    path = predictions.with_name(IMAGE_LIST)
    listed, theirs = _names(path), {image["id"]: image["file_name"] for image in ground_truth["images"]}
    used = listed.keys() & {each["image_id"] for each in results if isinstance(each["image_id"], int)}
    if all(image_id in theirs and _same_file(listed[image_id], theirs[image_id]) for image_id in used):
        return results
    by_name: dict[str, list[int]] = defaultdict(list)
    for image_id, name in theirs.items():
        by_name[PurePath(name).name].append(image_id)
    file_of: dict[int, int] = {}  # our id of each of their images
    for image_id in used:
        name = listed[image_id]
        found = [each for each in by_name[PurePath(name).name] if _same_file(name, theirs[each])]
        found = [each for each in found if theirs[each] == name] or found
        if len(found) != 1:
            count = f"{len(found)} images" if found else "no image"
            raise UserError(f"{predictions}: {name} (id {image_id} in {IMAGE_LIST}) is {count} of {annotations}")
        if (other := file_of.setdefault(found[0], image_id)) != image_id:
            both = f"{listed[other]} (id {other} in {IMAGE_LIST}) and {name} (id {image_id})"
            both = f"{both} are both {theirs[found[0]]} of {annotations}"
            raise UserError(f"{predictions}: {both}; it needs an image for each")
    new_ids = {image_id: own for own, image_id in file_of.items()}
    logger.warning("%s: images are matched by file name: their ids are not those of %s", predictions, annotations)
    ids = [each["image_id"] for each in results]
    renamed: list[Any] = [new_ids[each] if isinstance(each, int) and each in used else each for each in ids]
    return [{**each, "image_id": image_id} for each, image_id in zip(results, renamed, strict=True)]


def _names(path: Path) -> dict[int, str]:
    """The file name of each image id; none where there is no such list, or one of another form."""
    try:
        return {image["id"]: str(image["file_name"]) for image in json.loads(path.read_bytes())["images"]}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is not as predict writes it: images are matched by id", path)
        return {}


def _same_file(first: str, second: str) -> bool:
    """Whether one path ends with the other."""
    shorter, longer = sorted((PurePath(first).parts, PurePath(second).parts), key=len)
    return longer[-len(shorter) :] == shorter
