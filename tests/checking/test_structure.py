from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from maskrcnn_train.checking.structure import without_faults
from maskrcnn_train.data.coco.reader import read_coco

SOUND = {"file_name": "a.png", "name": "door"}


@pytest.mark.parametrize(
    ("key", "value"), [("file_name", "a\nb.png"), ("file_name", "a\ud800.png"), ("name", "\ud800")]
)
def test_a_text_that_reading_refuses_is_named_and_left_out(key: str, value: str, tmp_path: Path) -> None:
    texts = SOUND | {key: value}
    content = {
        "images": [{"id": 7, "width": 4, "height": 4, "file_name": texts["file_name"]}],
        "categories": [{"id": 7, "name": texts["name"]}],
        "annotations": [],
        "info": math.nan,  # only Python's own reader, which such files need, takes half a surrogate pair
    }
    file = tmp_path / "one.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"7 in one\.json has"):
        read_coco(file)
    rest, findings = without_faults(content, "train")
    assert [list(finding.items) for finding in findings] == [[7]]
    file.write_text(json.dumps(rest))
    read_coco(file)
