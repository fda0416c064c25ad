"""All uses of chz's private attributes and of the text of its messages.

A newer chz may change them without notice. So they are only in this file, ``pyproject.toml`` limits chz's version, and
``tests/parts/test_chz_inside.py`` fails when one of them changes.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import chz
from chz.blueprint import _entrypoint
from chz.field import Field

__all__ = ["Argument", "Field", "Missing", "Refused", "Unknown", "arguments_of", "build", "values_of"]

T = TypeVar("T")


class Refused(ValueError):
    """chz refuses values; the message is chz's own, on one line."""


class Unknown(Refused):
    """A key that no part takes.

    Attributes:
        key: the key.
    """

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key


class Missing(Refused):
    """Keys without a default that were not given.

    Attributes:
        keys: the keys as chz lists them, such as ``data, recipe``.
    """

    def __init__(self, keys: str, text: str) -> None:
        super().__init__(text)
        self.keys = keys


@dataclasses.dataclass(frozen=True)
class Argument:
    """A key that a part takes.

    Attributes:
        key: dotted, such as ``recipe.lr``.
        kind: the type of its field.
        doc: its description.
        value: its value in the given layers, or its default; a class where a part is made.
        layer: name of the layer that the value is from, as given to ``build``; None for the default.
        required: whether it must be given.
    """

    key: str
    kind: Any
    doc: str
    value: Any
    layer: str | None = None
    required: bool = False


Layers = Sequence[tuple[str, Mapping[str, Any]]]
"""Layers of values by dotted key, each with a name; later layers override earlier ones."""


def values_of(part: object) -> dict[str, Any]:
    """The values of a part by dotted key: classes where parts are, everything else as it is."""
    return dict(chz.beta_to_blueprint_values(part))


def _blueprint(cls: Callable[..., T], layers: Layers) -> chz.Blueprint[T]:
    blueprint = chz.Blueprint(cls)
    for name, values in layers:
        blueprint = blueprint.apply(dict(values), layer_name=name)
    return blueprint


def build(cls: Callable[..., T], layers: Layers) -> T:
    """An instance of a chz class from values by dotted key.

    Raises:
        Refused: a key is unknown (``Unknown``) or missing (``Missing``), or chz refuses a value.
        TypeError: a field needs a part of an abstract class, and none was named.
        ValueError: the class refused the values.
    """
    try:
        return _blueprint(cls, layers).make()
    except _entrypoint.EntrypointException as error:
        raise _read(error) from error


def _read(error: Exception) -> Refused:
    """The first paragraph of chz's message as one of our errors; the rest is about command lines."""
    text = str(error).strip().partition("\n\n")[0].replace("\n", " ")
    if match := re.match(r"Extraneous argument '([^']+)'", text):
        return Unknown(match[1], text)
    if match := re.match(r"Missing required arguments? for parameter\(s\): (.*)", text):
        return Missing(match[1], text)
    return Refused(text)


def arguments_of(cls: Callable[..., object], layers: Layers) -> list[Argument]:
    """Every key that a class takes with these values, in order; the keys of a part come after the part.

    Raises:
        Refused: chz cannot list them with these values.
    """
    blueprint = _blueprint(cls, layers)
    try:
        made = blueprint._make_lazy()
    except (_entrypoint.EntrypointException, TypeError) as error:
        raise _read(error) from error
    found = []
    for key, parameter in made.all_params.items():
        if not key:
            continue
        given = blueprint._arg_map.get_kv(key)
        default = parameter.default
        if given is not None:
            value, layer = given.value, given.layer_name
        elif key in made.meta_factory_value:
            value, layer = made.meta_factory_value[key], None
        else:
            value, layer = (default.instantiate() if default is not None else None), None
        required = given is None and default is None and key not in made.meta_factory_value
        found.append(Argument(key, parameter.type, parameter.doc, value, layer, required))
    return found


def given_name(field: Field) -> str:
    """Name of the attribute with a field's given value, before the field converts it."""
    return field.x_name if field._munger is not None else field.logical_name


def default_of(field: Field) -> object:
    """A field's default; chz's marker for a missing value where there is none."""
    made = field._default_factory
    return made() if callable(made) else field._default


def is_default(field: Field, value: object) -> bool:
    """Whether a value is a field's default."""
    return bool(value == default_of(field))


def is_required(field: Field) -> bool:
    """Whether a field has no default."""
    return field._default is field._default_factory  # both are chz's marker for a missing value


def class_made_of(field: Field) -> type | None:
    """The class of the part that chz makes for a field by default; None where the field has no such class."""
    made = field._blueprint_unspecified
    return made if isinstance(made, type) else None
