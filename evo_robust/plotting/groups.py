"""Groups runs that repeat one search with other seeds: their members, their name and their figures."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evo_robust.files import write_csv
from evo_robust.parts.base import dotted
from evo_robust.record.reading import IMAGES
from evo_robust.record.view import View

LEAST = 3
"""Number of runs that a group needs for a test against another; with fewer, no test can show a difference."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one search with different seeds; a run without repeats is a group by itself.

    Attributes:
        name: the group's name in legends.
        views: its runs, in the given order.
    """

    name: str
    views: tuple[View, ...]

    @property
    def repeated(self) -> bool:
        """Whether the group has more than one run."""
        return len(self.views) > 1

    @property
    def label(self) -> str:
        """The group's name, with the number of runs if there are several: ``random, 5 seeds``."""
        return f"{self.name}, {len(self.views)} seeds" if self.repeated else self.name

    @property
    def budget(self) -> str:
        """Number of evaluations of its runs, such as ``120`` or ``116 to 120``."""
        return _range([view.n_asked for view in self.views])


def alone(views: Sequence[View]) -> list[Group]:
    """Every run as its own group."""
    return [Group(view.name, (view,)) for view in views]


def groups_of(views: Sequence[View]) -> list[Group]:
    """Groups of runs whose problems differ only in seeds; groups and their runs keep the given order.

    Only the seeds of the search and its evaluator (of candidates, of a supernet) may differ. Seeds of data and of
    adversarial sets change what is measured. Fields that are part of no identity, such as ``n_gen``, may differ too. A
    second run with the same seeds is no repeat, so it starts a second group.
    """
    times: collections.Counter[tuple[str, str]] = collections.Counter()
    found: dict[tuple[str, int], list[View]] = {}
    for view in views:
        values = dotted(view.run.problem, identity=True)
        values[IMAGES] = view.run.problem.data.content  # a run on other images is no repeat
        settings = json.dumps({key: v for key, v in values.items() if not _is_seed(key)}, sort_keys=True)
        seeds = json.dumps({key: v for key, v in values.items() if _is_seed(key)}, sort_keys=True)
        found.setdefault((settings, times[settings, seeds]), []).append(view)
        times[settings, seeds] += 1
    names = [_common_name([view.name for view in group]) for group in found.values()]
    return [
        Group(name if names.count(name) == 1 else group[0].name, tuple(group))
        for name, group in zip(names, found.values(), strict=True)
    ]


def _is_seed(key: str) -> bool:
    return key == "seed" or (key.startswith("evaluator.") and key.endswith(".seed"))


def _common_name(names: Sequence[str]) -> str:
    """The common beginning of names: ``random`` for ``random-0`` and ``random-1``; without one, the first name."""
    if len(names) == 1:
        return names[0]
    prefix = os.path.commonprefix(list(names))
    if any(name[len(prefix) :][:1].isdigit() for name in names):
        prefix = prefix.rstrip("0123456789")  # random-10 and random-11 share a digit of their seeds
    return re.sub(r"((^|[-_./= ]+)(seed|s))?[-_./= ]*$", "", prefix) or names[0]


@dataclasses.dataclass(frozen=True)
class Spread:
    """Values of a group's runs."""

    values: np.ndarray

    @property
    def mean(self) -> float:
        """The mean of the values."""
        return float(self.values.mean())

    @property
    def sd(self) -> float:
        """The sample standard deviation of the values; NaN for one value."""
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else math.nan

    @property
    def text(self) -> str:
        """Mean and standard deviation, such as ``0.712 ± 0.031``."""
        return f"{self.mean:.3f} ± {self.sd:.3f}" if len(self.values) > 1 else f"{self.mean:.3f}"


@dataclasses.dataclass(frozen=True)
class GroupStanding:
    """The hypervolume of a group's runs in the common box.

    Attributes:
        name: the group's name.
        end: hypervolume of each run after all its evaluations.
        at_equal_budget: hypervolume of each run after as many evaluations as the shortest of all runs had.
    """

    name: str
    end: Spread
    at_equal_budget: Spread

    @property
    def n(self) -> int:
        """Number of runs."""
        return len(self.end.values)


def p_value(a: GroupStanding, b: GroupStanding) -> float:
    """Two-sided Mann–Whitney p of two groups at equal budget; NaN where a group has fewer than ``LEAST`` runs."""
    if min(a.n, b.n) < LEAST:
        return math.nan
    from scipy.stats import mannwhitneyu  # a third of a second, which few pictures need

    return float(mannwhitneyu(a.at_equal_budget.values, b.at_equal_budget.values, alternative="two-sided").pvalue)


def smallest_p(n: int, m: int) -> float:
    """The smallest possible p for groups of n and m runs, where every run of one is above all runs of the other."""
    return 2 / math.comb(n + m, n)


def best_of(found: Sequence[GroupStanding]) -> GroupStanding:
    """The group with the highest mean at equal budget, among the groups that can be tested; else among all."""
    return max([g for g in found if g.n >= LEAST] or found, key=lambda g: g.at_equal_budget.mean)


def write_groups(found: Sequence[GroupStanding], path: Path) -> None:
    """Write the groups as CSV: runs, hypervolume in the common box at equal budget and at the end, p against others."""
    whats = ("mean", "sd", "min", "max")
    ends = ("common_box_hypervolume_at_equal_budget", "common_box_hypervolume")
    header = ["group", "runs", *(f"{end}_{what}" for end in ends for what in whats)]
    rows = []
    for group in found:
        row: list[object] = [group.name, group.n]
        for spread in (group.at_equal_budget, group.end):
            row += [_cell(v) for v in (spread.mean, spread.sd, float(spread.values.min()), float(spread.values.max()))]
        rows.append([*row, *("" if other is group else _cell(p_value(group, other)) for other in found)])
    write_csv(path, [*header, *(f"p_{group.name}" for group in found)], rows)


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.8g}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"
