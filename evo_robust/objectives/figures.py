"""What a ledger row can hold; every number that it holds, by one name: what budgets, pictures and studies ask for."""

from __future__ import annotations

import json
import math
import reprlib
import sys
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import PurePath
from typing import Any, SupportsFloat

import numpy as np
from torch import Tensor

_LARGEST = int(sys.float_info.max)


def figures_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Every number of a ledger row by name: objectives, what was recorded beside them, then figures.

    Parts of a figure bear its name and their own, with a dot: ``robust_error.0.05``, ``fsp_distance.cells.3``.
    """
    # a measured error and its strengths bear one name: the number is meant
    measured = {**row["objectives"], **row.get("recorded", {}), **row.get("reported", {})}
    numbers = {name: float(value) for name, value in measured.items()}
    for name, value in row.get("figures", {}).items():
        for key, number in flat(name, value).items():
            numbers.setdefault(key, number)
    return numbers


def flat(name: str, value: Any) -> dict[str, float]:
    """The numbers in a JSON value by dotted name, such as ``{"robust_error.0.05": 0.3}``; what is none is left out."""
    if isinstance(value, bool):
        return {}
    if isinstance(value, (int, float)):
        return {name: float(value)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping):
        return {}
    return {key: number for part, inner in value.items() for key, number in flat(f"{name}.{part}", inner).items()}


def one_number(name: str, value: Any) -> float:
    """What was measured under ``name``, as a finite float: a number, or an array or tensor of a single one.

    Truth values are refused: mostly a comparison was returned instead of a number, and which of the two answers is the
    better one nobody can tell. So is text, even where it reads like a number.

    Raises:
        TypeError: it is something else.
        ValueError: it is NaN or infinite, or a whole number that no float holds.
    """
    found = value
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        found = value.item() if math.prod(value.shape) == 1 else None
    if isinstance(found, bool) or not isinstance(found, SupportsFloat):
        hint = "; say float(…) where 0 and 1 are meant" if isinstance(found, bool) else ""
        raise TypeError(f"{name}: expected a number, got {reprlib.repr(value)} ({type(value).__name__}){hint}")
    try:
        number = float(found)
    except OverflowError:
        raise ValueError(f"{name} is {reprlib.repr(found)}, more than floats hold") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}")
    return number


def as_json(name: str, value: Any) -> Any:
    """The figure ``name`` as a JSON value: what parts of searches put into a record may be of many kinds.

    NumPy's and torch's numbers and arrays become numbers and lists, sets sorted lists, paths text. NaN and infinities,
    which JSON has not, become null. Text is made such that UTF-8 can hold it.

    Raises:
        TypeError: no such kind of value.
        ValueError: a whole number that no float holds, two keys that are written alike, or a value inside itself.
    """
    try:
        return _json(name, value)
    except RecursionError:
        raise ValueError(f"the figure {name} is nested too deep, or holds itself") from None


def printable(text: str) -> str:
    """The text such that UTF-8 can hold it: halves of surrogate pairs are written out, a backslash and a number."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _json(name: str, value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (str, PurePath)):
        return printable(str(value))
    if isinstance(value, int):
        if abs(value) > _LARGEST:
            raise ValueError(f"the figure {name} is a whole number of {value.bit_length()} bits, more than floats hold")
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        found = {_key(name, k): _json(f"{name}.{k}", v) for k, v in value.items()}
        if len(found) < len(value):
            raise ValueError(f"the figure {name} has keys that are written alike: {', '.join(map(repr, value))}")
        return found
    if isinstance(value, AbstractSet):
        return _sorted([_json(name, v) for v in value])
    if isinstance(value, (list, tuple)):
        return [_json(f"{name}.{i}", v) for i, v in enumerate(value)]
    raise TypeError(
        f"the figure {name} is a {type(value).__name__}: expected numbers, text, or lists and dictionaries of these"
    )


def _sorted(values: list[Any]) -> list[Any]:
    """In an order that is the same in every process."""
    try:
        return sorted(values)
    except TypeError:
        return sorted(values, key=json.dumps)


def _key(name: str, key: Any) -> str:
    """A key as ``json`` writes it."""
    plain = _json(f"{name}: a key", key)
    if isinstance(plain, (list, dict)):
        raise TypeError(f"the figure {name} has the key {key!r}: expected text or a number")
    return plain if isinstance(plain, str) else json.dumps(plain)
