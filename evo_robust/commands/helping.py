"""The text of ``--help``: every key with its value, meaning and type, in groups, as wide as the terminal."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from evo_robust.parts.base import Part, choices, short_names
from evo_robust.parts.chz_inside import Argument
from evo_robust.parts.making import GIVEN, HelpRequested
from evo_robust.parts.plain import item_type, visible, wanted
from evo_robust.parts.resolve import part_type
from evo_robust.parts.typed import as_typed
from evo_robust.progress import output

WIDEST = 120
"""Letters of a line at most: longer ones are hard to read."""


def help_text(asked: HelpRequested, own: str = "keys", width: int | None = None) -> str:
    """The keys of a class, those of each part in a group of its own.

    Args:
        asked: the class and its keys.
        own: title of the keys that belong to no part.
        width: letters of a line; those of the terminal, 120 at most, when not given.
    """
    width = width or help_width()
    groups: dict[str, list[Argument]] = {own: []}
    for argument in asked.arguments:
        first = argument.key.partition(".")[0]
        if argument.key == first and _parts_of(argument.kind) is not None:
            groups[first] = []
        groups[first if first in groups else own].append(argument)
    lines = [visible(as_typed(first_line(asked.cls)))]
    for title, arguments in groups.items():
        if arguments:
            lines += ["", *_group(title, arguments, asked.arguments, width)]
    return "\n".join(lines)


def help_width() -> int:
    """Letters of a line of help: those of the terminal, but no more than can be read well."""
    return min(output().width, WIDEST)


def wrapped(text: str, indent: int) -> list[str]:
    """Lines of an entry of help; all but the first are indented by so many letters more."""
    further = " " * (2 + indent)
    return textwrap.wrap(text, help_width(), initial_indent="  ", subsequent_indent=further, break_on_hyphens=False)


def first_line(cls: object) -> str:
    """The first line of a class's docstring, in plain words."""
    return plain_words((inspect.getdoc(cls) or "").partition("\n")[0])


def plain_words(text: str) -> str:
    """A line of a docstring without its marks: ``x`` and :class:`~a.b.X` become x and X."""
    text = re.sub(r":[a-z]+:`(~?)([^`]*)`", lambda found: found[2].rpartition(".")[2] if found[1] else found[2], text)
    return re.sub(r"``?([^`]+)``?", r"\1", text)


NAMES = "Names of classes may be written without capitals: space=darts, data=mnist, algorithm=nsga2."


def _group(title: str, arguments: Sequence[Argument], everything: Sequence[Argument], width: int) -> list[str]:
    head, *rest = arguments
    if head.key != title:
        return [title, *(line for a in arguments for line in _entry(a, a.doc, everything, width))]
    lines = textwrap.wrap(f"{title}: {head.doc}", width)
    lines += _entry(head, "", everything, width)
    return lines + [line for a in rest for line in _entry(a, a.doc, everything, width)]


def _entry(argument: Argument, doc: str, everything: Sequence[Argument], width: int) -> list[str]:
    """A key with its value on one line, what it means below it."""
    value = "(has to be given)" if argument.required else _shown(argument, everything)
    given = "  (given)" if argument.layer == GIVEN else ""
    lines = textwrap.wrap(visible(f"{argument.key} = {value}{given}"), width, **_INDENTED)
    meaning = "; ".join(filter(None, (doc, _options(argument))))
    return lines + textwrap.wrap(visible(meaning), width, initial_indent=_DEEP, subsequent_indent=_DEEP)


_DEEP = " " * 6
_INDENTED: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": _DEEP, "break_on_hyphens": False}


def _parts_of(kind: Any) -> type[Part] | None:
    """The class of parts that a key takes, one or several of them; None where it takes plain values."""
    item = item_type(kind)
    return part_type(kind if item is None else item)


def _options(argument: Argument) -> str:
    """What a key takes, in words."""
    several, part = item_type(argument.kind) is not None, _parts_of(argument.kind)
    if part is None and several:
        return f"{wanted(item_type(argument.kind))}, several with commas between"
    if part is None:
        return wanted(argument.kind)
    if argument.key.rpartition(".")[2].isdecimal():  # one of several: the classes stand where all are named
        found = argument.value if isinstance(argument.value, type) else None
        return first_line(found) if found else ""
    short = {name: short for short, name in short_names(part).items()}
    names = [f"{name} or {short[name]}" if name in short else name for name in sorted(choices(part), key=str.lower)]
    if len(names) < 2 and not several:
        return ""
    return ("several of these, with commas between: " if several else "one of: ") + ", ".join(names)


def _shown(argument: Argument, everything: Sequence[Argument]) -> str:
    """A key's value as it is typed."""
    value = argument.value
    if item_type(argument.kind) is not None and _parts_of(argument.kind) is not None:
        depth = argument.key.count(".") + 1
        items = [a for a in everything if a.key.startswith(f"{argument.key}.") and a.key.count(".") == depth]
        value = tuple(a.value for a in items if a.key.rpartition(".")[2].isdecimal())
    if isinstance(value, tuple):
        return ",".join(map(_text, value)) or "none"
    return _text(value)


def _text(value: Any) -> str:
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Part):
        return type(value).__name__
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)
