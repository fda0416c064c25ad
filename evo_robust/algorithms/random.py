"""Random search, the baseline for every other search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import chz
import numpy as np
from pymoo.core.algorithm import Algorithm as PymooAlgorithm
from pymoo.core.population import Population
from pymoo.util.optimum import filter_optimum

from evo_robust.algorithms.base import Algorithm
from evo_robust.algorithms.operators import DistinctSampling
from evo_robust.objectives.base import Objective
from evo_robust.spaces.base import SearchSpace
from evo_robust.spaces.structure import Budget

if TYPE_CHECKING:
    from evo_robust.algorithms.adapter import SearchProblem


@chz.chz
class RandomSearch(Algorithm):
    """Different architectures from uniform random genomes, ``pop_size`` at a time.

    With ``budgets`` every generation has the same number of architectures of each budget (the first ones get the
    remainder), so that rare budgets are as frequent as common ones. RobNet's study of budgets samples so (100 of each).
    """

    budgets: tuple[Budget, ...] = chz.field(
        default=(),
        doc="budget classes (by number of convolutions) to draw equally from: small, medium, large or some of them; "
        "when empty, all genomes have the same probability",
    )

    @chz.validate
    def _known_budgets(self) -> None:
        if len(set(self.budgets)) < len(self.budgets):
            raise ValueError(f"expected different algorithm.budgets, got {','.join(self.budgets)}")
        if self.pop_size < len(self.budgets):
            raise ValueError(
                f"expected algorithm.pop_size >= {len(self.budgets)}, one for each of algorithm.budgets, "
                f"got {self.pop_size}"
            )

    @property
    def caution(self) -> str:
        """See :attr:`Algorithm.caution`."""
        if self.budgets:
            return "As many networks were drawn from each budget: rare ones weigh more than in the whole space."
        return ""

    def check(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        """See :meth:`Algorithm.check`: the space must know budgets, and have architectures of each wanted budget."""
        super().check(space, objectives)
        for budget in self.budgets:
            try:
                space.sample_in(np.random.default_rng(0), budget)
            except ValueError as error:
                raise ValueError(f"algorithm.budgets={','.join(self.budgets)}: {error}") from None

    def build(self, problem: SearchProblem) -> PymooAlgorithm:
        """See :meth:`Algorithm.build`."""
        algorithm = _Random(self.pop_size, self.budgets)
        return algorithm.setup(problem, seed=problem.seed, termination=("n_gen", self.n_gen))


class _Random(PymooAlgorithm):
    """Random search without duplicates; pymoo's own accepts them, and keeps only single objectives."""

    def __init__(self, batch: int, budgets: tuple[Budget, ...]) -> None:
        super().__init__()
        self.batch = batch
        self.sampling = DistinctSampling(budgets=budgets)

    def _initialize_infill(self) -> Population | None:
        return self._infill()

    def _infill(self) -> Population | None:
        drawn = self.sampling.do(self.problem, self.batch, random_state=self.random_state)
        if len(drawn) == 0:  # the space is exhausted
            self.termination.force_termination = True
            return None
        return drawn

    def _initialize_advance(self, infills: Population | None = None, **kwargs: Any) -> None:
        self._advance(infills)

    def _advance(self, infills: Population | None = None, **kwargs: Any) -> None:
        if infills is not None:
            best = Population.empty() if self.opt is None else self.opt
            self.pop = filter_optimum(Population.merge(best, infills), least_infeasible=True)
