"""README.md and docs/*.md: every command composes or runs, every key, link and imported name exists."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from documented import (
    COMMANDS,
    PAGES,
    ROOT,
    Command,
    code_lines,
    commands,
    declared,
    documented,
    make_options,
    parse,
    python_blocks,
    quickstart,
    quoted,
)
from PIL import Image
from worked_example import OTHER_FILES, SMALL, example_folder

from maskrcnn_train.cli.command import RETRY
from maskrcnn_train.cli.sweep import jobs_of
from maskrcnn_train.prediction.video import VideoWriter
from maskrcnn_train.settings.names import schema_keys
from maskrcnn_train.settings.presets import groups

DOCUMENTED = documented()
FILE_ENDINGS = ("csv", "png", "json", "jsonl", "py", "pt", "yaml", "txt", "html", "md", "log", "pkl", "onnx", "weight")
# functions of architecture.md, the example of CONTRIBUTING.md
NO_SETTINGS = ("rpn.predict", "rpn.propose", "roi_head.label_smoothing")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def covering(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Enough jobs of a sweep to see every value once: composing all combinations would take long."""
    seen: set[str] = set()
    kept = []
    for job in jobs:
        if not seen.issuperset(job):
            kept.append(list(job))
            seen.update(job)
    return kept


@pytest.mark.parametrize("command", DOCUMENTED, ids=str)
def test_a_command_of_the_docs_composes_without_a_warning(command: Command, tmp_path: Path) -> None:
    known, folder = declared(command.name), tmp_path / "a person's <folder>"
    make_options(command, folder, groups())
    config_dir = None if command.config_dir is None else str(folder)
    jobs = [list(command.overrides)]
    if command.multirun:
        jobs = covering(jobs_of(command.name, known.schema, jobs[0], config_dir))
        assert len(jobs) > 1
    for job in jobs:
        _, warnings = known.load(command.name, known.schema, known.check_rules, job, config_dir)
        assert warnings == []


def test_every_command_line_of_the_docs_is_found() -> None:
    for page in PAGES:
        text = re.sub(r"`[^`\n]+`", "", page.read_text())
        assert len(list(commands(text))) == text.count("-m maskrcnn_train"), page.name
    assert {command.name for command in DOCUMENTED} == set(COMMANDS)
    line = "srun torchrun --nnodes=2 -m maskrcnn_train.predict --config-dir D \"images='*.jpg'\" a=b  # why"
    assert parse(line) == Command("predict", ("images='*.jpg'", "a=b"), config_dir="D")


@every_page
def test_every_key_that_a_page_names_exists(page: Path) -> None:
    keys = {key for name in COMMANDS for key in schema_keys(declared(name).schema)}
    keys.add(RETRY)
    sections = {key.split(".")[0] for key in keys if "." in key}
    options = groups()
    for text in quoted(page):
        dotted = re.fullmatch(r"([a-z_]+(?:\.[a-z_0-9]+)+)(\.\*)?", text)
        if dotted and text.split(".")[0] in sections and text not in NO_SETTINGS and not text.endswith(FILE_ENDINGS):
            assert dotted[1] in keys, text
        for key, value in re.findall(r"(?<![\w./])\+?([a-z_]+(?:[./][a-z_0-9]+)*)=(\S*)", text):
            assert key in keys or key in options or text == "key=value" or value == "True", text  # True: Python's
            for option in re.findall(r"\w+", value) if key in options and key not in ("experiment", "budgets") else []:
                assert option in options[key], text


@every_page
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@every_page
def test_the_python_of_a_page_imports_what_exists(page: Path) -> None:
    for block in python_blocks(page.read_text()):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("maskrcnn_train"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def prose(page: Path) -> Iterator[str]:
    """The lines of a page outside code blocks and tables, without the targets of links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in text.splitlines():
        if not line.startswith(("|", "    ")):
            yield re.sub(r"\]\([^)]*\)", "]", line)


@every_page
def test_the_lines_of_a_page_have_at_most_100_columns(page: Path) -> None:
    for line in prose(page):
        assert len(line) <= 100, line


def test_the_cells_of_the_architecture_have_at_most_200_characters() -> None:
    for line in (ROOT / "docs/architecture.md").read_text().splitlines():
        assert all(len(cell) <= 200 for cell in line.split("|")) or not line.startswith("|"), line


def test_the_architecture_shows_the_layers_that_are_checked() -> None:
    contract = (ROOT / ".importlinter").read_text().split("layers =\n")[1].split("\n\n")[0]
    layers = [line.strip().replace(" | ", "  ") for line in contract.splitlines()]
    picture = (ROOT / "docs/architecture.md").read_text().split("```")[1]
    drawn = [re.sub(r"/|\.py", "", re.split(r" {3,}", line)[0]) for line in picture.strip().splitlines()]
    assert drawn == layers


def test_the_quickstart_ends_in_the_environment_that_the_other_commands_need() -> None:
    lines = [line for page in PAGES[:2] for _, line in code_lines(page.read_text())]
    assert lines.index("source .venv/bin/activate     # so that `python` below is the one with the package") == 1
    assert "scripts/install dev && source .venv/bin/activate" in lines
    assert (ROOT / "scripts/install").read_text().count("-m venv .venv") == 1


def test_readme_and_a_page_tell_of_every_command() -> None:
    readme = (ROOT / "README.md").read_text()
    for name in COMMANDS:
        assert f"`.{name}`" in readme or name == "train"


# ---------------------------------------------------------------- commands that are really run


def run(command: Command, monkeypatch: pytest.MonkeyPatch, extra: Sequence[str] = ()) -> None:
    """As from the shell, in this process."""
    flags = [*(["-m"] if command.multirun else [])]
    if command.config_dir is not None:
        flags += ["--config-dir", command.config_dir]
    monkeypatch.setattr(sys, "argv", [command.name, *flags, *command.overrides, *extra])
    code: object = 0
    try:
        declared(command.name).module.main()
    except SystemExit as end:
        code = end.code
    assert code in ((0, 1) if command.name == "check" else (0,)), command  # 1: it found errors in the example


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_commands_that_compose(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    declared(name).module.main()
    page = capsys.readouterr().out
    shown = [parse(re.sub(r"(?<=\S) {2,}\S.*", "", line)) for line in page.splitlines() if "-m maskrcnn_train" in line]
    assert shown
    for command in set(shown) - set(DOCUMENTED):
        if not command.multirun:
            known = declared(command.name)
            known.load(command.name, known.schema, known.check_rules, list(command.overrides), None)


def is_cheap(command: Command) -> bool:
    """It runs no model: a split, a check of the annotations, the score of a results file."""
    text = str(command)
    if command.name == "check":
        return "decode=false" in text
    return command.name == "split" or "annotations=instances" in text


CHEAP = [command for command in DOCUMENTED if is_cheap(command)]
LONG = [command for command in DOCUMENTED if not is_cheap(command) and "replay=" not in str(command)]


@pytest.mark.parametrize("command", CHEAP, ids=str)
def test_a_cheap_command_of_the_docs_runs(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    run(command, monkeypatch)
    assert any((tmp_path / f"runs/{command.name}").glob("*/*.*")) or any(tmp_path.glob("runs/*/*/fold_0/train.json"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data in every layout, runs named RUN, A and B, and an analysis of RUN."""
    folder = tmp_path_factory.mktemp("docs")
    example_folder(folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        first = Command("train", ("data=roboflow", "data.root=FOLDER", "backbone=resnet18", "output_dir=RUN"))
        run(first, patched, SMALL["train"])
        for name in ("A", "B"):
            (folder / name).symlink_to("RUN")
        run(Command("convert", ("data=roboflow", "data.root=FOLDER", "format=cvat", "output_dir=CVAT")), patched)
        run(
            Command("analyze", ("checkpoint=RUN/checkpoints/best.pt", "output_dir=ANALYSIS")), patched, SMALL["analyze"]
        )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", [*LONG, quickstart()], ids=str)
def test_a_long_command_of_the_docs_runs(command: Command, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    if "format=onnx" in command.overrides:
        pytest.importorskip("onnxruntime", reason="needs the extra export")
    if "images=clip.mp4" in command.overrides:
        pytest.importorskip("av", reason="needs the extra video")
        with closing(VideoWriter(trained / "clip.mp4", 5)) as writer:
            writer.add(Image.new("RGB", (64, 64)))
    if command.config_dir is not None:
        make_options(command, trained / command.config_dir, groups())
    if "hydra/launcher=submitit_slurm" in command.overrides and shutil.which("srun") is None:
        pytest.skip("needs SLURM")
    if "hydra/launcher=ray" in command.overrides:
        pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs hydra-ray-launcher")
    extra = list(SMALL.get(command.name, []))
    extra += [text for word in command.overrides for text in OTHER_FILES.get(word, [])]
    if any(text.startswith("weights.path=") for text in command.overrides):
        extra.append("weights.path=null")
    if any(text.startswith("tta.scales=") for text in command.overrides):
        extra.append("tta.scales=[64,96]")
    if "resume=RUN" in command.overrides:
        extra = []
    run(command, monkeypatch, extra)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    for page in (ROOT / "README.md", ROOT / "docs/predict.md"):
        for block in python_blocks(page.read_text()):
            block = block.replace("load_config([", f"load_config([*{SMALL['train']!r}, ")
            block = block.replace("runs/.../checkpoints", "RUN/checkpoints")
            block = block.replace("a.jpg", "photos/0_tile0.jpg").replace("large.tif", "photos/0_tile1.jpg")
            exec(compile(block, page.name, "exec"), {})


def test_parts_of_ones_own_train_without_a_change_of_the_package() -> None:
    (block,) = python_blocks((ROOT / "docs/recipes.md").read_text())
    names: dict[str, Any] = {}
    exec(compile(block, "recipes.md", "exec"), names)
    assert names["losses"]["loss_box_reg"] > 0
    assert names["losses"].keys() == {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # theirs
@pytest.mark.parametrize("tracker", ["wandb", "mlflow"])
def test_another_tracker_gets_the_scores(tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip(tracker, reason=f"needs {tracker}, which no extra installs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    (block,) = (each for each in python_blocks((ROOT / "docs/training.md").read_text()) if f"import {tracker}" in each)
    given = [*SMALL["train"], f"data.root={tmp_path / 'shapes'}"]
    names: dict[str, Any] = {}
    exec(compile(re.sub(r"\[\"experiment=.*?\]", repr(given), block), "training.md", "exec"), names)
    if tracker == "mlflow":
        (logged,) = module.search_runs(output_format="list")
        assert logged.data.metrics["segm/AP"] == names["result"].metrics["segm/AP"]
    else:
        (stored,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
        assert b"loss/total" in stored.read_bytes()
        assert list(stored.parent.glob("files/media/images/*.png"))
