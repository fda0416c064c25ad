"""Limits on objectives: constraints and gates."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import chz

from evo_robust.objectives.base import Objective
from evo_robust.parts.base import Part
from evo_robust.parts.facts import INHERITED_WEIGHTS, Fact

if TYPE_CHECKING:
    pass


@chz.chz
class Constraint(Part):
    """An objective that must not exceed a limit; for pymoo, G = value/limit − 1 ≤ 0.

    Example:
        >>> Constraint(of=Params(), at_most=5e6).violation(2.5e6)
        -0.5
    """

    limit_needed: ClassVar[bool] = True
    logarithmic: ClassVar[bool] = False
    """Whether value and limit are logarithms of any sign; then G is their difference."""

    of: Objective = chz.field(doc="the objective that is limited")
    at_most: float | None = chz.field(doc="largest allowed value, in the objective's unit; > 0, for a logarithm any")

    @chz.validate
    def _positive(self) -> None:
        if self.limit_needed and (self.at_most is None or not self.at_most > 0):
            raise ValueError(f"expected constraint at_most > 0, got {self.at_most}")

    @property
    def name(self) -> str:
        """Column name."""
        return f"{self.of.name}_at_most"

    def violation(self, value: float) -> float:
        """G of a measured value, ≤ 0 when the constraint holds; it is relative, so that constraints compare."""
        if self.at_most is None:
            raise ValueError(f"{self.name}: expected a limit; a search sets it when it starts")
        return value - self.at_most if self.logarithmic else value / self.at_most - 1.0

    def allows(self, limit: float) -> bool:
        """Whether this limit is possible: > 0, or finite for a logarithm."""
        return math.isfinite(limit) if self.logarithmic else limit > 0


@chz.chz
class LogConstraint(Constraint):
    """A limit for a logarithm: G = value − limit, the ln of the ratio; both may have any sign.

    RACL's constraint for an architecture is ``LogConstraint(of=LipschitzConfidence(), at_most=ln λ*)``: G = µ + Φ⁻¹(η)σ
    − ln λ* (Dong et al., 2020, eq. 15). Where weights are trained during the search, :class:`LogGate` finds λ*.
    """

    limit_needed: ClassVar[bool] = False
    logarithmic: ClassVar[bool] = True

    @chz.validate
    def _given(self) -> None:
        if self.at_most is None or not self.allows(self.at_most):
            raise ValueError(f"expected a finite number as constraint at_most, got {self.at_most}")


@chz.chz
class Gate(Constraint):
    """A constraint on the network with inherited weights: it rejects a candidate before finetuning.

    The limit is a quantile over random architectures, measured with inherited weights (and recalibrated statistics)
    when a search starts. Where weights are trained during the search, it is measured again in every generation, on the
    same architectures. Gates need an evaluator that inherits weights. RobNet rejects cell-free networks of high FSP
    distance (Guo et al., CVPR 2020, §3.5); the paper does not give its threshold.
    """

    limit_needed: ClassVar[bool] = False

    at_most: float | None = chz.field(
        default=None,
        doc="largest allowed value, > 0, for a LogGate any; when not given, the quantile over random architectures",
    )
    quantile: float = chz.field(default=0.5, doc="share of random architectures that would pass, in (0,1)")
    sample: int = chz.field(default=50, doc="random architectures that the quantile is taken over, >= 2")

    @chz.validate
    def _sensible(self) -> None:
        if self.at_most is not None and not self.allows(self.at_most):
            expected = "finite" if self.logarithmic else "> 0"
            raise ValueError(f"expected constraint at_most {expected}, got {self.at_most}")
        if not 0 < self.quantile < 1:
            raise ValueError(f"expected quantile in (0,1), got {self.quantile}")
        if self.sample < 2:
            raise ValueError(f"expected sample >= 2 architectures, got {self.sample}")
        if not self.of.needs_weights:
            raise ValueError(f"expected an objective that needs weights in a Gate, got {self.of.name}: use Constraint")

    @property
    def needs(self) -> frozenset[Fact]:
        """See :attr:`Part.needs`: inherited weights, so that a candidate can be measured before anything costly."""
        return frozenset({INHERITED_WEIGHTS})

    @property
    def name(self) -> str:
        """Column name."""
        return f"{self.of.name}_gate"


@chz.chz
class LogGate(Gate):
    """A gate on a logarithm, whose limit may have any sign: G = value − limit.

    RACL's λ* for single architectures is ``LogGate(of=LipschitzConfidence(), quantile=0.5)``: with the present weights,
    half of the random architectures stay below it with confidence η.
    """

    logarithmic: ClassVar[bool] = True
