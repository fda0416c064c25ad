"""RoCo-NAS's tables from judged networks: means over the lightest of a front, and pairs of equal FLOPs."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from evo_robust.judging.judgement import Judgement, Verdict

TOP = (1, 3, 5)
"""How many networks RoCo-NAS averages in Tables III and IV, Figs. 3 and 4."""

TOLERANCE = 0.02
"""Largest relative difference of the FLOPs of a pair: Table V's differ by 6 %, these by less."""


@dataclasses.dataclass(frozen=True)
class Top:
    """Mean figures of the networks of a search with the fewest FLOPs.

    Attributes:
        group: name of the search.
        n: how many networks were asked for.
        networks: how many there are, at most n.
        training: how they were trained, see :func:`training_of`.
        params: their mean number of parameters.
        flops: their mean FLOPs.
        accuracy: mean accuracy in [0, 1] by column.
    """

    group: str
    n: int
    networks: int
    training: str
    params: float
    flops: float
    accuracy: dict[str, float]


def groups_of(judgement: Judgement) -> dict[str, list[Verdict]]:
    """Networks of each search, lightest first; only those whose FLOPs are known, of searches with two or more."""
    found: dict[str, list[Verdict]] = {}
    for verdict in judgement.verdicts:
        if verdict.group is not None and verdict.flops is not None:
            found.setdefault(verdict.group, []).append(verdict)
    return {name: sorted(v, key=lambda one: one.flops or 0.0) for name, v in found.items() if len(v) > 1}


def training_of(verdicts: Sequence[Verdict]) -> str:
    """How networks were trained, in words for tables: the paper's were trained again after the search."""
    found = list(dict.fromkeys(verdict.recipe or "not known" for verdict in verdicts))
    return found[0] if len(found) == 1 else "in several ways"


def tops(judgement: Judgement) -> list[Top]:
    """Top-1, top-3 and top-5 of each search by FLOPs (RoCo-NAS, Tables III and IV)."""
    return [
        _top(name, n, networks[:n], judgement.columns)
        for n, (name, networks) in itertools.product(TOP, groups_of(judgement).items())
    ]


def _top(group: str, n: int, networks: Sequence[Verdict], columns: Sequence[str]) -> Top:
    found = [{figure.column: figure.accuracy for figure in verdict.figures} for verdict in networks]
    whole = [column for column in columns if all(column in figures for figures in found)]
    return Top(
        *(group, n, len(networks), training_of(networks)),
        params=sum(v.params for v in networks) / len(networks),
        flops=sum(v.flops or 0.0 for v in networks) / len(networks),
        accuracy={column: sum(figures[column] for figures in found) / len(found) for column in whole},
    )


def pairs(judgement: Judgement, tolerance: float = TOLERANCE) -> list[tuple[Verdict, Verdict]]:
    """Networks of nearly equal FLOPs from the first search and each other one (RoCo-NAS, Table V), closest first.

    Each network is in at most one pair.

    Args:
        judgement: with networks of two or more searches.
        tolerance: largest relative difference of FLOPs.
    """
    first, *others = [*groups_of(judgement).values()] or [[]]
    chosen: list[tuple[Verdict, Verdict]] = []
    for other in others:
        close = sorted(itertools.product(first, other), key=lambda pair: _difference(*pair))
        taken: set[str] = set()
        for one, two in close:
            if _difference(one, two) <= tolerance and not taken & {one.name, two.name}:
                taken |= {one.name, two.name}
                chosen.append((one, two))
    return chosen


def _difference(one: Verdict, two: Verdict) -> float:
    """Relative difference of the FLOPs of two networks."""
    a, b = one.flops or 0.0, two.flops or 0.0
    return abs(a - b) / max(a, b, 1e-9)
