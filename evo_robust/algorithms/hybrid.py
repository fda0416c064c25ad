"""Gradient and evolution in one search: some offspring come from a distribution that gradients move.

With all offspring from it (``share=1``), these are the papers' methods, RACL (Dong et al., 2020) and Wsr-NAS (Cheng et
al., AAAI 2023). With none (``share=0``), it is NSGA-II.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import chz
import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
from pymoo.core.algorithm import Algorithm as PymooAlgorithm
from pymoo.core.population import Population

from evo_robust.algorithms.evolution import Genetic
from evo_robust.distributions import Distribution, GumbelSoftmax
from evo_robust.evaluators.base import Evaluator
from evo_robust.gradients import ArchitectureGradient, DistributionLearner, SupernetLoss
from evo_robust.objectives.base import Objective
from evo_robust.parts.base import seed_from
from evo_robust.parts.facts import CO_TRAINED_WEIGHTS, CO_TRAINING, DISTRIBUTION, Fact
from evo_robust.spaces.base import SearchSpace

if TYPE_CHECKING:
    from evo_robust.algorithms.adapter import SearchProblem

# draws per wanted architecture, after which the distribution counts as settled
_PATIENCE = 50


@chz.chz
class GradientHybrid(Genetic):
    """NSGA-II with some offspring drawn from a distribution over architectures that gradients move.

    Every generation first trains the supernet and the distribution (evaluator ``CoTrained``). Then it measures
    offspring and survivors with the present weights, and ranks them together. The distribution's first offspring is
    its most likely architecture.
    """

    share: float = chz.field(
        default=0.5, doc="share of the offspring drawn from the distribution, in [0,1]; .5 of 5 offspring are 2"
    )
    distribution: Distribution = chz.field(
        default_factory=GumbelSoftmax, blueprint_unspecified=GumbelSoftmax, doc="the distribution over architectures"
    )
    gradient: ArchitectureGradient = chz.field(
        default_factory=SupernetLoss, blueprint_unspecified=SupernetLoss, doc="the gradient that moves the distribution"
    )

    @chz.validate
    def _share(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"expected algorithm.share in [0,1], got {self.share}")

    @property
    def provides(self) -> frozenset[Fact]:
        """See :attr:`Part.provides`."""
        return super().provides | {CO_TRAINING, DISTRIBUTION}

    @property
    def draws(self) -> dict[str, int]:
        """See :attr:`Algorithm.draws`."""
        return {type(self.distribution).__name__: self.distribution.version}

    def check(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        """See :meth:`Algorithm.check`: the space must have operations to mix."""
        super().check(space, objectives)
        self.gradient.check(self.distribution, space)
        self.gradient.check_objectives(objectives)
        if space.mixture_shape is None:
            raise ValueError(
                "GradientHybrid: expected a space whose operations can be mixed, such as DARTS, "
                f"got {type(space).__name__}"
            )

    def budget(self, evaluator: Evaluator) -> int:
        """See :meth:`Algorithm.budget`: survivors are measured again where weights changed since the last generation.

        Once the training schedule is over, weights do not change, nor does a distribution that follows the supernet's
        loss. Estimators of a loss keep learning, so objectives that use them or the distribution may be measured again
        in every generation.
        """
        if CO_TRAINED_WEIGHTS not in evaluator.provides:
            return super().budget(evaluator)
        anew = [
            CO_TRAINED_WEIGHTS not in self.gradient.needs or evaluator.trains_in(g) for g in range(2, self.n_gen + 1)
        ]
        return super().budget(evaluator) + self.pop_size * sum(anew)

    def build(self, problem: SearchProblem) -> PymooAlgorithm:
        """See :meth:`Algorithm.build`."""
        sampler = self.distribution.start(
            problem.space, seed_from(problem.seed, "distribution"), problem.session.device
        )
        learner = self.gradient.start(
            sampler, seed_from(problem.seed, "gradient"), problem.objectives, problem.session.in_shape
        )
        algorithm = _Hybrid(learner, self.share, **self.operators(problem))
        return algorithm.setup(problem, seed=problem.seed, termination=("n_gen", self.n_gen))


class _Hybrid(PymooNSGA2):
    """pymoo's NSGA-II with a second source of offspring; survivors are measured again together with them."""

    def __init__(self, learner: DistributionLearner, share: float, **operators: Any) -> None:
        super().__init__(**operators)
        self.learner, self.share = learner, share
        self.generation = 0

    def _initialize_infill(self) -> Population:
        self._train()
        drawn = self._drawn(round(self.share * self.pop_size), set())
        if self.share == 1:
            return drawn
        rest = self.initialization.do(self.problem, self.pop_size, algorithm=self, random_state=self.random_state)
        return self._filled(drawn, rest)

    def _initialize_advance(self, infills: Population | None = None, **kwargs: Any) -> None:
        self._observe(infills)
        super()._initialize_advance(infills=infills, **kwargs)

    def _infill(self) -> Population | None:
        self._train()
        wanted = round(self.share * self.n_offsprings)
        known = {self.problem.key(x) for x in self.pop.get("X")} | self.problem.proposed()
        drawn = self._drawn(wanted, known)
        offspring = drawn
        if wanted < self.n_offsprings:  # with share=1 there is no crossover, even if the distribution has settled
            genetic = self.mating.do(
                self.problem, self.pop, self.n_offsprings, algorithm=self, random_state=self.random_state
            )
            offspring = self._filled(drawn, genetic)
        if len(offspring) == 0 and not self.problem.session.trains:
            self.termination.force_termination = True  # no new architectures are left, and weights do not change
            return None
        # new individuals, since figures measured with other weights do not compare
        return Population.merge(Population.new(X=self.pop.get("X")), offspring)

    def _advance(self, infills: Population | None = None, **kwargs: Any) -> None:
        self._observe(infills)
        self.pop = self.survival.do(
            self.problem, infills, n_survive=self.pop_size, algorithm=self, random_state=self.random_state
        )

    def _observe(self, infills: Population | None) -> None:
        if infills is not None:
            self.learner.observe([self.problem.evaluation(x) for x in infills.get("X")])

    def _train(self) -> None:
        self.generation += 1
        session = self.problem.session
        if session.trains:
            session.advance(self.generation, self.learner)
        else:  # no weights are trained in this search, so it learns only from measurements
            self.learner.learn(None, 1)
        self.problem.derived = self.problem.space.to_text(self.learner.sampler.mode())
        self.problem.settled = self.learner.sampler.figures()

    def _drawn(self, wanted: int, taken: set[str | None]) -> Population:
        """Up to ``wanted`` architectures from the distribution that are not taken, the most likely one first."""
        space, sampler = self.problem.space, self.learner.sampler
        genomes: list[np.ndarray] = []
        for attempt in range(wanted * _PATIENCE):
            if len(genomes) == wanted:
                break
            genome = space.encode(sampler.mode() if attempt == 0 else sampler.draw())
            key = self.problem.key(genome)
            if key not in taken:
                taken.add(key)
                genomes.append(genome)
        return Population.new(X=np.array(genomes, dtype=int).reshape(len(genomes), self.problem.n_var))

    def _filled(self, drawn: Population, others: Population) -> Population:
        """The drawn architectures, filled up with others, without duplicates."""
        keys = {self.problem.key(x) for x in drawn.get("X")} if len(drawn) else set()
        size = self.pop_size if self.pop is None or len(self.pop) == 0 else self.n_offsprings
        kept = [i for i, x in enumerate(others.get("X")) if self.problem.key(x) not in keys]
        return Population.merge(drawn, others[kept[: size - len(drawn)]])
