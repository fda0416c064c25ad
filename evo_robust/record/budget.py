"""Limits on the cost of a chosen network: ``small``, ``medium`` or ``large``, or conditions such as ``params<5e6``."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from evo_robust.objectives.figures import figures_of
from evo_robust.parts.base import Fraction, UserError, nearest, spelt
from evo_robust.record.run import Run, comparable, front_of
from evo_robust.spaces.structure import BUDGETS, Structure

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Limit:
    """A condition on a recorded figure.

    Attributes:
        name: an objective, or another figure in the ledger, such as ``robust_error.0.05``.
        value: its limit, finite, in the figure's unit.
        inclusive: whether the limit itself is allowed (``<=``).
    """

    name: str
    value: float
    inclusive: bool

    def holds(self, value: float) -> bool:
        """Whether a figure meets the condition."""
        return value <= self.value if self.inclusive else value < self.value


@dataclasses.dataclass(frozen=True)
class WithinBudget:
    """Conditions that a network must all meet.

    Attributes:
        text: what the user typed, without spaces.
        size: class by number of convolutions per cell, or None.
        limits: conditions on figures.
    """

    text: str
    size: str | None
    limits: tuple[Limit, ...]

    @property
    def label(self) -> str:
        """The budget in names of folders: ``small``, ``params-below-5e6``, ``params-up-to-5e6``."""
        words = self.text.replace("<=", "-up-to-").replace("<", "-below-")
        return re.sub(r"[^\w.+-]+", "-", words)


def parse_budget(text: str) -> WithinBudget:
    """The budget that ``text`` describes: a class, conditions ``NAME<NUMBER`` or ``NAME<=NUMBER``, or both.

    Raises:
        UserError: ``text`` is no such budget.

    Example:
        >>> parse_budget("small, params<5e6").size
        'small'
    """
    text = re.sub(r"\s", "", text)
    sizes: list[str] = []
    limits: list[Limit] = []
    for part in text.split(","):
        if spelt(part, BUDGETS) in BUDGETS:
            sizes.append(spelt(part, BUDGETS))
        elif match := re.fullmatch(r"([^<>=]+)<(=?)([^<>=]+)", part):
            limits.append(Limit(match[1], _number(match[3], text), inclusive=bool(match[2])))
        else:
            raise UserError(
                f"budget={text}: {part!r} is neither a class nor a condition such as params<5e6 or flops<=1e9 "
                f"(in quotes, for the shell); {nearest(part, BUDGETS)}"
            )
    if len(sizes) > 1:
        raise UserError(f"budget={text}: expected one class, got {' and '.join(sizes)}")
    return WithinBudget(text, sizes[0] if sizes else None, tuple(limits))


def _number(text: str, whole: str) -> float:
    try:
        value = float(Fraction.read(text))
    except ValueError as error:
        raise UserError(f"budget={whole}: {error}") from None
    if not math.isfinite(value):
        raise UserError(f"budget={whole}: expected a finite number, got {text}")
    return value


def spelt_as_in(run: Run, budget: WithinBudget) -> WithinBudget:
    """The budget with the capitals that the run's figures have: ``FLOPs<1e6`` limits ``flops``."""
    known = _figures_in(comparable(run.evaluations))
    limits = tuple(dataclasses.replace(limit, name=spelt(limit.name, known)) for limit in budget.limits)
    return dataclasses.replace(budget, limits=limits)


def _figures_in(rows: Iterable[Row]) -> list[str]:
    return sorted({name for row in rows for name in figures_of(row)})


def within(run: Run, budget: WithinBudget) -> Run:
    """The run, with the front of those of its networks that the budget allows.

    A network that is dominated in the whole run may be on this front. As for every front, only rows of the latest
    fingerprint count.

    Raises:
        UserError: the run has no such figure, its space knows no budget classes, or no network meets the budget.
    """
    rows = comparable(run.evaluations)
    if not rows:
        return run  # no front at all: the caller reports that
    known = _figures_in(rows)
    for limit in budget.limits:
        if limit.name not in known:
            raise UserError(f"budget={budget.text}: no figure {limit.name!r} in this run; {nearest(limit.name, known)}")
    sizes = [structure_of(run, row).budget for row in rows] if budget.size else [None] * len(rows)
    kept = [row for row, size in zip(rows, sizes, strict=True) if size == budget.size and _allowed(row, budget.limits)]
    if not kept:
        raise UserError(f"no network of {run.folder} is within budget={budget.text}: {_reasons(rows, sizes, budget)}")
    return dataclasses.replace(run, evaluations=kept, front=front_of(kept, run.objectives))


def _allowed(row: Row, limits: tuple[Limit, ...]) -> bool:
    figures = figures_of(row)
    return all(limit.name in figures and limit.holds(figures[limit.name]) for limit in limits)


def structure_of(run: Run, row: Row) -> Structure:
    """The structure of a row's network: its operations, density and budget class.

    Raises:
        UserError: the run's space gives no structure.
    """
    space = run.problem.space
    structure = space.structure(space.from_text(row["architecture"]))
    if structure is None:
        raise UserError(f"{type(space).__name__} knows no classes {', '.join(BUDGETS)}: expected budget=params<5e6 …")
    return structure


def _reasons(rows: list[dict[str, Any]], sizes: list[Any], budget: WithinBudget) -> str:
    """How many networks meet each part of the budget, and how close the others come."""
    said = []
    if budget.size:
        counts = ", ".join(f"{sizes.count(size)} {size}" for size in BUDGETS)
        said.append(f"of its {len(rows)} networks {counts}")
    for limit in budget.limits:
        values = {row["id"]: figures_of(row).get(limit.name, math.inf) for row in rows}
        smallest = min(values, key=lambda i: (values[i], i))
        said.append(
            f"{sum(map(limit.holds, values.values()))} of {len(rows)} meet the condition on {limit.name}, whose "
            f"smallest is {values[smallest]:,.10g} (evaluation {smallest})"
        )
    return "; ".join(said)
