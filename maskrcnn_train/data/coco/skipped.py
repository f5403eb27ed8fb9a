"""What is not used of labels as they stand, and why."""

from collections.abc import Iterator
from dataclasses import dataclass, field

EXAMPLES = 5  # named for each reason in `SkippedTable`


@dataclass
class SkippedRow:
    """The annotations or images that are not used as they stand for one reason.

    dropped: True where they are left out, False where they were repaired or only deserve a look.
    ids: their ids in the JSON, or where other files have them; examples: the first few in words.
    """

    reason: str
    dropped: bool
    ids: list[int | str] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.ids)


@dataclass
class SkippedTable:
    """All that is not used of a JSON as it stands, by reason. Nothing is dropped without a row here."""

    rows: dict[str, SkippedRow] = field(default_factory=dict)

    def add(self, reason: str, item_id: int | str, example: str, *, dropped: bool = True) -> None:
        row = self.rows.setdefault(reason, SkippedRow(reason, dropped))
        row.ids.append(item_id)
        if len(row.examples) < EXAMPLES:
            row.examples.append(example)

    def __iter__(self) -> Iterator[SkippedRow]:
        """Rows with losses first, then the most frequent first."""
        return iter(sorted(self.rows.values(), key=lambda row: (not row.dropped, -row.count, row.reason)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_dropped(self) -> int:
        """Annotations and images that are left out."""
        return sum(row.count for row in self.rows.values() if row.dropped)
