"""What a newcomer does in the first hour, command by command, on a small data set of their own.

    .venv/bin/python tests/walks.py [NUMBER ...]

plays the walks and prints a line for each; the exit code is 1 if one does not end as it should. Nothing is trained for
long: the questions are what is said, what is written, and whether the printed command works.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from small_coco import small_coco, write_images, write_json
from tiny import TINY

SMALL = ["backbone=resnet10", "data.min_size=64", "data.max_size=64", "trainer.max_steps=2", "trainer.num_workers=0"]
SMALL += ["roi_head=fc2", "rpn.nms.post_train=50", "rpn.nms.post_test=50", "evaluation.bootstrap=0"]
OFFLINE = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}  # nobody listens there


@dataclass
class Said:
    """How a command ended. text: standard output and error."""

    code: int
    text: str
    seconds: float


def say(module: str, *arguments: str, env: dict[str, str] | None = None) -> Said:
    """Run `python -m maskrcnn_train.<module>` (bare: the training) in the current folder."""
    began = time.perf_counter()
    name = "maskrcnn_train" + (f".{module}" if module else "")
    done = subprocess.run(
        [sys.executable, "-m", name, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **(env or {})}, timeout=900,
    )  # fmt: skip
    return Said(done.returncode, done.stdout, time.perf_counter() - began)


def good(module: str, *arguments: str) -> str:
    said = say(module, *arguments)
    assert said.code == 0, said.text
    return said.text


def refused(module: str, *arguments: str, env: dict[str, str] | None = None) -> str:
    """The one line of a mistake, told before torch is imported."""
    said = say(module, *arguments, env=env)
    lines = [line for line in said.text.splitlines() if line.startswith("error: ")]
    assert said.code == 2, said.text
    assert len(lines) == 1, said.text
    assert "Traceback" not in said.text
    return lines[0]


def own_data(folder: Path) -> list[str]:
    """A Roboflow export of 12 + 4 pictures with doors and windows; the settings that read it."""
    for name, count in (("train", 12), ("valid", 4)):
        coco = small_coco(count)
        write_images(folder / "data" / name, coco, seed=count)
        write_json(folder / "data" / name / "_annotations.coco.json", coco)
    return ["data=roboflow", f"data.root={folder / 'data'}"]


def trained(folder: Path, data: list[str], *more: str) -> Path:
    good("", *data, *SMALL, *more, f"output_dir={folder / 'run'}")
    return folder / "run/checkpoints/last.pt"


def walk_1(folder: Path) -> None:
    """The command that `check` prints is the training with its advice, and runs."""
    given = [
        "experiment=scratch",
        *own_data(folder),
        "trainer.max_steps=2",
        "trainer.num_workers=0",
        "optimizer.lr=1.0",
    ]
    text = good("check", *given, f"output_dir={folder / 'check'}", "timing=false")
    (command,) = re.findall(r"^python -m maskrcnn_train (.*)$", text, flags=re.MULTILINE)
    words = shlex.split(command)
    assert "experiment=scratch" in words
    assert "optimizer.lr=0.002" in words
    assert "is given 2 times" not in good("", *words, f"output_dir={folder / 'advised'}")
    assert "is given 2 times" in good("", *given, "seed=1", "seed=2", f"output_dir={folder / 'twice'}")


def walk_2(folder: Path) -> None:
    """Results of `predict` on a folder are scored against the folder's own JSON as the checkpoint is."""
    data = own_data(folder)
    checkpoint = trained(folder, data, "roi_head.score_threshold=0")
    good("predict", f"checkpoint={checkpoint}", f"images={folder / 'data/valid'}", f"output_dir={folder / 'found'}",
         "score_threshold=0")  # fmt: skip
    truth = folder / "data/valid/_annotations.coco.json"
    results = f"predictions={folder / 'found/predictions.json'}"
    good("evaluate", results, f"annotations={truth}", f"output_dir={folder / 'a'}", "evaluation.bootstrap=0")
    good("evaluate", f"checkpoint={checkpoint}", f"output_dir={folder / 'b'}", "evaluation.bootstrap=0")
    of_file, of_checkpoint = (json.loads((folder / name / "metrics.json").read_text()) for name in "ab")
    assert of_file["bbox/AP"] == of_checkpoint["bbox/AP"]
    assert (folder / "found/images.json").exists()


def walk_3(folder: Path) -> None:
    """README activates `.venv` before its first `python`."""
    text = (Path(__file__).parents[1] / "README.md").read_text()
    assert text.index("source .venv/bin/activate") < text.index("    python -m maskrcnn_train")


def walk_4(folder: Path) -> None:
    """Own data without a network: scratch trains, the error of a download names it, no identity norms."""
    data = own_data(folder)
    good("", "experiment=scratch", *data, "trainer.max_steps=2", f"output_dir={folder / 'run'}")
    env = {**OFFLINE, "TORCH_HOME": str(folder / "torch")}
    line = refused("", "experiment=finetune", *data, f"output_dir={folder / 'x'}", env=env)
    assert "experiment=scratch" in line
    assert "set backbone.norm=batch" in refused("", "experiment=finetune", "weights=none", *data)


def walk_5(folder: Path) -> None:
    """A folder given in Hydra's way is answered; a backbone without COCO weights too."""
    assert "output_dir" in refused("", *own_data(folder), f"hydra.run.dir={folder / 'here'}")
    assert "resnet50" in refused("", *own_data(folder), "experiment=finetune", "backbone=resnet18")


def walk_6(folder: Path) -> None:
    """Classes are chosen, joined and renamed, and a checkpoint knows it."""
    data = [*own_data(folder), "data.merge={opening:[door,window]}"]
    checkpoint = trained(folder, data)
    assert json.loads((folder / "run/classes.json").read_text())["names"] == ["opening"]
    text = good("evaluate", f"checkpoint={checkpoint}", f"output_dir={folder / 'e'}", "evaluation.bootstrap=0")
    assert "opening" in text
    assert "knob" in refused("", *own_data(folder), "data.classes=[knob]")


def walk_7(folder: Path) -> None:
    """Two JSONs with two folders of pictures are one data set, with ids made good."""
    own_data(folder)
    parts = [folder / "data" / name for name in ("train", "valid")]
    files = ",".join(str(part / "_annotations.coco.json") for part in parts)
    joined = ["data=custom", f"data.train.annotations=[{files}]", f"data.train.images=[{parts[0]},{parts[1]}]"]
    trained(folder, [*joined, "data.split.fractions=[0.75,0.25]"])
    data = json.loads((folder / "run/data.json").read_text())
    assert sum(split["images"] for split in data["splits"].values()) == 16, data


def walk_8(folder: Path) -> None:
    """Slips of the hand are one line each, told at once."""
    assert re.fullmatch(r"maskrcnn_train \d+\.\d+\.\d+\s*", good("", "--version"))
    data = own_data(folder)
    slips = {
        "maskrcnn_train.check": ("chek",),
        "optimizer.lr=0.01": ("", "--lr", "0.01"),
        "is a folder": ("evaluate", f"predictions={folder}", f"annotations={folder}"),
        "does not exist": ("", "data=roboflow", f"data.root={folder / 'nowhere'}"),
        "did you mean rpn.nms.post_train": ("", *data, "rpn.nms.post_tran=5"),
    }
    for words, arguments in slips.items():
        said = say(*arguments)
        assert words in said.text, said.text
        assert "Traceback" not in said.text
        assert said.seconds < 10, (arguments, said.seconds)  # a busy machine; benchmarks have the figures


def walk_9(folder: Path) -> None:
    """The page of a run has a viewport for phones and names the step of its scores."""
    trained(folder, own_data(folder))
    page = (folder / "run/report.html").read_text()
    assert 'name="viewport"' in page
    assert re.search(r"step 2\b", page)


def walk_10(folder: Path) -> None:
    """A search whose scores are all zero recommends nothing."""
    small = [*TINY, f"data.root={folder / 'shapes'}", "trainer.max_steps=1", "evaluation.bootstrap=0"]
    text = good("tune", *small, "optimizer.lr=1e-9,2e-9", "trials=2", f"output_dir={folder / 'search'}")
    assert "best settings" not in text.lower() or "every score is 0" in text.lower(), text


def walk_11(folder: Path) -> None:
    """Each command shows its help with commands to copy."""
    for name in ("", "check", "split", "convert", "evaluate", "predict", "export", "report", "tune", "analyze"):
        assert "python -m maskrcnn_train" in good(name, "--help")


def walk_12(folder: Path) -> None:
    """A training says how long it will take, by its first steps."""
    text = good("", *TINY, f"data.root={folder / 'shapes'}", "trainer.max_steps=60", f"output_dir={folder / 'run'}")
    assert "the training at this speed: 60 steps take about" in text


WALKS: dict[str, Callable[[Path], None]] = {
    name.removeprefix("walk_"): walk for name, walk in list(globals().items()) if name.startswith("walk_")
}


def main() -> int:
    failed = 0
    for number in sys.argv[1:] or WALKS:
        walk = WALKS[number]
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="walk-") as name:
            os.chdir(name)
            try:
                walk(Path(name))
                how = "as it should"
            except Exception:
                how, failed = traceback.format_exc(), failed + 1
            os.chdir("/")
        print(f"{number:>2}  {time.perf_counter() - began:5.0f} s  {walk.__doc__}  {how}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
