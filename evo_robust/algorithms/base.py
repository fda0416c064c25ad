"""The contract of algorithms: settings that build a pymoo algorithm."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING

import chz
from pymoo.core.algorithm import Algorithm as PymooAlgorithm

from evo_robust.evaluators.base import Evaluator
from evo_robust.objectives.base import Objective
from evo_robust.parts.base import WHERE, Part, refuse_unless
from evo_robust.spaces.base import SearchSpace

if TYPE_CHECKING:
    from evo_robust.algorithms.adapter import SearchProblem


MOST_PROPOSED = 100_000
"""Most architectures of a generation: sorting more of them by dominance takes too long."""


@chz.chz
class Algorithm(Part, abc.ABC):
    """A way to propose genomes; the budget is ``pop_size * n_gen`` evaluations."""

    pop_size: int = chz.field(default=40, doc="architectures proposed per generation; 1 to 100,000")
    # a longer search goes on where a shorter one ended: the number of generations changes no figure
    n_gen: int = chz.field(default=20, doc="generations, the first one included; >= 1", metadata=WHERE)

    @chz.validate
    def _positive(self) -> None:
        refuse_unless(
            self,
            *((name, getattr(self, name) >= 1, ">= 1") for name in ("pop_size", "n_gen")),
            ("pop_size", self.pop_size <= MOST_PROPOSED, f"<= {MOST_PROPOSED:,}"),
            prefix="algorithm.",
        )

    @property
    def draws(self) -> dict[str, int]:
        """Versions, by name, of what candidates are drawn from. A run with other versions cannot resume."""
        return {}

    @property
    def caution(self) -> str:
        """What a reader of statistics over its architectures must know; empty for an independent random sample."""
        return "A search chooses its networks, so they are not independent: take p as a hint only."

    def check_runs(self) -> None:  # noqa: B027 (all but a placeholder run)
        """Raise ``UserError`` where ``search`` cannot run it, such as one that only records name."""

    def check(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:  # noqa: B027 (most search any)
        """Raise ``ValueError`` where it cannot search ``space`` for ``objectives``; before anything is written."""

    def budget(self, evaluator: Evaluator) -> int:
        """Largest number of evaluations."""
        return self.pop_size * self.n_gen

    @abc.abstractmethod
    def build(self, problem: SearchProblem) -> PymooAlgorithm:
        """A fresh pymoo algorithm, set up for ``problem`` with the problem's seed and this budget.

        For example::

            algorithm = SMSEMOA(**self.operators(problem))  # of a class derived from Genetic
            return algorithm.setup(problem, seed=problem.seed, termination=("n_gen", self.n_gen))

        Args:
            problem: a pymoo problem. Genomes are int arrays ``(n, n_genes)``, with ``problem.space`` to read them;
                ``F`` is ``(n, n_objectives)``, in the objectives' units, and a failed candidate's is 1e30.

        Returns:
            The algorithm after ``setup``. The same problem and seed must give the same proposals again: a search
            resumes by replaying them.
        """
