"""Makes parts from ``key=value`` arguments of a command line, with one clear message for a wrong one."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import chz

from evo_robust.parts.base import UserError, nearest
from evo_robust.parts.chz_inside import Argument, Missing, Refused, Unknown, arguments_of, build, is_required
from evo_robust.parts.layers import below
from evo_robust.parts.paths import at_home
from evo_robust.parts.plain import read
from evo_robust.parts.resolve import Unfit, missing_part, resolved

T = TypeVar("T")


class HelpRequested(Exception):
    """``--help`` was given.

    Attributes:
        cls: the class that would have been made.
        arguments: the keys that it takes, with the given values.
    """

    def __init__(self, cls: Callable[..., object], arguments: Sequence[Argument]) -> None:
        super().__init__("--help")
        self.cls, self.arguments = cls, tuple(arguments)


def split(argv: list[str], main: str | None = None) -> dict[str, str]:
    """Arguments ``key=value`` as a dictionary; ``--help`` becomes the key ``--help``.

    Args:
        argv: the arguments.
        main: the key that a first argument without one is probably meant for, such as ``problem`` in ``run roco``.

    Raises:
        UserError: an argument without ``=`` or a key given twice.
    """
    found: dict[str, str] = {}
    for argument in argv:
        if argument in ("--help", "-h", "help"):
            found["--help"] = ""
            continue
        key, equals, value = argument.partition("=")
        if not equals or not key:
            first = main is not None and not found and re.fullmatch(r"[\w./~][^=]*", argument)
            hint = f": did you mean {shlex.quote(f'{main}={argument}')}?" if first else ""
            raise UserError(f"expected key=value, got {argument!r}{hint}")
        if key in found:
            raise UserError(f"{key} is given twice: {key}={found[key]} and {key}={value}")
        found[key] = value
    return found


def parse(cls: Callable[..., T], argv: list[str], name: str) -> T:
    """An instance of the chz class ``cls`` from ``key=value`` arguments.

    Raises:
        UserError: a key is unknown, or a value is unreadable or refused; the message gives the nearest right one.
        HelpRequested: ``--help`` was given.
    """
    given = split(argv, next(iter(chz.chz_fields(cls))))
    refuse_nothing(cls, given)
    return make(cls, given, {}, name)


def refuse_nothing(cls: Callable[..., Any], given: Mapping[str, str]) -> None:
    """Refuse ``key=`` without a value, which may be an unset variable of a script; ``cls`` has the keys.

    Raises:
        UserError: a value is empty; the message names the key.
    """
    for key, value in given.items():
        if not value.strip() and key != "--help":
            field = chz.chz_fields(cls).get(key)
            advice = "" if field is None or is_required(field) else f"; without {key}= its default is used"
            raise UserError(f"{key}={value}: expected a value, got nothing{advice}")


def make(cls: Callable[..., T], given: Mapping[str, str], base: Mapping[str, Any], name: str) -> T:
    """Like :func:`parse`, over ``base`` values that the arguments override; see ``below``."""
    given = _at_home(cls, given)
    asked_help = given.pop("--help", None) is not None
    base = below(cls, given, base)  # type: ignore[arg-type] # mypy knows no classes that are callables
    try:
        values = resolved(cls, given, base, read)  # type: ignore[arg-type]
    except Unfit as error:
        raise UserError(str(error)) from None
    layers = [(name, base), (GIVEN, values)]
    try:
        if asked_help:
            raise HelpRequested(cls, arguments_of(cls, layers))
        return build(cls, layers)
    except Unknown as error:
        raise UserError(f"unknown key {error.key!r}: {_nearest_key(error.key, _keys(cls, layers))}") from error
    except Missing as error:
        raise UserError(f"missing: {error.keys} (give it as KEY=VALUE)") from error
    except TypeError as error:  # a field needs a part of an abstract class, and none was named
        missing = missing_part(cls, {**base, **values})  # type: ignore[arg-type]
        raise UserError(missing or str(error)) from error
    except ValueError as error:
        raise UserError(str(error)) from error


def _at_home(cls: Callable[..., object], given: Mapping[str, str]) -> dict[str, str]:
    """``given`` with ``~`` replaced by the home folder in keys that are paths."""
    fields = chz.chz_fields(cls)
    paths = {key for key in given if key in fields and (fields[key].metadata or {}).get("path")}
    return {key: at_home(text) if key in paths else text for key, text in given.items()}


GIVEN = "command line"
"""Name of the layer with the values of the arguments."""


def _keys(cls: Callable[..., object], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """The keys that a class takes; empty where chz cannot list them."""
    try:
        return [argument.key for argument in arguments_of(cls, layers)]
    except Refused:
        return []


def _nearest_key(key: str, known: list[str]) -> str:
    """A hint with the nearest key: one of the same part, else the same name below it or elsewhere."""
    part, _, name = key.rpartition(".")
    names = {k: k.rpartition(".")[2] for k in known}
    beside = [k for k in known if k.rpartition(".")[0] == part]
    if part and not beside:  # the part itself is misspelt
        return nearest(key, known)
    places = beside if part else known
    close = difflib.get_close_matches(name, dict.fromkeys(names[k] for k in places), n=1, cutoff=0.6)
    same = [k for k in known if names[k] == name]
    found = [k for k in places if names[k] in close] or [k for k in same if k.startswith(f"{part}.")] or same
    if found:
        return f"did you mean {' or '.join(map(repr, found))}?"
    return f"{part} takes {', '.join(sorted(names[k] for k in beside))}" if part else nearest(key, beside)
