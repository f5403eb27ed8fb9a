"""What README.md and docs/*.md show: their commands, their code, and the settings they name."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from maskrcnn_train.settings.compose import load_command_config
from maskrcnn_train.settings.presets import conf_dir

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = sorted(path.stem for path in conf_dir().glob("*.yaml"))


@dataclass(frozen=True)
class Command:
    """One command line. name: its config in conf/, `train` for the bare module."""

    name: str
    overrides: tuple[str, ...]
    multirun: bool = False
    config_dir: str | None = None

    def __str__(self) -> str:
        return " ".join([self.name, *(["-m"] if self.multirun else []), *self.overrides])


@dataclass(frozen=True)
class Declared:
    """A command as its module declares it to `run_command`."""

    module: ModuleType
    schema: type[Any]
    check_rules: Callable[[Any], list[str]]
    load: Callable[..., tuple[Any, list[str]]]


def declared(name: str) -> Declared:
    module = importlib.import_module("maskrcnn_train.__main__" if name == "train" else f"maskrcnn_train.{name}")
    with patch.object(module, "run_command") as run_command:
        module.main()
    given, schema, check_rules, *_ = run_command.call_args.args
    assert given == name
    load = run_command.call_args.kwargs.get("load", load_command_config)
    return Declared(module, schema, check_rules, load)


def code_lines(text: str) -> Iterator[tuple[str, str]]:
    """(language, line) of every fenced or indented line of code, continued lines joined."""
    language, joined = None, ""
    for line in text.splitlines():
        if line.startswith("```"):
            language = (line[3:] or "text") if language is None else None
        elif language is not None or line.startswith("    "):
            joined += line.strip()
            if joined.endswith("\\"):
                joined = joined[:-1]
                continue
            yield language or "text", joined
            joined = ""


def commands(text: str) -> Iterator[Command]:
    """Every `... -m maskrcnn_train[.command] ...` of a page's code."""
    for language, line in code_lines(text):
        if language != "python" and "-m maskrcnn_train" in line:
            yield parse(line)


def parse(line: str) -> Command:
    """The command of one line; what stands before `-m maskrcnn_train` (python, torchrun, srun) is not looked at."""
    words = shlex.split(line, comments=True)
    start = next(n for n, word in enumerate(words) if word.startswith("maskrcnn_train") and words[n - 1] == "-m")
    name = words[start].partition(".")[2] or "train"
    rest = words[start + 1 :]
    config_dir = None
    if "--config-dir" in rest:
        index = rest.index("--config-dir")
        config_dir = rest[index + 1]
        del rest[index : index + 2]
    return Command(name, tuple(word for word in rest if word != "-m"), "-m" in rest, config_dir)


def documented() -> list[Command]:
    """The commands of all pages, each once."""
    return list(dict.fromkeys(command for page in PAGES for command in commands(page.read_text())))


def quickstart() -> Command:
    """What scripts/quickstart runs once it has installed."""
    lines = (ROOT / "scripts/quickstart").read_text().splitlines()
    (line,) = (line for line in lines if "-m maskrcnn_train" in line)
    return parse(line.replace('"$@"', ""))


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def quoted(page: Path) -> Iterator[str]:
    """Everything in `backticks` outside code that speaks of this project."""
    fenced = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in fenced.splitlines():
        if line.startswith("    "):
            continue
        if page.name == "migrating.md" and line.startswith("| "):
            line = line.rstrip(" |").rsplit(" | ", 1)[-1]  # the other columns are the names of others
        yield from re.findall(r"`([^`]+)`", line)


def make_options(command: Command, folder: Path, known: dict[str, list[str]]) -> None:
    """The files that a command expects in its --config-dir: an empty option for each that conf/ has not."""
    for text in command.overrides:
        group, _, value = text.lstrip("+").partition("=")
        if "." in group:
            continue
        for option in value.strip("[]").split(","):
            if group in ("experiment", "budgets") and option not in known.get(group, []):
                path = folder / group / f"{option}.yaml"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("# @package _global_\n{}\n")
