"""Random search, the baseline that every search must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import chz
from pymoo.core.algorithm import Algorithm as PymooAlgorithm
from pymoo.core.population import Population
from pymoo.util.optimum import filter_optimum

from evo_robust.algorithms.base import Algorithm
from evo_robust.algorithms.operators import DistinctSampling

if TYPE_CHECKING:
    from evo_robust.adapter import SearchProblem


@chz.chz
class RandomSearch(Algorithm):
    """Distinct architectures drawn uniformly from the genomes, ``pop_size`` at a time."""

    def build(self, problem: SearchProblem) -> PymooAlgorithm:
        """See :meth:`Algorithm.build`."""
        algorithm = _Random(self.pop_size)
        return algorithm.setup(problem, seed=problem.seed, termination=("n_gen", self.n_gen))


class _Random(PymooAlgorithm):
    """pymoo's own random search takes duplicates and keeps single objectives only."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.sampling = DistinctSampling()

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
