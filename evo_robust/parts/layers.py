"""Base values below those given: what a replaced part keeps, and defaults of parts inside parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import chz

from evo_robust.parts.base import Part, classes_called
from evo_robust.parts.chz_inside import default_of, is_default, values_of
from evo_robust.parts.plain import Fraction
from evo_robust.parts.resolve import field_at


def under(key: str, part: Part) -> dict[str, Any]:
    """A part and its values, by dotted keys that begin with ``key``."""
    return {key: type(part), **{f"{key}.{k}": fractions(v) for k, v in values_of(part).items()}}


def fractions(value: Any) -> Any:
    """Floats as ``Fraction``, since files may write ``eps=(0.1, 0.2)``, but chz needs the field's own type."""
    if isinstance(value, tuple):
        return tuple(map(fractions, value))
    return Fraction(value) if type(value) is float else value


def below(cls: type, given: Mapping[str, str], base: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the changes that make it fit below ``given``.

    - A part that is replaced loses its values, except those of fields that both parts have from a common base.
    - Where a field of a part inside a part is given, the outer part's default for the inner part is added. Otherwise
      chz would make a new inner part, and ``recipe.attack.steps=10`` would lose the loss of that recipe's attack.

    Args:
        cls: the class whose fields the keys name.
        given: texts by dotted key.
        base: values by dotted key, with classes for parts.
    """
    found = dict(base)
    for key in sorted(given, key=lambda key: key.count(".")):  # a part's class before what is below it
        _lay_defaults(cls, key, found)
        if isinstance(old := found.get(key), type):
            _replace(key, old, given[key], found)
    return found


def _lay_defaults(cls: type, key: str, found: dict[str, Any]) -> None:
    """Add the defaults of all parts on the way to a key, and of the part at the key."""
    path = ""
    for name in key.split("."):
        path = f"{path}.{name}" if path else name
        if path in found:
            continue
        field = field_at(cls, path, found)
        default = default_of(field) if field is not None else None
        if isinstance(default, Part):
            found.update({k: v for k, v in _set_in(path, default).items() if k not in found})


def _set_in(key: str, part: Part) -> dict[str, Any]:
    """Like :func:`under`, without values that are the class's own defaults: another class may have others."""
    fields = chz.chz_fields(part)
    usual = {name for name, field in fields.items() if is_default(field, getattr(part, name))}
    depth = key.count(".") + 1
    return {k: v for k, v in under(key, part).items() if k == key or k.split(".")[depth] not in usual}


def _replace(key: str, old: type, text: str, found: dict[str, Any]) -> None:
    """Remove the values that a part of another class does not keep."""
    inner = [k for k in found if k.startswith(f"{key}.")]
    if text == "None":  # the part's values go with it
        for k in inner:
            del found[k]
        return
    new = part_class(old, text)
    if new is None or new is old:
        return
    shared = _shared_fields(old, new)
    for k in inner:
        if k[len(key) + 1 :].split(".")[0] not in shared:
            del found[k]
    found[key] = new


def _shared_fields(old: type, new: type) -> set[str]:
    common = next(cls for cls in old.__mro__ if issubclass(new, cls))
    return set(chz.chz_fields(common)) if chz.is_chz(common) else set()


def part_class(old: type, text: str) -> type | None:
    """The class of the same kind as ``old`` with this name; None where there is none, or several."""
    root = [cls for cls in old.__mro__ if isinstance(cls, type) and issubclass(cls, Part) and cls is not Part][-1]
    found = classes_called(root, text)
    return found[0] if len(found) == 1 else None
