"""Texts put over a problem: ``key.path=value``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from evo_robust.estimators.strengths import STRENGTHS, Strengths
from evo_robust.objectives.base import Objective
from evo_robust.parts.base import UserError, classes_called, dotted, nearest
from evo_robust.parts.chz_inside import values_of
from evo_robust.parts.layers import below, fractions, part_class, under
from evo_robust.parts.making import make
from evo_robust.problem.value import Problem, objectives_in

_TUPLES = ("objectives", "constraints", "recorded", "reported")


def override(problem: Problem, given: Mapping[str, str], label: str) -> Problem:
    """``problem`` with ``key.path: text`` values put over it.

    A part that is replaced loses the values below it, except those of fields that both parts have from a common base:
    ``algorithm=RandomSearch`` keeps ``pop_size`` and ``n_gen``, so that budgets stay equal. Strengths go by name too:
    ``objectives.0.strengths=plus`` are those of ``STRENGTHS``, as much larger as the problem's are.

    Raises:
        UserError: unknown key, part or value.
    """
    base = {key: fractions(value) for key, value in values_of(problem).items()}
    given = _expand_tuples(problem, dict(given), base)
    base = _bring_settings(problem, given, base)
    return make(Problem, _expand_strengths(given, base), base, label)


def _expand_strengths(given: dict[str, str], base: Mapping[str, Any]) -> dict[str, str]:
    """``objectives.0.strengths=plus`` as its values and N1, scaled so that the problem's smallest strength stays."""
    for key, name in list(given.items()):
        if base.get(key) is not Strengths or part_class(Strengths, name) is Strengths:
            continue
        if name.lower() not in STRENGTHS:
            own = f"numbers go to {key}.values=0.03,0.06"
            raise UserError(f"{key}={name}: unknown strengths ({own}): {nearest(name, STRENGTHS)}")
        named = STRENGTHS[name.lower()]
        smallest = base.get(f"{key}.values", named.values)[0]
        del given[key]
        for inside, value in dotted(named.scaled(smallest / named.values[0])).items():
            given.setdefault(f"{key}.{inside}", _text(value))
    return given


def _expand_tuples(problem: Problem, given: dict[str, str], base: dict[str, Any]) -> dict[str, str]:
    """``objectives=CleanError,Flops`` as ``objectives.0=CleanError objectives.1=Flops``; drops what ``base`` held."""
    for name in _TUPLES:
        if any(key.startswith(f"{name}.") for key in given) and not base.get(name, True):
            del base[name]  # an empty tuple would hide the items that are given
        if name not in given:
            continue
        names = [n.strip() for n in given.pop(name).split(",") if n.strip()]
        if not names and name == "objectives":
            raise UserError("expected at least one objective, got none (objectives is empty)")
        for key in [k for k in base if k == name or k.startswith(f"{name}.")]:
            del base[key]
        for index, n in enumerate(names):
            given.setdefault(f"{name}.{index}", n)
    _refuse_odd_places(given)
    return given


def _refuse_odd_places(given: Mapping[str, str]) -> None:
    """Refuse keys such as ``objectives.one``; places in a tuple are numbers."""
    for key in given:
        name, *below = key.split(".")
        if name in _TUPLES and not re.fullmatch(r"0|[1-9][0-9]*", (below or "0")[0]):
            raise UserError(f"unknown key {key!r}: expected {name}.0, {name}.1 and so on")


def _bring_settings(problem: Problem, given: Mapping[str, str], base: dict[str, Any]) -> dict[str, Any]:
    """Let an objective that moves to another tuple (such as ``recorded``) keep its settings in the problem.

    It leaves the tuple that it was in, if it would have the same name there, or would be measured twice.
    """
    declared: dict[type, Objective] = {}
    for objective in objectives_in((problem.objectives, problem.recorded, problem.reported, problem.constraints)):
        declared.setdefault(type(objective), objective)
    for key in sorted(given, key=lambda key: key.count(".")):  # a sum before its terms
        # a misspelt key is reported as it was typed, without added keys below it
        if key.partition(".")[0] not in _TUPLES:
            continue
        named = classes_called(Objective, given[key])
        if len(named) != 1 or base.get(key) is named[0]:
            continue
        base = below(Problem, {key: given[key]}, base)
        if (cls := named[0]) in declared:
            _take_out(declared[cls], key, given, base)
            # a label tells it from others where it was declared, and may name the attack that is now replaced
            base |= {**under(key, declared[cls]), f"{key}.label": None}
    return base


def _take_out(moved: Objective, to: str, given: Mapping[str, str], base: dict[str, Any]) -> None:
    """Take an objective out of the other tuples, now that it is at ``to``; tuples given by the user do not change."""
    if to.count(".") != 1 or to.partition(".")[0] not in ("objectives", "recorded") or f"{to}.label" in given:
        return  # a term of a sum, or what a constraint limits, may be measured by itself too
    changed = any(key.startswith(f"{to}.") for key in given)
    for name in ("recorded", "reported"):
        if to.startswith(f"{name}.") or any(key == name or key.startswith(f"{name}.") for key in given):
            continue
        items = {key: value for key, value in base.items() if key.startswith(f"{name}.")}
        kept = [i for i in _indices(items) if not _leaves(moved, f"{name}.{i}", items, changed)]
        for key in items:
            del base[key]
        for key, value in items.items():
            index, _, rest = key.removeprefix(f"{name}.").partition(".")
            if int(index) in kept:
                base[".".join(filter(None, (name, str(kept.index(int(index))), rest)))] = value


def _leaves(moved: Objective, place: str, items: Mapping[str, Any], changed: bool) -> bool:
    """Whether what is at a place has the name of the moved objective, or is that very objective, unchanged."""
    if items[place] is not type(moved):
        return False
    same = all(items.get(key) == value for key, value in under(place, moved).items())
    return items.get(f"{place}.label") is None or (same and not changed)


def _indices(items: Mapping[str, Any]) -> list[int]:
    return sorted({int(key.split(".")[1]) for key in items})


def _text(value: Any) -> str:
    return ",".join(map(_text, value)) if isinstance(value, list) else str(value)
