"""Stand-ins for parts whose classes are not at hand, so that a run of somebody's own parts can be read as data.

A run names the Python file that defines its parts. Running a stranger's file is not for a reader to do unasked, so a
run can be listed and drawn without it: a stand-in has the values that the run records, and does nothing.
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
"""Modules of problem files, which are loaded by path, begin with this."""


class StandIns:
    """Makes stand-ins for the unknown classes that a dotted part names.

    Attributes:
        values: the dotted values.
        reason: why the classes are not at hand.
        source: the file that defines the parts, where there is one; classes of other problem files are not meant.
        about: name and unit of objectives, by the key that they stand under, such as ``objectives.0``.
        names: the classes that were asked for so far.
    """

    def __init__(
        self, values: Mapping[str, Any], reason: str, source: Path | None, about: Mapping[str, Mapping[str, str]]
    ) -> None:
        self.values, self.reason, self.source, self.about = values, reason, source, about
        self.names: list[str] = []

    @property
    def missing(self) -> str | None:
        """What is missing, in words; None where every class is known."""
        return tell(self.names, self.reason) if self.names else None

    def means(self, cls: type[Part]) -> bool:
        """Whether ``cls`` is no part of another problem file, nor of an earlier reading of this one."""
        if not cls.__module__.startswith(MODULE):
            return True
        module = sys.modules.get(cls.__module__)
        mine = self.source is not None and getattr(module, "__file__", None) == str(self.source)
        return mine and getattr(module, cls.__name__, None) is cls

    def make(self, base: type[Part], name: str, key: str) -> type[Part]:
        """A class ``name`` derived from ``base`` whose fields are those that stand below ``key``."""
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
        """``found`` without what stands deeper below a stand-in than its own fields, which nobody can make."""
        inside = [f"{k}." for k, v in found.items() if isinstance(v, type) and issubclass(v, Part) and v.stand_in]
        return {k: v for k, v in found.items() if not any("." in k[len(p) :] for p in inside if k.startswith(p))}


def tell(names: Iterable[str], reason: str) -> str:
    """What is missing, such as ``Depth, Length: defined in theirs.py, which …``."""
    return f"{', '.join(dict.fromkeys(names))}: {reason}"


def _told(value: str) -> property:
    return property(lambda _: value)


def _refuse(missing: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise UserError(missing)

    return refuse
