"""Configurable parts: immutable typed values, what they are made of as plain text, and their digest."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import chz
from chz.field import Field

P = TypeVar("P", bound="Part")

WHERE = {"identity": False}
"""``chz.field(metadata=WHERE)`` marks a field that says where things are or how fast, never what comes out."""

LATER = {"later": True}
"""``chz.field(default=…, metadata=LATER)`` marks a field that came after records had been made.

While it has its default it is no part of a digest, so that fingerprints and names of cached files stay as they were.
"""


@chz.chz
class Part:
    """Base of everything that a problem is made of: immutable, typed, keyword-only."""


class Fraction(float):
    """A float that may be written as a quotient: ``8/255`` on the command line is 0.0314."""

    @classmethod
    def __chz_cast__(cls, text: str) -> Fraction:
        numerator, slash, denominator = text.partition("/")
        try:
            return cls(float(numerator) / float(denominator) if slash else float(numerator))
        except (ValueError, ZeroDivisionError):
            # chz swallows this type and falls back to its own message, so the text says it all
            raise ValueError(f"expected a number such as 0.03 or 8/255, got {text!r}") from None


class UserError(Exception):
    """A mistake that the person at the keyboard can mend: shown as one message, exit status 2."""


def refuse_unless(part: object, *checks: tuple[str, bool, str], prefix: str = "") -> None:
    """Refuse the first of a part's fields that is not good.

    Args:
        part: whose fields they are.
        checks: (field, whether its value is good, what was expected of it), such as ``("epochs", …, ">= 1")``.
        prefix: what stands before the fields' names where a user types them, such as ``evaluator.``.

    Raises:
        ValueError: naming the field, what was expected and what it is.
    """
    for name, good, expected in checks:
        if not good:
            raise ValueError(f"expected {prefix}{name} {expected}, got {getattr(part, name)!r}")


def nearest(word: str, options: Iterable[str]) -> str:
    """Sentence that names the options closest to ``word``, or all of them when none is close."""
    known = sorted(options)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"expected one of: {', '.join(known)}"


def dotted(part: object, *, identity: bool = False) -> dict[str, Any]:
    """Flat values of ``part`` as a user types them: ``{"algorithm": "NSGA2", "algorithm.pop_size": 40, …}``.

    Parts appear by class name, everything else as JSON values (tuples as lists). With ``identity`` the fields
    marked ``WHERE`` are left out, so that equal dictionaries mean equal results.
    """
    skip = set(_fields_that(_says_where, part)) if identity else set()
    values = chz.beta_to_blueprint_values(part)
    return {key: _plain(value) for key, value in values.items() if key not in skip}


def _says_where(field: Field, value: object) -> bool:
    return (field.metadata or {}).get("identity", True) is False


def _later_unused(field: Field, value: object) -> bool:
    """Whether the field is marked ``LATER`` and has its default."""
    if not (field.metadata or {}).get("later"):
        return False
    made = field._default_factory
    return value == (made() if callable(made) else field._default)


def _fields_that(holds: Callable[[Field, object], bool], part: object, prefix: str = "") -> Iterator[str]:
    """Dotted names of the fields of which ``holds`` is true, in ``part`` and the parts inside it."""
    for name, field in chz.chz_fields(part).items():
        value = getattr(part, name)
        if holds(field, value):
            yield prefix + name
        elif isinstance(value, Part):
            yield from _fields_that(holds, value, f"{prefix}{name}.")
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                if isinstance(item, Part):
                    yield from _fields_that(holds, item, f"{prefix}{name}.{i}.")


def from_dotted(base: type[P], values: Mapping[str, Any], class_name: str | None = None) -> P:
    """The part whose ``dotted`` values these are: an instance of ``base``, or of its subclass ``class_name``.

    Raises:
        ValueError: an unknown class or key, or a value that cannot be read.
    """
    cls = subclass_named(base, class_name) if class_name else base
    blueprint = chz.Blueprint(cls).apply({k: chz.Castable(_typed(v)) for k, v in values.items()})
    try:
        return blueprint.make()
    except chz.blueprint._entrypoint.EntrypointException as error:
        # the first paragraph says what is wrong, with the nearest name; the rest is about command lines
        raise ValueError(str(error).strip().partition("\n\n")[0].replace("\n", " ")) from error


def _typed(value: Any) -> str:
    """A JSON value as a user would type it."""
    return ",".join(map(_typed, value)) if isinstance(value, (list, tuple)) else str(value)


def subclasses(base: type[P]) -> dict[str, type[P]]:
    """All concrete subclasses of ``base`` (itself included) by class name."""
    found: dict[str, type[P]] = {}
    queue = [base]
    while queue:
        cls = queue.pop()
        if not getattr(cls, "__abstractmethods__", None):
            found.setdefault(cls.__name__, cls)
        queue += cls.__subclasses__()
    return found


def subclass_named(base: type[P], name: str) -> type[P]:
    """Subclass of ``base`` by class name.

    Raises:
        ValueError: no such class, with the nearest name.
    """
    known = subclasses(base)
    if name not in known:
        raise ValueError(f"unknown {base.__name__} {name!r}: {nearest(name, known)}")
    return known[name]


def _plain(value: Any) -> Any:
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Part):
        return {"class": type(value).__name__, **dotted(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(value)
    if value is None or isinstance(value, (str, int, bool)):
        return value
    raise TypeError(f"expected a part, text, number or tuple of these, got {value!r}")


def digest(*things: object, length: int = 16) -> str:
    """Hexadecimal digest of parts and plain values; equal for equal settings in every process.

    Fields marked ``WHERE`` do not count, nor do fields marked ``LATER`` that have their default.
    """
    text = json.dumps(things, sort_keys=True, default=_counted)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _counted(value: object) -> Any:
    """What of a value counts in a digest."""
    if not isinstance(value, Part):
        return _plain(value)
    unused = tuple(_fields_that(_later_unused, value))
    below = tuple(f"{key}." for key in unused)
    counted = {k: v for k, v in dotted(value, identity=True).items() if k not in unused and not k.startswith(below)}
    return {"class": type(value).__name__, **counted}


def seed_from(*things: object) -> int:
    """Seed in [0, 2**63) that depends on its arguments alone, never on order of work or clock."""
    return int(digest(*things), 16) >> 1


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines ``key: old → new`` for every key whose value differs."""
    keys = sorted(old.keys() | new.keys())
    missing = "(absent)"
    return [
        f"{k}: {old.get(k, missing)} → {new.get(k, missing)}"
        for k in keys
        if old.get(k, missing) != new.get(k, missing)
    ]
