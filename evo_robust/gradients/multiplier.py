"""RACL's constraint on a distribution over architectures: its Lipschitz constant is small with confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping

import chz
import torch
from torch import Tensor

from evo_robust.distributions.log_normal import LogNormalSampler
from evo_robust.evaluators.learner import CoTraining
from evo_robust.lipschitz import chance_constraint, moments
from evo_robust.lipschitz.linear import SpectralNorms
from evo_robust.lipschitz.network import network_constants
from evo_robust.lipschitz.operations import ConstantRule
from evo_robust.lipschitz.sampled import DRAWS
from evo_robust.objectives.lipschitz import LOG_LIMIT, PARAMETERS, SIGMAS
from evo_robust.parts.base import LATER, Part, refuse_unless


@chz.chz
class Confidence(Part):
    """Pr[λ_F ≤ λ*] ≥ η by an augmented Lagrangian θc + (ρ/2)c² beside the loss (Dong et al., 2020, eqs 13 to 16).

    λ_F is the paper's product form. What it keeps with confidence follows from its moments, as in the paper, which are
    good while σ is small (:mod:`evo_robust.lipschitz.moments`; a search says so where σ is not); or from draws, with
    ``quantile="sampled"``. The constants of operations are taken from the supernet anew in every epoch. The paper tells
    neither λ* nor the first θ: λ* is calibrated on what the search begins with, θ begins at 0.

    Weights grow while they are trained, and λ_F with them, far beyond what a choice of operations can make up for (on
    digits by e^27 in 24 epochs): held to a λ* of the first weights, a search ends with whatever has the smallest
    constants. So a calibrated λ* follows the weights: in each epoch it is ``factor`` times what the distribution as
    it began would keep with the weights of that epoch, and the constraint speaks of operations alone.

    What is calibrated is λ* of mixtures of all operations on all edges. Architectures have two inputs per node, and
    sums of fewer terms: theirs lies below, and a constraint on them needs a λ* of their own
    (:class:`evo_robust.objectives.constraints.LogGate` of ``LipschitzConfidence``).
    """

    eta: float = chz.field(default=0.9, doc="confidence η, in (0,1)")
    rho: float = chz.field(default=1e-3, doc="ρ of the augmented Lagrangian and of θ's steps, > 0")
    limit: float | None = chz.field(default=None, doc="λ*, > 0; calibrated when not given")
    factor: float = chz.field(
        default=1.0, doc="a calibrated λ* is this many times what the first distribution keeps with confidence η, > 0"
    )
    follow: bool = chz.field(
        default=True, doc="a calibrated λ* follows the supernet's weights; without, it stays that of the first weights"
    )
    learning: bool = chz.field(
        default=True, doc="confidence learning; without it the sampled weights' own λ_F is held to λ* (eq. 10)"
    )
    form: chance_constraint.ConstraintForm = chz.field(
        default="corrected", doc="of the constraint: corrected (with σ) or as_printed (with σ², as in the paper)"
    )
    cells: moments.Cells = chz.field(
        default="shared", doc="cells of a type share their weights, as they really do, or are independent (paper)"
    )
    constants: ConstantRule = chz.field(
        default="layers", doc="of operations: layers or joint (corrected), or paper; see LipschitzBound"
    )
    steps: int = chz.field(default=20, doc="steps of the power iteration for each spectral norm, >= 1")
    quantile: chance_constraint.Quantile = chz.field(
        default="moments", metadata=LATER, doc="what λ_F keeps with confidence: from moments (paper) or sampled"
    )
    draws: int = chz.field(default=DRAWS, metadata=LATER, doc="draws of a sampled quantile, in 100..10000000")

    @chz.validate
    def _ranges(self) -> None:
        refuse_unless(
            self,
            *chance_constraint.checks(self),
            ("rho", 0 < self.rho < math.inf, "> 0"),
            ("limit", self.limit is None or 0 < self.limit < math.inf, "> 0"),
            ("factor", 0 < self.factor < math.inf, "> 0"),
            ("steps", self.steps >= 1, ">= 1"),
            prefix="algorithm.gradient.confidence.",
        )


class Multiplier:
    """The constraint at work: the supernet's constants, λ* and θ.

    Attributes:
        theta: the multiplier θ >= 0.
        log_limit: ln λ* at present; None before it is calibrated.
        last: c when it was last looked at.
    """

    def __init__(self, settings: Confidence, sampler: LogNormalSampler) -> None:
        self.settings = settings
        self.sampler = sampler
        self._first = {name: value.detach().clone() for name, value in sampler.parameters.items()}
        self.theta, self.last = 0.0, math.nan
        self.log_limit = None if settings.limit is None else math.log(settings.limit)
        self._shown: float | None = None
        self._constants: Tensor | None = None
        self._described: list[int] = []
        self._log_c = 0.0

    def look(self, training: CoTraining) -> None:
        """Take the constants of the supernet's operations as they are now; calibrate λ* where it is not given."""
        self._take(training)
        self.log_limit = self._limit()

    def show(self, training: CoTraining) -> None:
        """Calibrate what candidates are held to, whose weights are those that an epoch ends with."""
        self._take(training)
        self._shown = self._limit()

    def _take(self, training: CoTraining) -> None:
        c, h, w = training.images.x.shape[1:]
        found = network_constants(
            training.supernet,
            (c, h, w),
            self.settings.constants,
            SpectralNorms(steps=self.settings.steps),
            everything=True,
        )
        constants = found.of_operations(training.space.mixture_operations, self.sampler.shape[1])
        self._constants = constants.float().to(self.sampler.device)
        self._log_c = found.log_outside()
        self._described = training.space.cell_descriptions(training.supernet)

    def _limit(self) -> float:
        """Logarithm of λ* under the constants that were taken last."""
        s = self.settings
        if self.log_limit is not None and not (s.limit is None and s.follow):
            return self.log_limit
        return self._kept(self._first).log.item() + math.log(s.factor)

    def term(self, weights: Tensor) -> Tensor:
        """θc + (ρ/2)c² for a sample ``(cells, edges, operations)``, differentiable in the sampler's parameters."""
        assert self.log_limit is not None, "look comes first"
        if self.settings.learning:
            c = self._kept(self.sampler.parameters).log - self.log_limit
        else:
            c = self._log_product(weights) - self.log_limit
        self.last = float(c.detach())
        return chance_constraint.lagrangian_term(c, self.theta, self.settings.rho)

    def update(self) -> None:
        """The dual step, θ ← max(0, θ + ρc), with the c that the last step of µ and σ began with."""
        self.theta = chance_constraint.dual_update(self.theta, self.last, self.settings.rho)

    def _kept(self, p: Mapping[str, Tensor]) -> chance_constraint.Kept:
        """What λ_F keeps with confidence η under a distribution, with the constants that were taken last."""
        assert self._constants is not None
        given = [p[name] for name in PARAMETERS]
        return chance_constraint.kept(
            given, self._constants, self._described, log_c=self._log_c, settings=self.settings
        )

    def caution(self) -> str | None:
        """One line where σ is beyond what the moments were checked for; None else."""
        if not self.settings.learning:
            return None
        sigmas = [self.sampler.parameters[name] for name in SIGMAS]
        return chance_constraint.caution(sigmas, self.settings, "algorithm.gradient.confidence")

    def _log_product(self, weights: Tensor) -> Tensor:
        """Ln λ_F of given weights β·α: ln C + ΣΣ ln Σ_i Σ_o w λ over cells and nodes (eq. 10)."""
        assert self._constants is not None
        edges = (weights[self._described] * self._constants).sum(-1)
        nodes = [edges[:, into].sum(-1) for into in moments.edges_into_nodes(edges.shape[1])]
        sums = torch.stack(nodes)
        return self._log_c + sums[sums > 0].log().sum()

    def state(self) -> dict[str, Tensor]:
        """θ, ln λ* and c, in double precision."""
        return {"multiplier": torch.tensor([self.theta, self._told(), self.last], dtype=torch.float64)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take what ``state`` returned."""
        self.theta, log_limit, self.last = state["multiplier"].tolist()
        self.log_limit = None if math.isnan(log_limit) else log_limit

    def shared(self) -> dict[str, Tensor]:
        """What candidates may be held to: ln λ* with the weights that they inherit."""
        return {} if self._shown is None else {LOG_LIMIT: torch.tensor(self._shown, dtype=torch.float64)}

    def figures(self) -> dict[str, float]:
        """What a reader wants to see of it."""
        return {"constraint": self.last, "theta": self.theta, "ln_limit": self._told()}

    def _told(self) -> float:
        return math.nan if self.log_limit is None else self.log_limit
