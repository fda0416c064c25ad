"""Makes parts from text and files: names of known classes, and plain values, by dotted key.

Text and files may come from strangers. Nothing in them is imported, looked up elsewhere or called.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import chz

from evo_robust.parts.base import Part, is_base, subclass_named, subclasses, written_as
from evo_robust.parts.chz_inside import Field, Refused, build, class_made_of, is_required
from evo_robust.parts.plain import alternatives, from_json, item_type, shortened, wanted

P = TypeVar("P", bound=Part)


class Substitutes(Protocol):
    """Makes classes in the place of unknown ones."""

    def means(self, cls: type[Part]) -> bool:
        """Whether a known class may be the one that its name in the values means."""

    def make(self, base: type[Part], name: str, key: str) -> type[Part]:
        """A class in the place of ``name``, derived from ``base``, for the part under a dotted key."""

    def without_inner(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The result of ``resolved``, without values that no field takes."""


def from_dotted(
    base: type[P], values: Mapping[str, Any], class_name: str | None = None, substitutes: Substitutes | None = None
) -> P:
    """The part with these ``dotted`` values: an instance of ``base``, or of its subclass ``class_name``.

    Values may come from a stranger's file. Parts are made only from classes that are known already; everything else is
    a plain value.

    Args:
        base: base class of the part.
        values: values by dotted key.
        class_name: name of the subclass; ``base`` itself when not given.
        substitutes: makes classes in the place of unknown ones; without it, unknown classes are refused.

    Raises:
        ValueError: a class or key is unknown, or a value does not fit.
    """
    cls = subclass_named(base, class_name) if class_name else base
    found = resolved(cls, values, {}, from_json, substitutes)
    values = substitutes.without_inner(found) if substitutes else found
    try:
        return build(cls, [("values", values)])
    except Refused as error:
        raise ValueError(missing_part(cls, found) or str(error)) from error
    except TypeError as error:  # a field needs a part of an abstract class, and none was named
        raise ValueError(missing_part(cls, found) or str(error)) from error


class Unfit(ValueError):
    """A value does not fit its key; the message is ``KEY=VALUE: expected …``."""


def resolved(
    cls: type,
    given: Mapping[str, Any],
    base: Mapping[str, Any],
    read: Callable[[Any, Any], Any],
    substitutes: Substitutes | None = None,
) -> dict[str, Any]:
    """The meaning of the given values: known classes for parts, plain values elsewhere.

    Nothing is imported or called. Keys that no part takes keep their value, and chz refuses them later.

    Args:
        cls: the class whose fields the keys name.
        given: values as text, or as in JSON.
        base: values below ``given``; only their classes matter.
        read: makes a plain value from a given one and a field's type; raises ``ValueError`` with what was expected.
        substitutes: see ``from_dotted``.

    Raises:
        Unfit: a value does not fit its key.
    """
    # check keys before chz sees them: it would accept gaps, take "...lr" for every lr, and paste names into source
    for key in given:
        if not all(map(_is_name, key.split("."))):
            raise Unfit(
                f"unknown key {shortened(key)!r}: expected names with one point between them, such as recipe.lr"
            )
    known = dict(base)
    for key in sorted(given, key=lambda key: key.count(".")):  # a part's class before what is below it
        kind = _type_at(cls, key, known)
        known[key] = given[key] if kind is None else _resolved(key, given[key], kind, read, substitutes)
    _refuse_gaps(cls, known)
    return {key: known[key] for key in given}


def _refuse_gaps(cls: type, known: Mapping[str, Any]) -> None:
    """Refuse ``objectives.5=Params`` where there are three objectives, which leaves empty places."""
    places: dict[str, set[int]] = {}
    for key in known:
        for place in re.finditer(r"\.([0-9]+)(?=\.|$)", key):
            places.setdefault(key[: place.start()], set()).add(int(place[1]))
    for path, filled in places.items():
        free = next((i for i, place in enumerate(sorted(filled)) if i != place), None)
        if free is None:
            continue
        key = f"{shortened(path)}.{min(place for place in filled if place > free)}"
        if item_type(_type_at(cls, path, known)) is not None:
            raise Unfit(f"{key}: expected {shortened(path)}.{free}, the first place that is free")
        if max(filled) > 999:  # chz would loop over all places before it
            raise Unfit(f"unknown key {key!r}: {shortened(path)} has no places")


def missing_part(cls: type, known: Mapping[str, Any]) -> str | None:
    """A message about a part that is needed but not given (perhaps only its fields are); None where none is missing.

    Args:
        cls: the class whose fields the keys name.
        known: classes and plain values by dotted key, as ``resolved`` finds them.
    """
    absent = {key[: point.start()] for key in known for point in re.finditer(r"\.", key)} - known.keys()
    owners = {"": cls, **known}
    # a field whose type is a concrete class needs no class name
    owners |= {key: part for key in absent if (part := _part_at(cls, key, known)) and not is_base(part)}
    for path, owner in owners.items():
        if isinstance(owner, type) and chz.is_chz(owner):
            for name, field in chz.chz_fields(owner).items():
                if is_required(field):
                    absent.add(f"{path}.{name}" if path else name)
    for key in sorted(absent - known.keys()):
        if (part := _part_at(cls, key, known)) and is_base(part):
            return f"missing: {key}, one of: {', '.join(sorted(subclasses(part)))}"
    return None


def _part_at(cls: type, key: str, known: Mapping[str, Any]) -> type[Part] | None:
    """The class of parts that a dotted key takes; None where it takes plain values, or there is no such key."""
    kind = _type_at(cls, key, known)
    return None if kind is None else part_type(kind)


def _resolved(key: str, value: Any, kind: Any, read: Callable[[Any, Any], Any], substitutes: Substitutes | None) -> Any:
    part, item = part_type(kind), item_type(kind)
    if part is not None:
        return _class_of(key, value, kind, part, substitutes)
    if item is not None and value in ("", []):
        return ()
    if item is not None and part_type(item) is not None:
        raise Unfit(
            f"{key}={shortened(str(value))}: expected {key}.0=NAME, {key}.1=NAME and so on, {wanted(item)} each"
        )
    try:
        return read(value, kind)
    except ValueError as error:
        raise Unfit(f"{key}={shortened(str(value))}: expected {error}") from None


def _class_of(key: str, value: Any, kind: Any, part: type[Part], substitutes: Substitutes | None) -> type[Part] | None:
    """The class with this name, for a key that takes a part."""
    if value in (None, "None") and type(None) in alternatives(kind):
        return None
    if not isinstance(value, str):
        raise Unfit(f"{key}={shortened(str(value))}: expected the name of {wanted(part)}")
    if substitutes is not None and value.isidentifier():
        meant = [cls for cls in written_as(part, value) if substitutes.means(cls)]
        return meant[0] if len(meant) == 1 else substitutes.make(part, value, key)
    try:
        return subclass_named(part, value)
    except ValueError as error:
        raise Unfit(f"{key}={shortened(str(value))}: {error}") from None


def _is_name(segment: str) -> bool:
    """Whether a segment of a dotted key can be the name of a field, or a place in a tuple."""
    if segment.isascii() and segment.isdigit():
        return len(segment) < 19 and str(int(segment)) == segment
    return segment.isascii() and segment.isidentifier() and segment[0] != "_" and not keyword.iskeyword(segment)


def part_type(kind: Any) -> type[Part] | None:
    """The class of parts that a field takes; None where it takes plain values."""
    parts = [one for one in alternatives(kind) if isinstance(one, type) and issubclass(one, Part)]
    return parts[0] if parts else None


def _type_at(cls: type, key: str, known: Mapping[str, Any]) -> Any | None:
    """The type of the field that a dotted key names; None where there is none.

    Classes of the parts on the way are taken from ``known``, else those that chz would make.
    """
    return _at(cls, key, known)[0]


def field_at(cls: type, key: str, known: Mapping[str, Any]) -> Field | None:
    """The field that a dotted key names; None where there is none, or where it names a place in a tuple."""
    return _at(cls, key, known)[1]


def _at(cls: type, key: str, known: Mapping[str, Any]) -> tuple[Any | None, Field | None]:
    """The type that a dotted key takes, and its field."""
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
            return None, None
        path = f"{path}.{name}" if path else name
    return kind, field


def _owner(chosen: Any, field: Field | None, kind: Any) -> type | None:
    """The class whose fields are below a key: the chosen one, else the one that chz would make."""
    if isinstance(chosen, Part):
        return type(chosen)
    if not isinstance(chosen, type):
        chosen = (class_made_of(field) if field is not None else None) or part_type(kind)
    return chosen if isinstance(chosen, type) and chz.is_chz(chosen) else None
