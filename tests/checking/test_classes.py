from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from maskrcnn_train import load_config
from maskrcnn_train.checking.settings import quick_check
from maskrcnn_train.data.splits.splitting import read_splits


def test_a_class_on_few_images_is_answered_by_repeating_them(tmp_path: Path) -> None:
    images, annotations = [], []
    for number in range(40):
        Image.new("RGB", (40, 40)).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 40, "height": 40})
        for category in (1, 2) if number < 30 else (1,) if number < 39 else (1, 3):
            box = {"bbox": [5, 5, 20, 20], "area": 400, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]], "iscrowd": 0}
            annotations.append({"id": len(annotations), "image_id": number, "category_id": category, **box})
    categories = [{"id": number, "name": name} for number, name in ((1, "wall"), (2, "door"), (3, "bell"))]
    file = tmp_path / "all.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    where = [f"data.{split}.{key}={value}" for split in ("train", "val")
             for key, value in (("images", tmp_path), ("annotations", file))]  # fmt: skip

    def found(*overrides: str) -> list[tuple[list[object], dict[str, object]]]:
        config = load_config(["data=custom", *where, *overrides])
        findings = quick_check(config, read_splits(config))
        return [(list(each.items), each.override) for each in findings if each.kind == "classes-uneven"]

    assert found() == [(["bell"], {"data.repeat_threshold": 0.4})]
    assert found("data.repeat_threshold=0.4") == []
