"""Strict reading of JSON files, which users, programs or accidents may have changed; an error is one sentence."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evo_robust.parts.base import UserError
from evo_robust.parts.paths import refuse_odd_path
from evo_robust.parts.plain import is_printable

DEEPEST = 64
"""Largest number of nested levels of lists and objects; files of this package have about five."""

_SHOWN = 60
_BOM = b"\xef\xbb\xbf"
# only such digits can exceed the largest number; other texts need no check of every number
_HUGE = re.compile(r"[0-9]{309}|[eE][+]?[0-9]{3}")


class NotText(ValueError):
    """Bytes that are no text in UTF-8, such as those of a picture or of weights."""


def parse_json(text: bytes) -> Any:
    """The value of a JSON text in UTF-8, with or without a byte order mark.

    Some things that only Python's reader accepts are refused: NaN and infinities, numbers too large for a float, a
    repeated key in an object, halves of surrogate pairs. So is a text that is nested too deep.

    Raises:
        NotText: it is no text.
        ValueError: the text is refused; the message says why, in one sentence.
    """
    decoded = _decoded(text.removeprefix(_BOM))
    numbers: dict[str, Any] = {"parse_float": _float, "parse_int": _int} if _HUGE.search(decoded) else {}
    try:
        value = json.loads(decoded, parse_constant=_constant, object_pairs_hook=_object, **numbers)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels") from None
    # fewer brackets than levels: most texts need no further check
    if decoded.count("[") + decoded.count("{") > DEEPEST and _depth(value) > DEEPEST:
        raise ValueError(f"it is nested deeper than {DEEPEST} levels")
    if "\\u" in decoded:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"half of a surrogate pair, \\u{ord(error.object[error.start]):04x}, is no text") from None
    return value


def _decoded(data: bytes) -> str:
    """The text of these bytes; a zero byte, which JSON never has, is no text either."""
    place = data.find(0)
    try:
        if place < 0:
            return data.decode("utf-8")
    except UnicodeDecodeError as error:
        place = error.start
    raise NotText(f"it is no text in UTF-8, its byte {place + 1} is 0x{data[place]:02x}")


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: the file.
        what: what it should be, for messages, such as ``a genotype file``.

    Raises:
        UserError: the file cannot be read, is not JSON, or holds something other than an object.
    """
    try:
        value = parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): expected {what}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is damaged, it is not JSON (line {error.lineno}: {error.msg}): expected {what}"
        ) from None
    except NotText:
        raise UserError(f"{path} is no text file: expected {what}") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): expected {what}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {shown(value)}, which is no JSON object: expected {what}")
    return value


def is_number(value: object) -> bool:
    """Whether a value is a finite number; booleans are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: object, smallest: int, beyond: float = math.inf) -> bool:
    """Whether a value is a whole number, at least ``smallest`` and below ``beyond``; booleans are not."""
    return isinstance(value, int) and not isinstance(value, bool) and smallest <= value < beyond


def is_text(value: object) -> bool:
    """Whether a value is text."""
    return isinstance(value, str)


def is_absent_or_text(value: object) -> bool:
    """Whether a value is text or null."""
    return value is None or isinstance(value, str)


def is_absent_or_label(value: object) -> bool:
    """Whether a value is null, or text without control or escape characters."""
    return value is None or (isinstance(value, str) and is_printable(value))


def is_absent_or_path(value: object) -> bool:
    """Whether a value is null, or text that can be a path."""
    if value is None:
        return True
    if not isinstance(value, str):
        return False
    try:
        refuse_odd_path("", value)
    except ValueError:
        return False
    return True


def is_object(value: object) -> bool:
    """Whether a value is a JSON object."""
    return isinstance(value, dict)


def are_numbers(value: object) -> bool:
    """Whether a value is an object whose values are all finite numbers."""
    return isinstance(value, dict) and all(map(is_number, value.values()))


def shown(value: object) -> str:
    """A value for a message, as JSON and cut if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def fault(values: Mapping[str, Any], expected: Mapping[str, tuple[Any, str]], absent: Mapping[str, Any]) -> str | None:
    """What is wrong with the first bad value; None where all are good.

    Args:
        values: a JSON object.
        expected: by key: a function that says whether a value is good, and a description of a good value.
        absent: defaults of keys that may be missing.
    """
    for key, (good, words) in expected.items():
        if key not in values and key not in absent:
            return f"it has no {key!r}"
        if not good(values.get(key, absent.get(key))):
            return f"expected {words} as {key!r}, got {shown(values[key])}"
    return None


def _constant(name: str) -> float:
    raise ValueError(f"{name} is no finite number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{_cut(text)} is beyond the largest number")
    return value


def _int(text: str) -> int:
    digits = len(text.lstrip("-"))
    if digits > 308:  # the largest float is 1.8e308; Python itself would read up to 4,300 digits
        raise ValueError(f"{_cut(text)}, a whole number of {digits} digits, is beyond the largest number")
    return int(text)


def _cut(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:24]}…"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return found


def _depth(value: Any) -> int:
    """Number of nested levels of lists and objects, without recursion, which very deep ones would break."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth
