"""The structure of an architecture, in one form for all spaces: operations between nodes, density, budget class."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

import numpy as np

Budget = Literal["small", "medium", "large"]
BUDGETS: tuple[Budget, ...] = get_args(Budget)

SMALL, MEDIUM = 7 / 14, 10 / 14
"""Largest share of a cell's places with convolutions, in a small and a medium budget (RobNet §3.4: 7, 10 of 14)."""


@dataclasses.dataclass(frozen=True)
class Operation:
    """One operation of an architecture, between two nodes of a cell or phase.

    Attributes:
        name: name of the operation, such as ``conv`` or ``identity``.
        cell: index of the cell or phase, from 0; 0 where all cells are alike.
        source: node that it reads.
        target: node that receives its output, > source.
        convolution: whether it has convolution weights at every stride.
    """

    name: str
    cell: int
    source: int
    target: int
    convolution: bool

    @property
    def direct(self) -> bool:
        """Whether it joins consecutive nodes (RobNet's direct edges j = i + 1); otherwise it is a skip."""
        return self.target == self.source + 1


@dataclasses.dataclass(frozen=True)
class Structure:
    """The operations of an architecture, and how many of the possible ones these are.

    Attributes:
        operations: all operations, cell by cell.
        cells: number of different cells (1 where they share one description), >= 1.
        places: places per cell that a convolution can take, >= 1.
        density: share in [0, 1] of the possible operations that are present (RobNet: D = Σα/28, eq. 2, of live edges).
    """

    operations: tuple[Operation, ...]
    cells: int
    places: int
    density: float

    @property
    def convolutions(self) -> float:
        """Number of convolutions per cell, the mean where cells differ."""
        return sum(o.convolution for o in self.operations) / self.cells

    @property
    def direct_convolutions(self) -> float:
        """Number of convolutions per cell that lie on direct edges, the mean where cells differ."""
        return sum(o.convolution and o.direct for o in self.operations) / self.cells

    @property
    def direct_share(self) -> float:
        """Share of the convolutions that lie on direct edges; NaN without convolutions."""
        convolutions = [o for o in self.operations if o.convolution]
        return sum(o.direct for o in convolutions) / len(convolutions) if convolutions else float("nan")

    @property
    def budget(self) -> Budget:
        """Budget class by convolutions per place: RobNet's small (≤ 7 of 14), medium (8–10) and large (≥ 11).

        Where cells differ, the mean number of convolutions is first rounded to a whole number.
        """
        return budget_of(self.convolutions, self.places)


def budget_of(convolutions: float, places: int) -> Budget:
    """Budget class of a number of convolutions per cell, for a cell with ``places`` for them.

    Example:
        >>> budget_of(9, places=14)
        'medium'
    """
    share = round(convolutions) / places
    return "small" if share <= SMALL else "medium" if share <= MEDIUM else "large"


def budget_range(budget: Budget, places: int) -> tuple[int, int]:
    """Smallest and largest number of convolutions per cell in a budget, for a cell with ``places`` for them.

    Raises:
        ValueError: there are so few places that no number falls into this budget.
    """
    inside = [n for n in range(places + 1) if budget_of(n, places) == budget]
    if not inside:
        raise ValueError(f"expected a cell with more places: 0 to {places} convolutions are never a {budget} budget")
    return inside[0], inside[-1]


def draw_count(rng: np.random.Generator, low: int, high: int, places: int, keep: float = 0.5) -> int:
    """A random number in low..high, binomial with ``places`` trials of probability ``keep``, in (0, 1)."""
    counts = np.arange(low, high + 1)
    ways = np.array([math.comb(places, int(n)) for n in counts], dtype=float)
    odds = ways * keep**counts * (1 - keep) ** (places - counts)
    return int(rng.choice(counts, p=odds / odds.sum()))
