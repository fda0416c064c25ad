"""What an algorithm is to a problem file: settings that build a pymoo algorithm."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import chz
from pymoo.core.algorithm import Algorithm as PymooAlgorithm

from evo_robust.parts import WHERE, Part
from evo_robust.spaces.base import SearchSpace

if TYPE_CHECKING:
    from evo_robust.adapter import SearchProblem


@chz.chz
class Algorithm(Part, abc.ABC):
    """A way to propose genomes; the budget is ``pop_size * n_gen`` evaluations."""

    pop_size: int = chz.field(default=40, doc="architectures proposed per generation; >= 1")
    # a longer search goes on where a shorter one ended: the number of generations changes no figure
    n_gen: int = chz.field(default=20, doc="generations, the first one included; >= 1", metadata=WHERE)

    @chz.validate
    def _positive(self) -> None:
        for name in ("pop_size", "n_gen"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected algorithm.{name} >= 1, got {getattr(self, name)}")

    def check(self, space: SearchSpace) -> None:  # noqa: B027 (most algorithms search every space)
        """Raise ``ValueError`` where the algorithm cannot search ``space``; before anything is written."""

    @abc.abstractmethod
    def build(self, problem: SearchProblem) -> PymooAlgorithm:
        """A fresh pymoo algorithm, set up for ``problem`` with the problem's seed and this budget."""
