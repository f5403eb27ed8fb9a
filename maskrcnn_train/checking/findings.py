"""What `check` finds: how bad it is, what and where, every item by name, and the settings that solve it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning", "advice"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "advice")
SHOWN = 3  # items named in a table
LONGEST = 40  # letters of such a name


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
        return {
            "severity": self.severity,
            "kind": self.kind,
            "what": self.what,
            "split": self.split,
            "count": len(self.items),
            "noun": self.noun,
            "items": [item if isinstance(item, str) else int(item) for item in self.items],
            "override": self.override,
            "fix": self.fix,
        }


def _short(name: str) -> str:
    """A name, or a pair of names, that fits a table: exported files are often named by a hash."""
    parts = name.split(" = ")
    return " = ".join(part if len(part) <= LONGEST else f"{part[: LONGEST - 16]}...{part[-13:]}" for part in parts)


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then advice."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def percent(part: int, whole: int) -> str:
    return f"{100 * part / max(whole, 1):.0f} %"
