"""The files of doubts: doubts.json, which `data.exclude` reads, and doubts.csv for a spreadsheet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maskrcnn_train.data.coco.index import AnnotationIndex
from maskrcnn_train.evaluation.coco.ground_truth import Coco
from maskrcnn_train.files import write_rows, write_text
from maskrcnn_train.labelling.suspicion import Doubt


def doubt_entries(
    doubts: Sequence[Doubt], index: AnnotationIndex, ground_truth: Coco, results: Sequence[Coco]
) -> list[dict[str, Any]]:
    """Doubts in words and numbers that mean something outside: ids as the label files have them, boxes x y w h.

    class, proposed: empty where there is no label, or should be none. annotations: what `data.exclude` leaves out.
    score, found: of the detection.
    """
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    files = {image["id"]: image["file_name"] for image in ground_truth["images"]}
    items = dict(zip(index.annotation_ids.tolist(), map(index.item, range(index.num_annotations)), strict=True))
    entries = []
    for rank, doubt in enumerate(doubts, start=1):
        label = None if doubt.label is None else ground_truth["annotations"][doubt.label]
        found = None if doubt.found is None else results[doubt.found]
        twin = None if doubt.twin is None else items[ground_truth["annotations"][doubt.twin]["id"]]
        shown = label or found
        assert shown is not None
        entries.append(
            {
                "rank": rank,
                "suspicion": round(doubt.suspicion, 4),
                "kind": doubt.kind,
                "image": files[doubt.image_id],
                "image_id": doubt.image_id,
                "annotations": [] if label is None else [items[label["id"]]],
                "twin": twin,
                "class": "" if label is None else names[label["category_id"]],
                "proposed": "" if doubt.proposed is None else names[doubt.proposed],
                "box": _rounded(shown["bbox"]),
                "score": None if found is None else round(found["score"], 4),
                "found": None if found is None else _rounded(found["bbox"]),
            }
        )
    return entries


def write_doubts(folder: Path, entries: Sequence[dict[str, Any]], source: str) -> None:
    """Write doubts.json and doubts.csv. source: the labels that the doubts are about."""
    lines = ",\n".join(map(json.dumps, entries))  # a doubt a line: people delete those that are none
    write_text(folder / "doubts.json", f'{{"labels": {json.dumps(source)}, "doubts": [\n{lines}\n]}}\n')
    hidden = ("annotations", "twin", "box", "found", "score")
    rows = [
        {key: value for key, value in each.items() if key not in hidden}
        | {"annotations": " ".join(map(str, each["annotations"])), "twin": each["twin"], "score": each["score"]}
        | dict(zip(("x", "y", "width", "height"), each["box"], strict=True))
        for each in entries
    ]
    write_rows(folder / "doubts.csv", rows)


def _rounded(box: Sequence[float]) -> list[float]:
    return [round(float(value), 2) for value in box]
