"""`check` and `split` on 500 images: seconds of each command, started as a person starts it.

MASKRCNN_TRAIN_BENCH_DATA=FOLDER python benchmarks/check_speed.py [--images 500] [--rounds 3]

The data set's own images are listed again and again until there are enough; each listing has a file of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from sides import data_root, in_turn, machine


def enlarged(source: Path, target: Path, count: int) -> None:
    """A split of `count` images: links to those of `source`, with all their annotations."""
    content = json.loads((source / "_annotations.coco.json").read_text())
    own: dict[int, list[dict[str, object]]] = {}
    for annotation in content["annotations"]:
        own.setdefault(annotation["image_id"], []).append(annotation)
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    target.mkdir()
    for number in range(count):
        image = content["images"][number % len(content["images"])]
        name = f"{number}{Path(image['file_name']).suffix}"
        os.symlink((source / image["file_name"]).resolve(), target / name)
        images.append(image | {"id": number, "file_name": name})
        for annotation in own.get(image["id"], []):
            annotations.append(annotation | {"id": len(annotations), "image_id": number})
    content |= {"images": images, "annotations": annotations}
    (target / "_annotations.coco.json").write_text(json.dumps(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        num_val = arguments.images // 5
        enlarged(data_root() / "train", root / "train", arguments.images - num_val)
        enlarged(data_root() / "valid", root / "valid", num_val)
        os.environ["MASKRCNN_TRAIN_CACHE"] = str(root / "cache")

        def command(name: str, *overrides: str) -> None:
            words = [sys.executable, "-m", f"maskrcnn_train.{name}", *overrides]
            done = subprocess.run(words, cwd=root, capture_output=True, text=True)
            assert done.returncode in (0, 1), done.stderr  # 1: listed twice, so the same picture is in a split twice

        data = ("data=roboflow", f"data.root={root}")
        file = f"annotations={root}/train/_annotations.coco.json"
        sides = {
            "check": lambda: command("check", "timing=false", *data),
            "check decode=false": lambda: command("check", "timing=false", *data, "decode=false"),
            "split": lambda: command("split", file),
            "split duplicates=true": lambda: command("split", file, "duplicates=true", f"images={root}/train"),
        }
        for name, seconds in in_turn(sides, arguments.rounds).items():
            print(f"{name:22} {sorted(seconds)[len(seconds) // 2]:6.1f} s   ({min(seconds):.1f} to {max(seconds):.1f})")


if __name__ == "__main__":
    main()
