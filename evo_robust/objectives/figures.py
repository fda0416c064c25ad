"""Figures of a ledger row: what it can hold, and all its numbers by name, for budgets, pictures and studies."""

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
    """Every number of a ledger row by name: objectives, recorded and reported objectives, then figures.

    Parts of a figure have its name and their own, with a dot: ``robust_error.0.05``, ``fsp_distance.cells.3``.
    """
    # an error and its figures by strength have the same name; that name means the error
    measured = {**row["objectives"], **row.get("recorded", {}), **row.get("reported", {})}
    numbers = {name: float(value) for name, value in measured.items()}
    for name, value in row.get("figures", {}).items():
        for key, number in flat(name, value).items():
            numbers.setdefault(key, number)
    return numbers


def flat(name: str, value: Any) -> dict[str, float]:
    """The numbers in a JSON value by dotted name; other values are left out.

    Example:
        >>> flat("robust_error", {"0.05": 0.3, "estimated": ["0.1"]})
        {'robust_error.0.05': 0.3}
    """
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
    """The measured value of ``name`` as a finite float, from a number or from an array or tensor with a single one.

    Booleans are refused. Usually they are a comparison returned by mistake, and it is not clear which of the two would
    be better. Text is refused too, even if it looks like a number.

    Raises:
        TypeError: the value is not a number.
        ValueError: it is NaN or infinite, or an integer too large for a float.
    """
    found = value
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        found = value.item() if math.prod(value.shape) == 1 else None
    if isinstance(found, bool) or not isinstance(found, SupportsFloat):
        hint = "; write float(…) if 0 and 1 are meant" if isinstance(found, bool) else ""
        raise TypeError(f"{name}: expected a number, got {reprlib.repr(value)} ({type(value).__name__}){hint}")
    try:
        number = float(found)
    except OverflowError:
        raise ValueError(f"{name} is {reprlib.repr(found)}, too large for a float") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} is {number}")
    return number


def as_json(name: str, value: Any) -> Any:
    """The figure ``name`` as a JSON value.

    Numbers and arrays of NumPy and torch become numbers and lists, sets become sorted lists, and paths text. NaN and
    infinities, which JSON lacks, become null. Characters that UTF-8 cannot encode are written as escapes.

    Raises:
        TypeError: the value is of another kind.
        ValueError: an integer is too large for a float, two keys are written the same way, or a value contains itself.
    """
    try:
        return _json(name, value)
    except RecursionError:
        raise ValueError(f"the figure {name} is nested too deep, or contains itself") from None


def printable(text: str) -> str:
    """The text in a form that UTF-8 can encode: halves of surrogate pairs become escapes."""
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
            raise ValueError(f"the figure {name} is a whole number of {value.bit_length()} bits, too large for a float")
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        found = {_key(name, k): _json(f"{name}.{k}", v) for k, v in value.items()}
        if len(found) < len(value):
            raise ValueError(f"the figure {name} has keys that JSON writes alike: {', '.join(map(repr, value))}")
        return found
    if isinstance(value, AbstractSet):
        return _sorted([_json(name, v) for v in value])
    if isinstance(value, (list, tuple)):
        return [_json(f"{name}.{i}", v) for i, v in enumerate(value)]
    raise TypeError(
        f"the figure {name} is a {type(value).__name__}: expected numbers, text, or lists and dictionaries of these"
    )


def _sorted(values: list[Any]) -> list[Any]:
    """The values in an order that is the same in every process."""
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
