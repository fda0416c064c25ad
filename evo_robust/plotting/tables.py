"""Compares the fronts of several runs by the search's figures: top-N tables, and pairs of networks of equal FLOPs.

RoCo-NAS's Tables III to V have this form, but with figures of networks that were trained after the search.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evo_robust.files import write_csv
from evo_robust.objectives.figures import figures_of
from evo_robust.parts.base import UserError
from evo_robust.record.view import View

TOP = (1, 3, 5)
"""How many networks RoCo-NAS averages in Tables III and IV, Figs. 3 and 4."""


SEARCH_TIME = (
    "Figures from the search. RoCo-NAS's tables have figures of networks that were trained again after the search "
    "and measured on test images (see the command retrain)."
)
"""Note for readers of these numbers."""


def common_columns(views: Sequence[View]) -> list[str]:
    """Columns that every run has for all its networks: objectives first, then recorded figures."""
    objectives = dict.fromkeys(name for view in views for name in view.run.objectives)
    figures = dict.fromkeys(name for view in views for row in view.figures for name in row)
    names = dict.fromkeys([*objectives, *figures])
    return [name for name in names if all(np.isfinite(view.column(name)).all() for view in views)]


def common_objectives(views: Sequence[View]) -> list[str]:
    """Columns that every run has and at least one run minimises, in declared order.

    Raises:
        UserError: there are none, or FLOPs are counted by different rules.
    """
    wanted = dict.fromkeys(name for view in views for name in view.run.objectives)
    # objectives of all runs come first; a column that some run only recorded compares them as well
    found = [name for name in common_columns(views) if name in wanted]
    if not found:
        each = "; ".join(f"{view.name}: {', '.join(view.run.objectives)}" for view in views)
        raise UserError(f"these runs have no objective in common ({each})")
    for name in found:
        units = {view.name: view.unit(name) for view in views if view.unit(name)}
        if len(set(units.values())) > 1:
            each = ", ".join(f"{unit} in {run}" for run, unit in units.items())
            raise UserError(f"{name} is counted differently in these runs ({each}): it cannot be compared")
    return found


@dataclasses.dataclass(frozen=True)
class Top:
    """Mean figures of the networks of a front with the fewest FLOPs.

    Attributes:
        run: name of the run.
        n: number of networks asked for.
        networks: number of networks averaged, at most n; fewer on a smaller front.
        means: mean by column.
    """

    run: str
    n: int
    networks: int
    means: dict[str, float]


def top_tables(views: Sequence[View], columns: Sequence[str]) -> list[Top]:
    """Top-1, top-3 and top-5 of each run by the search's figures, in the form of Tables III and IV.

    Raises:
        UserError: a run holds no FLOPs.
    """
    _need_flops(views, columns)
    tables = []
    for n, view in itertools.product(TOP, views):
        order = np.argsort(view.column("flops")[view.front], kind="stable")[:n]
        chosen = view.front[order]
        means = {name: float(view.column(name)[chosen].mean()) for name in columns}
        tables.append(Top(view.name, n, len(chosen), means))
    return tables


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two networks of nearly equal FLOPs from the fronts of two runs.

    Attributes:
        first: the run and the network's index on its front.
        second: the same for the other run.
        difference: relative difference of their FLOPs.
    """

    first: tuple[View, int]
    second: tuple[View, int]
    difference: float


def equal_flops_pairs(views: Sequence[View], tolerance: float) -> list[Pair]:
    """Pairs of networks of nearly equal FLOPs, from the first run and each other run (RoCo-NAS, Table V).

    Args:
        views: two or more runs.
        tolerance: largest relative difference of FLOPs, such as .02.

    Returns:
        The pairs, closest first. Each network is in at most one pair.
    """
    pairs = []
    for other in views[1:]:
        first, second = (view.column("flops")[view.front] for view in (views[0], other))
        difference = np.abs(first[:, None] - second[None]) / np.maximum(first[:, None], second[None])
        found = []
        for _ in range(min(difference.shape)):
            i, j = np.unravel_index(int(difference.argmin()), difference.shape)
            if difference[i, j] > tolerance:
                break
            found.append(Pair((views[0], int(i)), (other, int(j)), float(difference[i, j])))
            difference[i, :], difference[:, j] = np.inf, np.inf
        pairs += sorted(found, key=lambda pair: first[pair.first[1]])
    return pairs


def pair_sides(pair: Pair, columns: Sequence[str]) -> list[tuple[str, int, str, dict[str, float]]]:
    """Run, index, architecture and figures of both networks of a pair."""
    sides = []
    for view, index in (pair.first, pair.second):
        row = view.run.front[index]
        numbers = figures_of(row)
        sides.append((view.name, index, row["architecture"], {name: numbers[name] for name in columns}))
    return sides


def write_top(tables: Sequence[Top], columns: Sequence[str], path: Path) -> None:
    """Write the top-N table as CSV, with values as recorded; ``measured`` says that they are the search's."""
    rows = [[t.n, t.run, t.networks, "search", *(t.means[name] for name in columns)] for t in tables]
    write_csv(path, ["top", "run", "networks", "measured", *columns], rows)


def write_pairs(pairs: Sequence[Pair], columns: Sequence[str], path: Path) -> None:
    """Write the pairs as CSV, two lines each, with values as recorded; ``measured`` says that they are the search's."""
    rows = []
    for number, pair in enumerate(pairs, 1):
        for run, index, architecture, figures in pair_sides(pair, columns):
            rows.append([number, run, index, f"{pair.difference:.6f}", "search", *figures.values(), architecture])
    write_csv(path, ["pair", "run", "index", "flops_difference", "measured", *columns, "architecture"], rows)


def _need_flops(views: Sequence[View], columns: Sequence[str]) -> None:
    if "flops" not in columns:
        missing = [view.name for view in views if not np.isfinite(view.column("flops")).all()]
        raise UserError(f"top-N tables need FLOPs, and {' and '.join(missing)} has none: add the objective Flops")
