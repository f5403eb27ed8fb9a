"""The names of the settings: the keys of a schema, and the nearest to one that is mistyped."""

import difflib
from dataclasses import is_dataclass
from typing import Any, cast, get_args, get_type_hints


def nearest(name: str, names: list[str]) -> str:
    """The end of a message: "; did you mean NAME?", or nothing."""
    # the second: the right leaf under a wrong section, e.g. nms.post_train
    matches = difflib.get_close_matches(name, names, n=1) or [
        known for known in names if known.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]
    ]
    return f"; did you mean {matches[0]}?" if matches else ""


def schema_keys(schema: type[Any], prefix: str = "") -> list[str]:
    """Every dotted key of a schema, including sections."""
    found = []
    for name, kind in get_type_hints(schema).items():
        sections = filter(is_dataclass, (kind, *get_args(kind)))  # one that may be None is a union
        inside = [key for each in sections for key in schema_keys(cast(type[Any], each), f"{prefix}{name}.")]
        found += [prefix + name, *inside]
    return found
