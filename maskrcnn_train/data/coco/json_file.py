"""Reads a COCO JSON whole, or its annotations in blocks: as Python objects, all of them would take gigabytes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from maskrcnn_train.data.paths import require_file
from maskrcnn_train.data.texts import BYTE_ORDER_MARK
from maskrcnn_train.settings.errors import UserError

BLOCK_SIZE = 2 * 2**20  # bytes of annotations that are Python objects at one time
BEGIN = re.compile(rb'"annotations"\s*:\s*\[\s*(?=\{)')
END = re.compile(rb'\}\s*(?=\]\s*(?:,\s*"|\}))')
BETWEEN = re.compile(rb"\}\s*(,)\s*\{")
WINDOW = 2**17  # bytes at the end of a block in which it may end
TRIES = 20  # false borders, inside an object, before the file is read whole


class NotInBlocks(Exception):
    """The annotations cannot be taken apart without reading the file whole."""


def parse_json(path: Path, *, exact: bool = False) -> dict[str, Any]:
    """The content of a COCO JSON. Raises UserError with one line for any other file.

    exact: keep whole numbers beyond 64 bits exact, which takes a few times longer.
    """
    text = read_text(path)
    try:
        content = json.loads(text) if exact else _loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}. Export the annotations as COCO JSON again") from None
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{path} holds a {kind}, not a COCO object with images, annotations and categories")
    for key in ("images", "annotations", "categories"):
        if key not in content:
            raise UserError(f"{path} has no `{key}`; a COCO JSON has images, annotations and categories")
    _turn_backslashes(content["images"])
    return content


def _turn_backslashes(images: Any) -> None:
    """Names of files that were written on Windows get slashes, in place."""
    for item in images if isinstance(images, list) else []:
        if isinstance(item, dict) and isinstance(name := item.get("file_name"), str):
            item["file_name"] = name.replace("\\", "/")


def read_text(path: Path) -> bytes:
    """The bytes of a file, without a byte order mark. Raises UserError where it cannot be read."""
    require_file(path, "give the COCO JSON of the annotations")
    return path.read_bytes().removeprefix(BYTE_ORDER_MARK)


def _loads(text: bytes) -> Any:
    # Python's json module writes NaN, which JSON forbids: read such files to say which object is wrong
    if b"NaN" in text or b"Infinity" in text:
        return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < 20 else float(digits))
    return orjson.loads(text)


def in_blocks(text: bytes, block_size: int) -> tuple[dict[str, Any], Iterator[list[Any]]]:
    """A JSON with an empty list of annotations, and its annotations in blocks.

    Borders of blocks are guessed from the text and proved by parsing both sides. Raises NotInBlocks, also while
    iterating, where that fails; the file must then be read whole.
    """
    begin = BEGIN.search(text)
    if begin is None:
        raise NotInBlocks
    for end, _ in zip(END.finditer(text, begin.end()), range(TRIES), strict=False):
        try:
            rest = _loads(text[: begin.end()] + text[end.end() :])
        except (ValueError, RecursionError):
            continue
        elsewhere = text.count(b'"annotations"', 0, begin.start()) + text.count(b'"annotations"', end.end())
        sound = isinstance(rest, dict) and {"images", "categories"} <= rest.keys() and rest.get("annotations") == []
        if sound and elsewhere == 0:
            _turn_backslashes(rest["images"])
            return rest, _blocks(text, begin.end(), end.end(), block_size)
    raise NotInBlocks


def _blocks(text: bytes, start: int, end: int, block_size: int) -> Iterator[list[Any]]:
    while start < end:
        borders = [end]
        if end - start > block_size:
            window = BETWEEN.finditer(text, start + block_size - min(block_size, WINDOW), start + block_size)
            borders = [match.start(1) for match in window][::-1][:TRIES]
        for border in borders:
            try:
                items = _loads(b"[" + text[start:border] + b"]")
            except (ValueError, RecursionError):
                continue
            yield items
            start = border + 1
            break
        else:
            raise NotInBlocks
