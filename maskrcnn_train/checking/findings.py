"""What `check` finds: how bad it is, what and where, every item by name, and the settings that solve it."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from maskrcnn_train.settings.overrides import overrides_text

Severity = Literal["error", "warning", "advice"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "advice")
SHOWN = 3  # items named in a table
LONGEST = 40  # letters of such a name
NARROWEST = 100  # columns of the table


@dataclass
class Finding:
    """One fault, doubt or advice.

    severity: error, the training would stop or its scores would mean nothing; warning, it runs but not as it should;
    advice, it would likely be better. kind: a short fixed name, for programs. split: where; "" for settings.
    noun, items: all that is concerned, by id or name: ("annotation", [17, 20]). override: settings that solve it,
    {"data.on_bad_image": "skip"}; fix: what to do, in words.
    """

    severity: Severity
    kind: str
    what: str
    split: str = ""
    noun: str = ""
    items: Sequence[int | str] = ()
    override: dict[str, Any] = field(default_factory=dict)
    fix: str = ""

    @property
    def examples(self) -> str:
        """The first items in words: annotation 17, 20, 21, ..."""
        shown = ", ".join(_short(str(item)) for item in self.items[:SHOWN])
        return f"{self.noun} {shown}{', ...' if len(self.items) > SHOWN else ''}" if shown else ""

    def to_plain(self) -> dict[str, Any]:
        """For findings.json."""
        items = [item if isinstance(item, str) else int(item) for item in self.items]
        return asdict(self) | {"items": items, "count": len(items)}


def _short(name: str) -> str:
    """A name, or a pair of names, that fits a table: exported files are often named by a hash."""
    parts = name.split(" = ")
    return " = ".join(part if len(part) <= LONGEST else f"{part[: LONGEST - 16]}...{part[-13:]}" for part in parts)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then advice."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.0f} %"


def findings_table(findings: Sequence[Finding], width: int = 140) -> str:
    """One row a finding: severity, split, what, how many, the first of them, and what answers it. Long cells wrap."""
    from maskrcnn_train.reporting.terminal.tables import as_text

    grid = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, ratio in (("", None), ("split", None), ("found", 5), ("count", None), ("which", 4), ("answer", 5)):
        grid.add_column(name, ratio=ratio, justify="right" if name == "count" else "left", overflow="fold")
    for finding in findings:
        count = str(len(finding.items)) if len(finding.items) else ""
        answer = "; ".join(part for part in (overrides_text(finding.override), finding.fix) if part)
        cells = finding.severity, finding.split, finding.what, count, finding.examples, answer
        grid.add_row(*map(Text, cells))
    return as_text(grid, max(width, NARROWEST)).strip("\n")
