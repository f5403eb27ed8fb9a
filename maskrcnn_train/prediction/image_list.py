"""images.json beside the results of `predict`: which file and which class has which id, to match any ground truth.

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
    """Results with the ids of a ground truth, matched by file name and class name where the names beside them differ.

    Results of other programs, with no list beside them, and those whose ids agree are returned as they are. Raises
    UserError for a file that has no image, or several, of its name in the ground truth, or shares it with another file.
    """
    names_of_images, names_of_classes = _names(predictions.with_name(IMAGE_LIST))
    files = {number: names_of_images[number] for number in _ids(results, "image_id") & names_of_images.keys()}
    classes = {number: names_of_classes[number] for number in _ids(results, "category_id") & names_of_classes.keys()}
    changes = {
        "image_id": ("images", "file name", _image_ids(ground_truth, annotations, files, predictions)),
        "category_id": ("classes", "name", _category_ids(ground_truth, classes)),
    }
    for key, (what, by, new_ids) in changes.items():
        if new_ids:
            told = "%s: %s are matched by %s: their ids are not those of %s"
            logger.warning(told, predictions, what, by, annotations)
            results = [{**each, key: _renumbered(each[key], new_ids)} for each in results]
    return results


def _ids(results: list[dict[str, Any]], key: str) -> set[int]:
    return {each[key] for each in results if isinstance(each[key], int)}


def _renumbered(number: Any, new_ids: dict[int, int]) -> Any:
    return new_ids.get(number, number) if isinstance(number, int) else number


def _category_ids(ground_truth: dict[str, Any], classes: dict[int, str]) -> dict[int, int]:
    """The id that the ground truth gives to the name of each class; nothing where all agree.

    Nor where it lacks a name, as after `data.rename`, or where two have it: then the ids are all there is to go by.
    """
    theirs = {category["id"]: category["name"] for category in ground_truth["categories"]}
    once = {name: number for number, name in theirs.items() if [*theirs.values()].count(name) == 1}
    agree = all(theirs.get(number) == name for number, name in classes.items())
    if agree or len({*classes.values()} & once.keys()) < len(classes):
        return {}
    return {number: once[name] for number, name in classes.items()}


def _image_ids(
    ground_truth: dict[str, Any], annotations: Path, files: dict[int, str], predictions: Path
) -> dict[int, int]:
    """The id that the ground truth gives to each file; nothing where all agree."""
    theirs = {image["id"]: image["file_name"] for image in ground_truth["images"]}
    if all(number in theirs and _same_file(name, theirs[number]) for number, name in files.items()):
        return {}
    by_name: dict[str, list[int]] = defaultdict(list)
    for image_id, name in theirs.items():
        by_name[PurePath(name).name].append(image_id)
    file_of: dict[int, int] = {}  # our id of each of their images
    for image_id, name in files.items():
        found = [each for each in by_name[PurePath(name).name] if _same_file(name, theirs[each])]
        found = [each for each in found if theirs[each] == name] or found
        if len(found) != 1:
            count = f"{len(found)} images" if found else "no image"
            raise UserError(f"{predictions}: {name} (id {image_id} in {IMAGE_LIST}) is {count} of {annotations}")
        if (other := file_of.setdefault(found[0], image_id)) != image_id:
            both = f"{files[other]} (id {other} in {IMAGE_LIST}) and {name} (id {image_id})"
            both = f"{both} are both {theirs[found[0]]} of {annotations}"
            raise UserError(f"{predictions}: {both}; it needs an image for each")
    return {image_id: own for own, image_id in file_of.items()}


def _names(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """The file name of each image id and the name of each category id; none without such a list, or in another form."""
    try:
        content = json.loads(path.read_bytes())
        images = {image["id"]: str(image["file_name"]) for image in content["images"]}
        return images, {category["id"]: str(category["name"]) for category in content.get("categories", [])}
    except FileNotFoundError:
        return {}, {}
    except (ValueError, KeyError, TypeError):
        logger.warning("%s is not as predict writes it: images are matched by id", path)
        return {}, {}


def _same_file(first: str, second: str) -> bool:
    """Whether one path ends with the other."""
    shorter, longer = sorted((PurePath(first).parts, PurePath(second).parts), key=len)
    return longer[-len(shorter) :] == shorter
