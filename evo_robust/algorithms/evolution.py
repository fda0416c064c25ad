"""NSGA-II and NSGA-III with operators that respect the space's blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import chz
from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
from pymoo.algorithms.moo.nsga3 import NSGA3 as PymooNSGA3
from pymoo.core.algorithm import Algorithm as PymooAlgorithm
from pymoo.operators.crossover.pntx import TwoPointCrossover

from evo_robust.algorithms.base import Algorithm
from evo_robust.algorithms.operators import (
    BlockCrossover,
    BlockMutation,
    DistinctArchitectures,
    DistinctSampling,
    GeneMutation,
    SpaceRepair,
)

if TYPE_CHECKING:
    from evo_robust.algorithms.adapter import SearchProblem


@chz.chz
class Genetic(Algorithm):
    """The common part of genetic algorithms: first population, crossover, mutation, no architecture twice."""

    seeded: bool = chz.field(default=False, doc="start from the space's hand-made networks (RoCo-NAS, section III-C)")
    crossover: Literal["blocks", "two_point"] = chz.field(
        default="blocks", doc="blocks: inherit whole phases or cells; two_point: on the whole genome (NSGA-Net)"
    )
    crossover_prob: float = chz.field(default=0.9, doc="probability that two parents are crossed, 0..1")
    mutation: Literal["block", "gene"] = chz.field(
        default="block", doc="block: change one phase or cell; gene: each gene with probability 1/n_genes (NSGA-Net)"
    )

    @chz.validate
    def _probability(self) -> None:
        if not 0 <= self.crossover_prob <= 1:
            raise ValueError(f"expected algorithm.crossover_prob in 0..1, got {self.crossover_prob}")

    def operators(self, problem: SearchProblem) -> dict[str, Any]:
        """Keyword arguments that pymoo's genetic algorithms take."""
        space = problem.space
        by_block = self.crossover == "blocks"
        return {
            "pop_size": self.pop_size,
            "sampling": DistinctSampling(seeded=self.seeded),
            "crossover": BlockCrossover(space.blocks, self.crossover_prob)
            if by_block
            else TwoPointCrossover(prob=self.crossover_prob),
            "mutation": BlockMutation(space.blocks, space.n_choices)
            if self.mutation == "block"
            else GeneMutation(space.n_choices),
            "repair": SpaceRepair(),
            "eliminate_duplicates": DistinctArchitectures(problem),
        }


@chz.chz
class NSGA2(Genetic):
    """NSGA-II (Deb et al. 2002): binary tournament by domination then crowding, rank and crowding survival."""

    def build(self, problem: SearchProblem) -> PymooAlgorithm:
        """See :meth:`Algorithm.build`."""
        algorithm = PymooNSGA2(**self.operators(problem))
        return algorithm.setup(problem, seed=problem.seed, termination=("n_gen", self.n_gen))


@chz.chz
class NSGA3(Genetic):
    """NSGA-III (Deb & Jain 2014): survival by reference directions, for three or more objectives."""

    partitions: int | None = chz.field(
        default=None, doc="Das-Dennis partitions per objective; when not given, the most that pop_size can fill"
    )

    @chz.validate
    def _partitions(self) -> None:
        if self.partitions is not None and self.partitions < 1:
            raise ValueError(f"expected algorithm.partitions >= 1, got {self.partitions}")

    def build(self, problem: SearchProblem) -> PymooAlgorithm:
        """See :meth:`Algorithm.build`."""
        directions = self._directions(problem.n_obj)
        algorithm = PymooNSGA3(ref_dirs=directions, **self.operators(problem))
        return algorithm.setup(problem, seed=problem.seed, termination=("n_gen", self.n_gen))

    def _directions(self, n_obj: int) -> Any:
        from pymoo.util.ref_dirs import get_reference_directions  # brings autograd, which nothing else here needs

        if self.partitions is not None:
            return get_reference_directions("das-dennis", n_obj, n_partitions=self.partitions)
        partitions = 1
        while len(get_reference_directions("das-dennis", n_obj, n_partitions=partitions + 1)) <= self.pop_size:
            partitions += 1
            if n_obj == 1:  # one objective has a single direction for any number of partitions
                break
        return get_reference_directions("das-dennis", n_obj, n_partitions=partitions)
