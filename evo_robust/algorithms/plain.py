"""The entry for a run's algorithm where a program ran a pymoo algorithm itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NoReturn

import chz

from evo_robust.algorithms.base import Algorithm
from evo_robust.objectives.base import Objective
from evo_robust.parts.base import WHERE, UserError
from evo_robust.spaces.base import SearchSpace

if TYPE_CHECKING:
    from evo_robust.algorithms.adapter import SearchProblem


@chz.chz
class PlainPymoo(Algorithm):
    """Stands for a pymoo algorithm that a program runs itself, on :func:`evo_robust.pymoo_problem`.

    Its run folder names it, so that no other search goes on there. It has no settings: those of the algorithm are
    pymoo's, and the program's.
    """

    offered: ClassVar[bool] = False

    pop_size: int = chz.field(default=1, doc="not used")
    n_gen: int = chz.field(default=1, doc="not used", metadata=WHERE)

    def check(self, space: SearchSpace, objectives: Sequence[Objective]) -> None:
        """See :meth:`Algorithm.check`: pymoo's own algorithms take any space."""

    def build(self, problem: SearchProblem) -> NoReturn:
        """See :meth:`check_runs`."""
        self.check_runs()

    def check_runs(self) -> NoReturn:
        """See :meth:`Algorithm.check_runs`: never, since the algorithm is in the program's hands."""
        raise UserError(
            "algorithm=PlainPymoo stands for a pymoo algorithm that a program runs itself: expected "
            "evo_robust.pymoo_problem(problem, out) and pymoo's minimize, or another algorithm"
        )
