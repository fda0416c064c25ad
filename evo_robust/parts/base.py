"""Configurable parts: immutable typed values, with their dotted values, names and digests."""

from __future__ import annotations

import abc
import enum
import hashlib
import json
import numbers
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import chz

from evo_robust.parts.chz_inside import Field, given_name, is_default, values_of
from evo_robust.parts.facts import Fact
from evo_robust.parts.plain import Fraction, fault, fits, from_json, nearest, shortened, spelt, without_numpy

__all__ = ["Fraction", "nearest", "spelt"]

P = TypeVar("P", bound="Part")

Shape = tuple[int, int, int]
"""Channels, height and width ``(c, h, w)`` of an image or of a feature map, each >= 1."""

WHERE = {"identity": False}
"""``chz.field(metadata=WHERE)`` marks a field that says where things are, or how fast; it changes no result."""

LATER = {"later": True}
"""``chz.field(default=…, metadata=LATER)`` marks a field that was added after records had been made.

With its default value it does not enter a digest, so that old fingerprints and names of cached files stay valid.
"""


@chz.chz
class Part:
    """Base of everything that a problem is made of: immutable, typed, keyword-only.

    Every field is checked against its type when a part is made: numbers must be finite, and words must be among those
    allowed.

    Raises:
        ValueError: a field has a wrong value; the message names the field and what was expected.
    """

    stand_in: ClassVar[str | None] = None
    """For a stand-in: why the class that it replaces is missing. None for other parts."""

    short_name: ClassVar[str | None] = None
    """A short name that users may type instead of the class name; derived classes do not inherit it."""

    offered: ClassVar[bool] = True
    """Whether users can choose it. If not, only records name it, and lists and help leave it out."""

    @property
    def provides(self) -> frozenset[Fact]:
        """Facts that this part gives to the other parts of a problem."""
        return frozenset()

    @property
    def needs(self) -> frozenset[Fact]:
        """Facts without which it cannot work; a problem in which no part provides them is refused."""
        return frozenset()

    def check_shape(self, in_shape: Shape, key: str) -> None:
        """Refuse images of a shape that the part cannot work on. By default it refuses none.

        It is called for every part of a problem or retraining, before anything is written.

        Args:
            in_shape: shape ``(c, h, w)`` of the images.
            key: prefix of the part's fields as a user types them, such as ``objectives.1.``; may be empty.

        Raises:
            ValueError: the shape does not fit; the message names the key and what was expected.
        """

    @chz.validate
    def _typed(self) -> None:
        for name, field in chz.chz_fields(self).items():
            kind = _declared(field)
            # the given value, before the field converts it
            own = given_name(field)
            value = getattr(self, own)
            if (plain := without_numpy(value)) is not value:  # store the plain value, in the way chz does
                for place in {own, field.x_name} & vars(self).keys():
                    object.__setattr__(self, place, plain)
                value = plain
            if not fits(value, kind):
                raise ValueError(f"expected {type(self).__name__}.{name} to be {fault(value, kind)}")


def _declared(field: Field) -> Any:
    """The type of a field; ``Any`` where its annotation has names that only type checkers import."""
    try:
        return field.x_type
    except NameError:
        return Any


class UserError(Exception):
    """A mistake that the user can correct; a command shows it as one message, with exit status 2."""


def refuse_unless(part: object, *checks: tuple[str, bool, str], prefix: str = "") -> None:
    """Refuse the first field of a part that has a bad value.

    Args:
        part: the part.
        checks: tuples of field, whether its value is good, and what was expected, as in the example.
        prefix: prefix of the fields' names as a user types them, such as ``evaluator.``.

    Raises:
        ValueError: a field has a bad value; the message names the field, what was expected and the value.

    Example:
        >>> refuse_unless(self, ("epochs", self.epochs >= 1, ">= 1"))
    """
    for name, good, expected in checks:
        if not good:
            raise ValueError(f"expected {prefix}{name} {expected}, got {shortened(repr(getattr(part, name)))}")


def is_ours(part: object) -> bool:
    """Whether the part's class belongs to this package, and not to a problem file or another program."""
    return ships(type(part))


def ships(cls: type) -> bool:
    """Whether the class belongs to this package."""
    return cls.__module__.startswith("evo_robust.")


def parts_in(value: object) -> Iterator[Part]:
    """All parts in a part or tuple, at any depth, outer ones first."""
    return (part for _, part in keyed_parts(value))


def keyed_parts(value: object, key: str = "") -> Iterator[tuple[str, Part]]:
    """The same, each with the prefix of its fields as a user types them, such as ``objectives.1.attack.``."""
    inside: Iterable[tuple[object, object]] = ()
    if isinstance(value, Part):
        yield key, value
        inside = ((name, getattr(value, name)) for name in chz.chz_fields(value))
    elif isinstance(value, tuple):
        inside = enumerate(value)
    for name, item in inside:
        yield from keyed_parts(item, f"{key}{name}.")


def check_shapes(whole: Part, in_shape: Shape) -> None:
    """Check that ``whole`` and every part in it can work on images ``(c, h, w)``; see :meth:`Part.check_shape`.

    Raises:
        ValueError: a part cannot; this is the first part's own message.
    """
    for key, part in keyed_parts(whole):
        part.check_shape(in_shape, key)


def dotted(part: object, *, identity: bool = False) -> dict[str, Any]:
    """Flat values of ``part`` as a user types them.

    Parts appear by class name, and everything else as JSON values (tuples as lists). With ``identity`` the fields
    marked ``WHERE`` are left out, so that equal dictionaries mean equal results.

    Example:
        >>> dotted(Threat())
        {'norm': 'linf', 'eps': 0.03137254901960784}
    """
    skip = tuple(_fields_that(_says_where, part)) if identity else ()
    below = tuple(f"{key}." for key in skip)  # parts in such a field, and their fields
    values = values_of(part)
    try:
        return {k: _plain(value) for k, value in values.items() if k not in skip and not k.startswith(below)}
    except TypeError:
        refuse_unwritable(part)
        raise


def refuse_unwritable(part: object) -> None:
    """Refuse a part with a field that cannot be written to a record and read again.

    Raises:
        UserError: there is such a field; the message names it and its class.
    """
    for owner in parts_in(part):
        for name, field in chz.chz_fields(owner).items():
            value = getattr(owner, field.x_name)
            try:
                good = _comes_back(value, _declared(field))
            except (TypeError, ValueError):
                good = False
            if not good:
                raise UserError(
                    f"{type(owner).__name__}.{name} cannot be recorded and read again: expected a part, text, a "
                    "number, true or false, None, a Path or a member of an Enum (of a field that is "
                    f"declared as such), or a tuple of these, got {shortened(repr(value))}"
                )


def _comes_back(value: Any, kind: Any) -> bool:
    """Whether a value can be written and read again; paths and members of an Enum are written as text."""
    if isinstance(value, tuple) and any(isinstance(item, Part) for item in value):
        return all(isinstance(item, Part) for item in value)
    if isinstance(value, Part):
        return True
    items = value if isinstance(value, tuple) else (value,)
    written = _plain(value)
    if any(isinstance(item, (Path, enum.Enum)) for item in items):
        return bool(from_json(written, kind) == value)
    return True


def _says_where(field: Field, value: object) -> bool:
    return (field.metadata or {}).get("identity", True) is False


def _later_unused(field: Field, value: object) -> bool:
    """Whether the field is marked ``LATER`` and has its default."""
    return bool((field.metadata or {}).get("later")) and is_default(field, value)


def unused_later(part: object) -> tuple[str, ...]:
    """Dotted names of the fields in ``part`` marked ``LATER`` that have their default; old records lack them."""
    return tuple(_fields_that(_later_unused, part))


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


def is_base(cls: type) -> bool:
    """Whether a class is only a base: it has abstract methods, or ``abc.ABC`` among its own bases."""
    return bool(getattr(cls, "__abstractmethods__", None)) or abc.ABC in cls.__bases__


def subclasses(base: type[P]) -> dict[str, type[P]]:
    """All concrete subclasses of ``base`` (itself included) by class name."""
    return {name: found[0] for name, found in named(base).items()}


def choices(base: type[P]) -> dict[str, type[P]]:
    """The concrete subclasses of ``base`` that users can choose, by class name."""
    return {name: cls for name, cls in subclasses(base).items() if cls.offered}


def _below(base: type[P]) -> list[type[P]]:
    """``base`` and all classes derived from it, each once."""
    found = [base]
    for cls in found:
        found += [below for below in cls.__subclasses__() if below not in found]
    return found


def named(base: type[P]) -> dict[str, list[type[P]]]:
    """The concrete subclasses of ``base`` by class name; a name may have several."""
    found: dict[str, list[type[P]]] = {}
    for cls in _below(base):
        if not is_base(cls) and cls.stand_in is None and cls not in _retired:
            found.setdefault(cls.__name__, []).append(cls)
    # if a problem file was read again, only its newest classes count
    return {name: [cls for cls in several if _is_current(cls)] or several for name, several in found.items()}


_retired: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes of files that have been read again since; their names no longer refer to them."""


def retire(classes: Iterable[type]) -> None:
    """Stop names from referring to these classes, since their file was read again; existing objects keep working."""
    _retired.update(classes)


def classes_of(module: str) -> list[type[Part]]:
    """The classes of parts that the module with this name defines."""
    return [cls for cls in _below(Part) if cls.__module__ == module]


def _is_current(cls: type) -> bool:
    """Whether its module still has this class under its name."""
    return getattr(sys.modules.get(cls.__module__), cls.__name__, None) is cls


FORMER_NAMES = {"AttentionANE": "A", "MapAttentionANE": "E", "MapANE": "EMinus", "AverageANE": "WA"}
"""Former names of classes, by their present names.

Records and digests still use the former names, so that old runs and caches stay valid. Users may type them too.
"""


def recorded_name(cls: type) -> str:
    """The name of a class in records."""
    return FORMER_NAMES.get(cls.__name__, cls.__name__)


def short_names(base: type[P]) -> dict[str, str]:
    """Short names of subclasses of ``base``, such as ``pgd``, with the names of their classes."""
    # a short name belongs to its own class only, not to derived ones
    return {short: name for name, classes in named(base).items() for cls in classes if (short := _short(cls))}


def _short(cls: type) -> str | None:
    found = vars(cls).get("short_name")
    return found if isinstance(found, str) else None


def written_as(base: type[P], name: str) -> list[type[P]]:
    """The subclasses of ``base`` with this name in records: a present name or a former one."""
    known = named(base)
    return known.get(name) or [cls for real in known if FORMER_NAMES.get(real) == name for cls in known[real]]


def classes_called(base: type[P], name: str) -> list[type[P]]:
    """The subclasses of ``base`` that a name may mean: one, none, or several if the name is ambiguous.

    It is a class name or a short name (``pgd``). Capitals do not matter; an exact match comes first.
    """
    known = named(base)
    if found := written_as(base, name):
        return found
    fitting = [real for real in known if real.lower() == name.lower()]
    fitting += [real for short, real in short_names(base).items() if short.lower() == name.lower()]
    return [cls for real in dict.fromkeys(fitting) for cls in known[real]]


def subclass_named(base: type[P], name: str) -> type[P]:
    """Subclass of ``base`` by name; see ``classes_called``.

    Raises:
        ValueError: there is no such class (the message gives the nearest name), it is only a base, or there are
            several.
    """
    found = classes_called(base, name)
    if not found:
        wider = {cls.__name__: cls for cls in _below(Part) if is_base(cls)}
        if name in wider:
            options = sorted(subclasses(wider[name] if issubclass(wider[name], base) else base))
            raise ValueError(f"{name} is a base class, expected one of: {', '.join(options)}")
        raise ValueError(f"unknown {base.__name__} {name!r}: {nearest(name, [*named(base), *short_names(base)])}")
    if len(found) > 1:
        places = ", ".join(sorted(f"{cls.__name__} in {cls.__module__}" for cls in found))
        raise ValueError(f"several classes are called {name}: {places}; expected different names")
    return found[0]


def _plain(value: Any) -> Any:
    if isinstance(value, type):
        return recorded_name(value)
    if isinstance(value, Part):
        return {"class": recorded_name(type(value)), **dotted(value)}
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, enum.Enum):  # some are text or numbers too
        if value.name in type(value).__members__:
            return value.name
        raise TypeError(f"expected a member of {type(value).__name__}, got {value!r}")
    value = without_numpy(value)
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, numbers.Integral):  # numpy's too
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise TypeError(f"expected a part, text, number or tuple of these, got {value!r}")


def digest(*things: object, length: int = 16) -> str:
    """Hexadecimal digest of parts and plain values; equal for equal settings in every process.

    Fields marked ``WHERE`` do not count, nor do fields marked ``LATER`` with their default.
    """
    text = json.dumps(things, sort_keys=True, default=_counted)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _counted(value: object) -> Any:
    """The parts of a value that count in a digest."""
    if not isinstance(value, Part):
        return _plain(value)
    unused = unused_later(value)
    below = tuple(f"{key}." for key in unused)
    counted = {k: v for k, v in dotted(value, identity=True).items() if k not in unused and not k.startswith(below)}
    return {"class": recorded_name(type(value)), **counted}


def seed_from(*things: object) -> int:
    """Seed in [0, 2**63) that depends only on the arguments, never on order of work or clock.

    Example:
        >>> seed_from(0, "paths", 1) == seed_from(0, "paths", 1) != seed_from(0, "paths", 2)
        True
    """
    return int(digest(*things), 16) >> 1


def changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines ``key: old → new`` for every key whose value differs."""
    keys = sorted(old.keys() | new.keys())
    missing = "(absent)"
    return [
        f"{shortened(k)}: {shortened(str(old.get(k, missing)))} → {shortened(str(new.get(k, missing)))}"
        for k in keys
        if old.get(k, missing) != new.get(k, missing)
    ]
