"""The names of the settings: the keys of a schema, and the nearest to one that is mistyped."""

import difflib
from dataclasses import fields, is_dataclass
from typing import Any, Optional, cast, get_args, get_type_hints


def nearest(name: str, names: list[str]) -> str:
    """The end of a message: "; did you mean NAME?", or nothing."""
    # the second: the right leaf under a wrong section, e.g. nms.post_train
    matches = difflib.get_close_matches(name, names, n=1) or [
        known for known in names if known.rsplit(".", 1)[-1] == name.rsplit(".", 1)[-1]
    ]
    return f"; did you mean {matches[0]}?" if matches else ""


def schema_keys(schema: type[Any], prefix: str = "", *, texts: bool = False) -> list[str]:
    """Every dotted key of a schema, including sections; or those that take any text, such as a path."""
    found, kinds = [], get_type_hints(schema)
    for each in fields(schema):
        kind, rule = kinds[each.name], each.metadata
        sections = filter(is_dataclass, (kind, *get_args(kind)))  # one that may be None is a union
        if not texts or "paths" in rule or (kind in (str, Optional[str]) and not rule):
            found.append(prefix + each.name)
        for section in sections:
            found += schema_keys(cast(type[Any], section), f"{prefix}{each.name}.", texts=texts)
    return found
