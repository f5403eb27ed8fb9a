"""JSON that a stranger may have made, checked against the form that its reader expects."""

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from maskrcnn_train.data.coco.entries import shown
from maskrcnn_train.settings.errors import UserError

SCALARS: dict[Any, set[type]] = {float: {float, int}, int: {int}, str: {str}, bool: {bool}}
WORDS = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", list: "a list"}
hints = cache(get_type_hints)


def fitted(form: Any, plain: Any, where: str) -> Any:
    """What JSON holds in the `form` of a dataclass, of {key: form} with keys that must be there, {str: form} or [form].

    form: also list, dict and Optional of one, an array of whole numbers, str, int, float, bool. where: the file.
    Raises UserError for the first value that is missing or of another type.
    """
    form = getattr(form, "__value__", form)  # numpy's NDArray is an alias in Python 3.12
    kind, inner = get_origin(form) or form, get_args(form)
    if isinstance(form, list):
        kind, inner = list, (form[0],)
    elif isinstance(form, dict):
        kind, inner = dict, (str, form[str]) if str in form else ()
    if kind in (Union, UnionType):
        return None if plain is None else fitted(inner[0], plain, where)
    if kind is np.ndarray:
        rows = fitted(list[list[int]], plain, where)
        if any(len(row) != len(rows) for row in rows):
            raise UserError(f"{where} is no square table; make the file again or remove it")
        return np.array(rows, np.int64)
    if isinstance(plain, list) and kind is list:
        each_form = inner[0]
        if not isinstance(each_form, dict) and set(map(type, plain)) <= SCALARS.get(each_form, set()):
            return plain  # long ones at once
        return [fitted(each_form, each, f"{where}, row {row}") for row, each in enumerate(plain)]
    if isinstance(plain, dict) and kind is dict and inner:
        return {key: fitted(inner[1], value, f"{where}, {key}") for key, value in plain.items()}
    if isinstance(plain, dict) and (kind is dict or is_dataclass(form)):
        return _of_keys(form, plain, where)
    if type(plain) in SCALARS.get(kind, set()):
        return plain
    word = WORDS.get(kind, "an object")
    raise UserError(f"{where} is {shown(plain)} rather than {word}; make the file again or remove it")


def _of_keys(form: Any, plain: dict[str, Any], where: str) -> Any:
    """Keys without a form are left out of a dataclass and kept in a dict; a field may have a default."""
    forms = form if isinstance(form, dict) else hints(form)
    known = fields(form) if is_dataclass(form) else ()
    defaults = {each.name for each in known if not each.default is each.default_factory is MISSING}
    if missing := forms.keys() - defaults - plain.keys():
        raise UserError(f"{where} has no {min(missing)}; make the file again or remove it")
    values = {name: fitted(of, plain[name], f"{where}, {name}") for name, of in forms.items() if name in plain}
    return plain | values if isinstance(form, dict) else form(**values)
