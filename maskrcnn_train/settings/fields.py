"""What a field of the schema is: a section of the settings, and the options or the range of a value."""

from dataclasses import Field, dataclass, field
from typing import Any, ClassVar, dataclass_transform


def one_of(*options: str | int | None) -> Any:
    """A field that takes one of a few values."""
    return field(metadata={"options": options})


def between(low: float, high: float | None = None, *, above: bool = False) -> Any:
    """A number, or a list of numbers, with low <= value <= high, or low < value with `above`; None: no limit."""
    return field(metadata={"low": low, "high": high, "open": above})


def positive(high: float | None = None) -> Any:
    return between(0, high, above=True)


def paths() -> Any:
    """A path, a list of paths or null."""
    return field(metadata={"paths": True})


def fraction() -> Any:
    return between(0, 1)


@dataclass_transform(kw_only_default=True)
class Section:
    """A section of the settings; every subclass is a dataclass with keywords only."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init_subclass__(cls) -> None:
        dataclass(kw_only=True)(cls)
