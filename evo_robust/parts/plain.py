"""Plain values of fields: numbers, words, booleans and tuples of these, read from text and checked.

Text and files may come from strangers. Only literals are read, and everything else is refused: nothing is imported,
looked up by name or called.
"""

from __future__ import annotations

import difflib
import enum
import functools
import math
import numbers
import types
import typing
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

_NOTHING = type(None)


MOST = 100_000
"""Largest number of values in a field's tuple; more would be a mistake, and would make messages slow."""

LARGEST = 2**63 - 1
"""The largest whole number that a text may stand for: torch and NumPy hold no larger one."""

LONGEST_MESSAGE = 5_000
"""Largest number of characters of a message that are shown; whole paths fit into it."""


def visible(text: str) -> str:
    """Text that is safe on a terminal or in a text file.

    Names and values may come from strangers' files. Characters that would move the cursor, colour the screen, or hide
    or reverse text become Python escapes. Line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSEEN and c not in "\n\t" else c for c in text)


_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories of invisible characters: controls, formats, halves of surrogate pairs, line ends."""


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """Like ``visible``, with line ends and tabs as escapes too, so that a value cannot begin a line in a message."""
    return "".join(_escaped(c) if c in "\n\t" else c for c in visible(text))


def message(text: object) -> str:
    """A message for display: made ``visible``, and without its middle where it is very long."""
    shown, half = visible(str(text)), LONGEST_MESSAGE // 2
    return shown if len(shown) <= LONGEST_MESSAGE else f"{shown[:half]} … {shown[-half:]}"


class Fraction(float):
    """A float that may be written as a quotient.

    Example:
        >>> float(Fraction.read("8/255"))
        0.03137254901960784
    """

    @classmethod
    def read(cls, text: str) -> Fraction:
        """The number in a text such as ``0.03`` or ``8/255``.

        Raises:
            ValueError: the text is not a number.
        """
        numerator, slash, denominator = text.partition("/")
        try:
            return cls(float(numerator) / float(denominator) if slash else float(numerator))
        except (ValueError, ZeroDivisionError):
            raise ValueError(f"expected a number such as 0.03 or 8/255, got {text!r}") from None

    __chz_cast__ = read
    """The name that chz looks for when it makes the class by itself."""


def is_printable(text: str) -> bool:
    """Whether a text is one line without escape, control or invisible characters."""
    return not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in text)


LONGEST_SHOWN = 120
"""Largest number of characters of a value in a message."""


def first_of(items: Sequence[str], most: int, join: str = "; ") -> str:
    """The first ``most`` items, and the number of further ones.

    Example:
        >>> first_of(["a", "b", "c", "d"], 2)
        'a; b; and 2 more'
    """
    shown = list(items[:most])
    return join.join(shown if len(items) <= most else [*shown, f"and {len(items) - most:,} more"])


def shortened(text: str) -> str:
    """A text for a message: on one line, and cut if it is long."""
    text = one_line(text[: LONGEST_SHOWN + 1])
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}…"


def without_numpy(value: Any) -> Any:
    """The plain number, boolean or text of a NumPy scalar, in tuples too; other values are returned as they are."""
    if isinstance(value, tuple) and any(isinstance(item, (np.generic, tuple)) for item in value):
        plain = tuple(map(without_numpy, value))
        changed = any(new is not old for new, old in zip(plain, value, strict=True))
        return plain if changed and type(value) is tuple else value
    return value.item() if isinstance(value, (np.bool_, np.number, np.str_)) else value


def nearest(word: str, options: Iterable[str]) -> str:
    """A hint with the option closest to ``word`` (capitals do not matter), or with all options if none is close.

    Example:
        >>> nearest("pgg", ["pgd", "trades"])
        "did you mean 'pgd'?"
    """
    known = sorted(options)
    spelt = {option.lower(): option for option in known}
    close = [] if len(word) > 10 * LONGEST_SHOWN else difflib.get_close_matches(word.lower(), spelt, n=1, cutoff=0.5)
    return f"did you mean {spelt[close[0]]!r}?" if close else f"expected one of: {', '.join(known)}"


def spelt(word: str, options: Iterable[str]) -> str:
    """The option that is equal to ``word``, else the only one that differs just in capitals; else ``word`` itself."""
    known = list(options)
    alike = [option for option in known if option.lower() == word.lower()]
    return alike[0] if len(alike) == 1 and word not in known else word


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types that a field's type allows: those of a union, or the type itself."""
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return tuple(a for arg in typing.get_args(kind) for a in alternatives(arg))
    if typing.get_origin(kind) is typing.Annotated:
        return alternatives(typing.get_args(kind)[0])
    return (_NOTHING,) if kind is None else (kind,)


def item_type(kind: Any) -> Any | None:
    """``X`` of a field of the type ``tuple[X, ...]``; None for other types."""
    for one in alternatives(kind):
        args = typing.get_args(one)
        if typing.get_origin(one) is tuple and len(args) == 2 and args[1] is ...:
            return args[0]
    return None


def fits(value: Any, kind: Any) -> bool:
    """Whether a value fits a field's type; True for types that cannot be checked."""
    try:
        return checker(kind)(value)
    except TypeError:  # unhashable metadata, protocols and typed dictionaries are left to the part's own checks
        return True


@functools.cache
def checker(kind: Any) -> Callable[[Any], bool]:
    """A function that says whether a value fits a field's type.

    Numbers must be finite. A boolean is not a number. A whole number fits wherever a number does.
    """
    several = alternatives(kind)
    if len(several) > 1:
        checks = tuple(map(checker, several))
        return lambda value: any(check(value) for check in checks)
    kind, origin, args = several[0], typing.get_origin(several[0]), typing.get_args(several[0])
    if origin is tuple and any(typing.get_origin(arg) is typing.Unpack or hasattr(arg, "__unpacked__") for arg in args):
        return lambda value: isinstance(value, tuple)
    if origin is Literal:
        return lambda value: any(type(value) is type(word) and value == word for word in args)
    if origin is tuple and len(args) == 2 and args[1] is ...:
        check = checker(args[0])
        return lambda value: isinstance(value, tuple) and len(value) <= MOST and all(map(check, value))
    if origin is tuple:
        places = tuple(map(checker, args))
        return lambda value: (
            isinstance(value, tuple)
            and len(value) == len(places)
            and all(check(item) for check, item in zip(places, value, strict=True))
        )
    if kind is int:
        return lambda value: isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if isinstance(kind, type) and issubclass(kind, float):
        return _is_finite
    if isinstance(kind, type) and kind is not Any:
        return lambda value: isinstance(value, kind)
    return lambda value: True  # a callable, a mapping, …: left to the part's own checks


def _is_endless(value: Any) -> bool:
    """Whether a value, or an item of a tuple, is NaN, infinite or too large for a float."""
    if isinstance(value, tuple):
        return any(map(_is_endless, value))
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and not _is_finite(value)


def _is_finite(value: Any) -> bool:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number too large for a float
        return False


def wanted(kind: Any) -> str:
    """The values that a field of a type takes, in words: ``a whole number``, ``'linf' or 'l2'``, ``a SearchSpace``."""
    return " or ".join(dict.fromkeys(_wanted(one) for one in alternatives(kind)))


def _wanted(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return ", ".join(map(repr, args[:-1])) + f" or {args[-1]!r}" if len(args) > 1 else repr(args[0])
    if origin is tuple and len(args) == 2 and args[1] is ...:
        return f"a tuple, each of it {wanted(args[0])}"
    if origin is tuple:
        return f"({', '.join(map(wanted, args))})"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", _NOTHING: "None"}
    words[Fraction] = "a number such as 8/255"
    if kind in words:
        return words[kind]
    return f"a {kind.__name__}" if isinstance(kind, type) else str(kind)


def fault(value: Any, kind: Any) -> str | None:
    """Why ``value`` does not fit a field's type, such as ``'linf' or 'l2', got 'Linf': did you mean 'linf'?``.

    None where it fits.
    """
    if fits(value, kind):
        return None
    if isinstance(value, tuple) and len(value) > MOST:
        return _at_most(len(value))
    hint = ""
    words = [word for one in alternatives(kind) if typing.get_origin(one) is Literal for word in typing.get_args(one)]
    if isinstance(value, str) and words:
        hint = _nearest_word(value, words)
    elif _is_endless(value):
        return f"{wanted(kind).replace('a number', 'a finite number')}, got {_shown(value)}"
    elif isinstance(value, str):
        hint = _in_python(value, kind)
    elif isinstance(value, list) and checker(kind)(tuple(value)):
        hint = f": a tuple, ({', '.join(map(repr, value))},)"
    elif isinstance(value, tuple) and item_type(kind) is not None:
        hint = _hint_of_items(value, item_type(kind))
    return f"{wanted(kind)}, got {_shown(value)}{hint}"


def _at_most(n: int) -> str:
    return f"at most {MOST:,} values, got {n:,}"


def _nearest_word(value: str, words: list[str]) -> str:
    """A hint with the word that is meant by a spelling such as ``Linf``, ``L_inf`` or ``bfloat16``."""
    plain = {"".join(filter(str.isalnum, str(word).lower())): word for word in words}
    plain |= {other: word for other, word in _SPELLINGS.items() if word in words}
    close = difflib.get_close_matches("".join(filter(str.isalnum, value.lower())), plain, n=1, cutoff=0.6)
    return f": did you mean {plain[close[0]]!r}?" if close else ""


_SPELLINGS = {"inf": "linf", "infinity": "linf", "euclidean": "l2", "fp32": "float32", "bfloat16": "bf16"}
"""Words of other libraries, with ours."""


def _in_python(text: str, kind: Any) -> str:
    """A hint how to write in Python a text that the command line accepts; empty where it would not accept it."""
    try:
        value = read(text, kind)
    except ValueError:
        return ""
    if isinstance(value, enum.Enum):
        return f": in Python {type(value).__name__}.{value.name}"
    if isinstance(value, Path):
        return f": in Python Path({shortened(text)!r})"
    if isinstance(value, (bool, tuple)):
        return f": in Python {shortened(repr(value))}"
    return ": without quotes in Python"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def read(text: str, kind: Any) -> Any:
    """The value of ``text`` for a field of a type. It is always a literal; names are never looked up.

    Tuples are written with commas, booleans as true, false, yes, no, 1 or 0.

    Raises:
        ValueError: the text does not fit; the message says what was expected.
    """
    several = sorted(alternatives(kind), key=lambda one: (one is not _NOTHING, one is str))  # text fits everything
    beyond = ""
    for one in several:
        try:
            value = _read(text, one)
        except (ValueError, OverflowError, KeyError):
            continue
        if one is int and not -LARGEST <= value <= LARGEST:
            beyond = f" of at most {LARGEST:,}"
            continue
        if checker(one)(value):
            return value
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(wanted(kind).replace("a number", "a finite number"))
    words = [word for one in several if typing.get_origin(one) is Literal for word in typing.get_args(one)]
    item = item_type(kind)
    if item is not None and text.count(",") >= MOST:
        raise ValueError(_at_most(text.count(",") + 1))
    if item is not None:
        raise ValueError(f"{wanted(item)}, several with commas between{_hint_of_items(text.split(','), item)}")
    raise ValueError(wanted(kind) + beyond + (_nearest_word(text, words) if words else ""))


def _hint_of_items(items: Iterable[Any], kind: Any) -> str:
    """A hint about the first misspelt word of several; empty where there is none."""
    for item in items:
        if not isinstance(item, str):
            continue
        try:
            read(item, kind)
        except ValueError as error:
            _, colon, hint = str(error).rpartition(": did you mean")
            return f"{colon}{hint}" if colon else ""
    return ""


def _read(text: str, kind: Any) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if kind is _NOTHING:
        if text == "None":
            return None
    elif kind is str:
        return text
    elif origin is Literal:
        for word in args:
            if text == str(word):
                return word
    elif origin is tuple:
        items = text.split(",", MOST) if text else []
        if len(items) > MOST:
            raise ValueError
        kinds = [args[0]] * len(items) if len(args) == 2 and args[1] is ... else list(args)
        return tuple(read(item, one) for item, one in zip(items, kinds, strict=True))
    elif kind is bool:
        return {"t": True, "true": True, "yes": True, "1": True, "f": False, "false": False, "no": False, "0": False}[
            text.lower()
        ]
    elif kind in (int, float, Fraction) and text.isascii():
        return Fraction.read(text) if kind is Fraction else kind(text)
    elif kind is Path:
        return Path(text)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind[text]
    raise ValueError


def from_json(value: Any, kind: Any) -> Any:
    """The value in a JSON file, for a field of a type.

    Raises:
        ValueError: the value does not fit; the message says what was expected.
    """
    if kind is Any and isinstance(value, list):
        return tuple(from_json(item, Any) for item in value)
    if isinstance(value, list) and len(value) > MOST:
        raise ValueError(_at_most(len(value)))
    if isinstance(value, list):
        for one in alternatives(kind):
            args = typing.get_args(one)
            if typing.get_origin(one) is tuple:
                kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is ... else list(args)
                if len(kinds) == len(value):
                    return tuple(from_json(item, k) for item, k in zip(value, kinds, strict=True))
    if isinstance(value, str) and kind is not Any and str not in alternatives(kind):
        return read(value, kind)  # users may write 8/255 as a number in a file
    if isinstance(value, (dict, list)) or not checker(kind)(value):
        raise ValueError(wanted(kind))
    exact = [one for one in alternatives(kind) if not (isinstance(one, type) and issubclass(one, float))]
    floats = [one for one in alternatives(kind) if one not in exact]
    return value if not floats or any(checker(one)(value) for one in exact) else floats[0](value)
