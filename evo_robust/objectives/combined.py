"""Several objectives as one."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import chz

from evo_robust.data.base import DataSet
from evo_robust.objectives.base import Candidate, Context, Objective
from evo_robust.objectives.figures import one_number
from evo_robust.parts.facts import Fact


@chz.chz
class WeightedSum(Objective):
    """Weighted sum of objectives; RoCo-NAS's public code adds natural and adversarial error, with weights 1.

    A sum fixes the trade-off beforehand, while a Pareto front leaves it open. Use it for comparisons.
    """

    of: tuple[Objective, ...] = chz.field(doc="objectives to add, at least one; each needs a trained network")
    weights: tuple[float, ...] = chz.field(default=(), doc="one weight > 0 for each; all 1 when not given")

    @chz.validate
    def _sound(self) -> None:
        if not self.of:
            raise ValueError("expected at least one objective in the sum, got none")
        if self.weights and len(self.weights) != len(self.of):
            raise ValueError(f"expected {len(self.of)} weights, one for each objective, got {len(self.weights)}")
        if any(not w > 0 for w in self.weights):
            raise ValueError(f"expected weights > 0, got {self.weights}")

    @property
    def unit(self) -> str:
        """The common unit of the terms; a sum of fractions may exceed 1, so it has a unit of its own."""
        units = {objective.unit for objective in self.of}
        if len(units) > 1 or self.weights:
            return "weighted sum"
        unit = units.pop()
        return "sum of fractions" if unit == "fraction" else unit

    @property
    def attacked(self) -> str:
        """See :attr:`Objective.attacked`."""
        return " and ".join(objective.attacked for objective in self.of if objective.attacked)

    def prepare(self, context: Context) -> None:
        """See :meth:`Objective.prepare`."""
        for objective in self.of:
            objective.prepare(context)

    def builds(self, context: Context) -> Sequence[Path]:
        """See :meth:`Objective.builds`."""
        return [file for objective in self.of for file in objective.builds(context)]

    def check(self, data: DataSet) -> None:
        """See :meth:`Objective.check`."""
        for objective in self.of:
            objective.check(data)

    @property
    def reads(self) -> frozenset[Fact]:
        """See :attr:`Objective.reads`."""
        return frozenset().union(*(objective.reads for objective in self.of))

    def state(self, context: Context) -> str:
        """See :meth:`Objective.state`."""
        return "".join(objective.state(context) for objective in self.of)

    def former_states(self, context: Context) -> Sequence[str]:
        """See :meth:`Objective.former_states`."""
        known = ((objective.state(context), *objective.former_states(context)) for objective in self.of)
        return ["".join(states) for states in itertools.product(*known)]

    def measure(self, candidate: Candidate) -> float:
        """The sum."""
        weights = self.weights or (1.0,) * len(self.of)
        return sum(
            w * one_number(objective.name, objective.measure(candidate))
            for w, objective in zip(weights, self.of, strict=True)
        )
