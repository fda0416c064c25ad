"""Configurable parts: immutable typed values, what they are made of as plain text, and their digest."""

from __future__ import annotations

import abc
import hashlib
import json
import keyword
import numbers
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, TypeVar

import chz
from chz.field import Field

from evo_robust.plain import Fraction, alternatives, fault, fits, from_json, item_type, nearest, wanted

__all__ = ["Fraction", "nearest"]

P = TypeVar("P", bound="Part")

WHERE = {"identity": False}
"""``chz.field(metadata=WHERE)`` marks a field that says where things are or how fast, never what comes out."""

LATER = {"later": True}
"""``chz.field(default=…, metadata=LATER)`` marks a field that came after records had been made.

While it has its default it is no part of a digest, so that fingerprints and names of cached files stay as they were.
"""


@chz.chz
class Part:
    """Base of everything that a problem is made of: immutable, typed, keyword-only.

    Every field is checked against its type where a part is made: numbers must be finite, words one of those that are
    allowed.

    Raises:
        ValueError: naming the field, what was expected and what it is.
    """

    stand_in: ClassVar[str | None] = None
    """Of a part that stands for one whose class is not at hand: why it is not."""

    @chz.validate
    def _typed(self) -> None:
        for name, field in chz.chz_fields(self).items():
            kind = _declared(field)
            # what a field is given, before it makes something else of it
            value = getattr(self, field.x_name if field._munger is not None else name)
            if not fits(value, kind):
                raise ValueError(f"expected {type(self).__name__}.{name} to be {fault(value, kind)}")


def _declared(field: Field) -> Any:
    """The type of a field; anything, where its annotation names what only type checkers see."""
    try:
        return field.x_type
    except NameError:
        return Any


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


def parts_in(value: object) -> Iterator[Part]:
    """All parts in a part or tuple, however deep, outer ones first."""
    if isinstance(value, Part):
        yield value
        value = tuple(getattr(value, name) for name in chz.chz_fields(value))
    if isinstance(value, tuple):
        for item in value:
            yield from parts_in(item)


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


class Substitutes(Protocol):
    """What takes the place of classes that are not known."""

    def means(self, cls: type[Part]) -> bool:
        """Whether a class of a name that the values have may be the one that they mean."""

    def make(self, base: type[Part], name: str, key: str) -> type[Part]:
        """A class in the place of ``name``, derived from ``base``, for the part under a dotted key."""

    def without_inner(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """What ``resolved`` found, without values that no field takes."""


def from_dotted(
    base: type[P], values: Mapping[str, Any], class_name: str | None = None, substitutes: Substitutes | None = None
) -> P:
    """The part whose ``dotted`` values these are: an instance of ``base``, or of its subclass ``class_name``.

    Values may come from a file of a stranger: parts are made of classes that are known already, everything else is a
    plain value.

    Args:
        base: what kind of part it is.
        values: by dotted key.
        class_name: the subclass; ``base`` itself when not given.
        substitutes: makes classes in the place of unknown ones; without it they are refused.

    Raises:
        ValueError: an unknown class or key, or a value that does not fit.
    """
    cls = subclass_named(base, class_name) if class_name else base
    found = resolved(cls, values, {}, from_json, substitutes)
    blueprint = chz.Blueprint(cls).apply(substitutes.without_inner(found) if substitutes else found)
    try:
        return blueprint.make()
    except chz.blueprint._entrypoint.EntrypointException as error:
        # the first paragraph says what is wrong, with the nearest name; the rest is about command lines
        raise ValueError(str(error).strip().partition("\n\n")[0].replace("\n", " ")) from error
    except TypeError as error:  # an abstract class is wanted of which no part was named
        raise ValueError(str(error)) from error


class Unfit(ValueError):
    """A value that a key cannot take; the message is ``KEY=VALUE: expected …``."""


def resolved(
    cls: type,
    given: Mapping[str, Any],
    base: Mapping[str, Any],
    read: Callable[[Any, Any], Any],
    substitutes: Substitutes | None = None,
) -> dict[str, Any]:
    """What the values of dotted keys stand for: known classes where parts are wanted, plain values elsewhere.

    Nothing is imported or called. Keys that no part takes keep their value as it is: chz refuses them.

    Args:
        cls: the class whose fields the keys name.
        given: values as text or as JSON has them.
        base: values below ``given``, of which classes matter.
        read: makes a plain value of a given one and a field's type; raises ``ValueError`` saying what was expected.
        substitutes: see ``from_dotted``.

    Raises:
        Unfit: a value does not fit its key.
    """
    for key in given:  # before any class is made: chz takes "...lr" for every lr, and pastes names into source
        if not all(map(_is_name, key.split("."))):
            raise Unfit(f"unknown key {_short(key)!r}: expected names with one point between them, such as recipe.lr")
    known = dict(base)
    for key in sorted(given, key=lambda key: key.count(".")):  # a part's class before what is below it
        kind = _type_at(cls, key, known)
        known[key] = given[key] if kind is None else _resolved(key, given[key], kind, read, substitutes)
    return {key: known[key] for key in given}


def _resolved(key: str, value: Any, kind: Any, read: Callable[[Any, Any], Any], substitutes: Substitutes | None) -> Any:
    part, item = _part_type(kind), item_type(kind)
    if part is not None:
        return _class_of(key, value, kind, part, substitutes)
    if item is not None and value in ("", []):
        return ()
    if item is not None and _part_type(item) is not None:
        raise Unfit(f"{key}={_short(value)}: expected {key}.0=NAME, {key}.1=NAME and so on, {wanted(item)} each")
    try:
        return read(value, kind)
    except ValueError as error:
        raise Unfit(f"{key}={_short(value)}: expected {error}") from None


def _class_of(key: str, value: Any, kind: Any, part: type[Part], substitutes: Substitutes | None) -> type[Part] | None:
    """The class that a name stands for where a part is wanted."""
    if value in (None, "None") and type(None) in alternatives(kind):
        return None
    if not isinstance(value, str):
        raise Unfit(f"{key}={_short(value)}: expected the name of {wanted(part)}")
    if substitutes is not None and value.isidentifier():
        meant = [cls for cls in _named(part).get(value, []) if substitutes.means(cls)]
        return meant[0] if len(meant) == 1 else substitutes.make(part, value, key)
    try:
        return subclass_named(part, value)
    except ValueError as error:
        raise Unfit(f"{key}={_short(value)}: {error}") from None


def _is_name(segment: str) -> bool:
    """Whether a part of a dotted key can be the name of a field, or a place in a tuple."""
    if segment.isascii() and segment.isdigit():
        return len(segment) <= 4  # whatever stands further behind is no place that anybody fills
    return segment.isascii() and segment.isidentifier() and segment[0] != "_" and not keyword.iskeyword(segment)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:117]}…"


def _part_type(kind: Any) -> type[Part] | None:
    """The class of parts that a field takes, None where it takes plain values."""
    parts = [one for one in alternatives(kind) if isinstance(one, type) and issubclass(one, Part)]
    return parts[0] if parts else None


def _type_at(cls: type, key: str, known: Mapping[str, Any]) -> Any | None:
    """The type of the field that a dotted key names, None where there is none.

    Classes of the parts on the way are those of ``known``, else those that chz would make.
    """
    kind: Any = cls
    field: Field | None = None
    path = ""
    for name in key.split("."):
        if name.isascii() and name.isdigit():
            field, kind = None, item_type(kind)
        else:
            owner = _owner(known.get(path) if path else cls, field, kind)
            field = chz.chz_fields(owner).get(name) if owner is not None else None
            kind = field.x_type if field is not None else None
        if kind is None:
            return None
        path = f"{path}.{name}" if path else name
    return kind


def _owner(chosen: Any, field: Field | None, kind: Any) -> type | None:
    """The class whose fields stand below a key: the chosen one, else what chz makes of its field."""
    if isinstance(chosen, Part):
        return type(chosen)
    if not isinstance(chosen, type):
        made = field._blueprint_unspecified if field is not None else None
        chosen = made if isinstance(made, type) else _part_type(kind)
    return chosen if isinstance(chosen, type) and chz.is_chz(chosen) else None


def is_base(cls: type) -> bool:
    """Whether a class is there to be derived from: it has abstract methods, or names ``abc.ABC`` as a base itself."""
    return bool(getattr(cls, "__abstractmethods__", None)) or abc.ABC in cls.__bases__


def subclasses(base: type[P]) -> dict[str, type[P]]:
    """All concrete subclasses of ``base`` (itself included) by class name."""
    return {name: found[0] for name, found in _named(base).items()}


def _below(base: type[P]) -> list[type[P]]:
    """``base`` and all classes derived from it, each once."""
    found = [base]
    for cls in found:
        found += [below for below in cls.__subclasses__() if below not in found]
    return found


def _named(base: type[P]) -> dict[str, list[type[P]]]:
    """The concrete subclasses of ``base`` by class name, several where classes share it."""
    found: dict[str, list[type[P]]] = {}
    for cls in _below(base):
        if not is_base(cls) and cls.stand_in is None:
            found.setdefault(cls.__name__, []).append(cls)
    # of a problem file that was read again only the newest classes count
    return {name: [cls for cls in several if _is_current(cls)] or several for name, several in found.items()}


def _is_current(cls: type) -> bool:
    """Whether a class is what its module calls by its name today."""
    return getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls


def subclass_named(base: type[P], name: str) -> type[P]:
    """Subclass of ``base`` by class name.

    Raises:
        ValueError: no such class, with the nearest name; a class that is there to be derived from; several of the name.
    """
    known = _named(base)
    if name not in known:
        wider = {cls.__name__: cls for cls in _below(Part) if is_base(cls)}
        if name in wider:
            options = sorted(subclasses(wider[name] if issubclass(wider[name], base) else base))
            raise ValueError(f"{name} is a base, expected one of: {', '.join(options)}")
        raise ValueError(f"unknown {base.__name__} {name!r}: {nearest(name, known)}")
    if len(known[name]) > 1:
        places = ", ".join(sorted(cls.__module__ for cls in known[name]))
        raise ValueError(f"several classes are called {name}, in {places}: expected different names")
    return known[name][0]


def _plain(value: Any) -> Any:
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Part):
        return {"class": type(value).__name__, **dotted(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):  # numpy's too
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
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
