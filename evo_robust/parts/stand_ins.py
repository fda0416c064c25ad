"""Stand-ins for parts whose classes are missing, so that a run with a user's own parts can be read as data.

A run names the Python file that defines its parts. A stranger's file must not be run without consent, so a run can be
listed and drawn without it. A stand-in has the values that the run records, and does nothing.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import chz

from evo_robust.parts.base import Part, UserError

MODULE = "evo_robust_problem_"
"""Prefix of the module names of problem files, which are loaded by path."""


class StandIns:
    """Makes stand-ins for the unknown classes that a dotted part names.

    Attributes:
        values: the dotted values.
        reason: why the classes are missing.
        source: the file that defines the parts, if there is one; classes of other problem files do not count.
        about: name and unit of objectives, by key, such as ``objectives.0``.
        names: the unknown classes so far.
    """

    def __init__(
        self, values: Mapping[str, Any], reason: str, source: Path | None, about: Mapping[str, Mapping[str, str]]
    ) -> None:
        self.values, self.reason, self.source, self.about = values, reason, source, about
        self.names: list[str] = []

    @property
    def missing(self) -> str | None:
        """The missing classes in words; None where every class is known."""
        return tell(self.names, self.reason) if self.names else None

    def means(self, cls: type[Part]) -> bool:
        """Whether ``cls`` is neither from another problem file, nor from an earlier reading of this one."""
        if not cls.__module__.startswith(MODULE):
            return True
        module = sys.modules.get(cls.__module__)
        mine = self.source is not None and getattr(module, "__file__", None) == str(self.source)
        return mine and getattr(module, cls.__name__, None) is cls

    def make(self, base: type[Part], name: str, key: str) -> type[Part]:
        """A class ``name`` derived from ``base``, with the fields below ``key``."""
        self.names.append(name)
        below = [k[len(key) + 1 :] for k in self.values if k.startswith(f"{key}.")]
        known = chz.chz_fields(base)
        fields = {field for field in below if "." not in field and field not in known}
        namespace: dict[str, Any] = {
            "__module__": __name__,
            "__doc__": f"Stands for {name}.",
            "__annotations__": dict.fromkeys(sorted(fields), Any),
            "stand_in": self.reason,
        }
        for method in getattr(base, "__abstractmethods__", ()):
            refuse = _refuse(tell([name], self.reason))
            namespace[method] = property(refuse) if isinstance(getattr(base, method), property) else refuse
        for what in ("name", "unit"):  # nothing else: a file must not reach into the class
            if isinstance(told := self.about.get(key, {}).get(what), str):
                namespace[what] = _told(told)
        made: type[Part] = chz.chz(types.new_class(name, (base,), exec_body=lambda body: body.update(namespace)))
        return made

    def without_inner(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """``found`` without keys more than one level below a stand-in, since their parts cannot be made."""
        inside = [f"{k}." for k, v in found.items() if isinstance(v, type) and issubclass(v, Part) and v.stand_in]
        return {k: v for k, v in found.items() if not any("." in k[len(p) :] for p in inside if k.startswith(p))}


def tell(names: Iterable[str], reason: str) -> str:
    """The missing classes and the reason, such as ``Depth, Length: defined in theirs.py, which …``."""
    return f"{', '.join(dict.fromkeys(names))}: {reason}"


def _told(value: str) -> property:
    return property(lambda _: value)


def _refuse(missing: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise UserError(missing)

    return refuse
