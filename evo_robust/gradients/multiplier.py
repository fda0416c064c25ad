"""RACL's constraint on a distribution over architectures: a small Lipschitz constant with confidence η."""

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
    """Pr[λ_F ≤ λ*] ≥ η by an augmented Lagrangian θc + (ρ/2)c², added to the loss (Dong et al., 2020, eqs 13 to 16).

    λ_F is the paper's product form. Its quantile comes from its moments, as in the paper, or from samples, with
    ``quantile="sampled"``. Moments are accurate while σ is small (:mod:`evo_robust.lipschitz.moments`); a search warns
    where it is not. The constants of operations are read from the supernet in every epoch. The paper gives neither λ*
    nor the first θ. Here λ* is calibrated at the beginning of the search, and θ begins at 0.

    Weights grow in training, and λ_F with them, far more than a choice of operations can offset (on digits by e^27 in
    24 epochs). With a λ* from the first weights, a search would end with the operations of the smallest constants. So a
    calibrated λ* follows the weights: in each epoch it is ``factor`` times the quantile of the initial distribution
    with the weights of that epoch. Then the constraint depends only on the choice of operations.

    The calibrated λ* belongs to mixtures of all operations on all edges. Architectures have two inputs per node, so
    their sums have fewer terms and are smaller. A constraint on architectures needs its own λ*
    (:class:`evo_robust.objectives.constraints.LogGate` of ``LipschitzConfidence``).
    """

    eta: float = chz.field(default=0.9, doc="confidence η, in (0,1)")
    rho: float = chz.field(default=1e-3, doc="ρ of the augmented Lagrangian and of θ's steps, > 0")
    limit: float | None = chz.field(default=None, doc="λ*, > 0; calibrated when not given")
    factor: float = chz.field(
        default=1.0, doc="a calibrated λ* is this multiple of the initial distribution's quantile at η, > 0"
    )
    follow: bool = chz.field(
        default=True, doc="whether a calibrated λ* follows the supernet's weights, or stays that of the first weights"
    )
    learning: bool = chz.field(
        default=True, doc="confidence learning; without it, the λ_F of sampled weights is limited by λ* (eq. 10)"
    )
    form: chance_constraint.ConstraintForm = chz.field(
        default="corrected", doc="form of the constraint: corrected (with σ) or as_printed (with σ², as in the paper)"
    )
    cells: moments.Cells = chz.field(
        default="shared", doc="shared: cells of a type share their weights, as in the network; or independent (paper)"
    )
    constants: ConstantRule = chz.field(
        default="layers", doc="constants of operations: layers, joint or paper; see LipschitzBound"
    )
    steps: int = chz.field(default=20, doc="steps of the power iteration for each spectral norm, >= 1")
    quantile: chance_constraint.Quantile = chz.field(
        default="moments", metadata=LATER, doc="how the quantile of λ_F is found: from moments (paper) or sampled"
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
    """The constraint during a search: the supernet's constants, λ* and θ.

    Attributes:
        theta: the multiplier θ >= 0.
        log_limit: present ln λ*; None before it is calibrated.
        last: the last computed c.
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
        """Read the present constants of the supernet's operations; calibrate λ* where it is not given."""
        self._take(training)
        self.log_limit = self._limit()

    def show(self, training: CoTraining) -> None:
        """Calibrate the limit for candidates, which inherit the weights at the end of an epoch."""
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
        """Logarithm of λ* with the constants that were read last."""
        s = self.settings
        if self.log_limit is not None and not (s.limit is None and s.follow):
            return self.log_limit
        return self._kept(self._first).log.item() + math.log(s.factor)

    def term(self, weights: Tensor) -> Tensor:
        """θc + (ρ/2)c² for a sample ``(cells, edges, operations)``, differentiable in the sampler's parameters."""
        assert self.log_limit is not None, "look is called before"
        if self.settings.learning:
            c = self._kept(self.sampler.parameters).log - self.log_limit
        else:
            c = self._log_product(weights) - self.log_limit
        self.last = float(c.detach())
        return chance_constraint.lagrangian_term(c, self.theta, self.settings.rho)

    def update(self) -> None:
        """The dual step, θ ← max(0, θ + ρc), with c from the beginning of the last step of µ and σ."""
        self.theta = chance_constraint.dual_update(self.theta, self.last, self.settings.rho)

    def _kept(self, p: Mapping[str, Tensor]) -> chance_constraint.Kept:
        """The quantile of λ_F at η for a distribution, with the constants that were read last."""
        assert self._constants is not None
        given = [p[name] for name in PARAMETERS]
        return chance_constraint.kept(
            given, self._constants, self._described, log_c=self._log_c, settings=self.settings
        )

    def caution(self) -> str | None:
        """A warning where σ is beyond the range in which the moments were checked; else None."""
        if not self.settings.learning:
            return None
        sigmas = [self.sampler.parameters[name] for name in SIGMAS]
        return chance_constraint.caution(sigmas, self.settings, "algorithm.gradient.confidence")

    def _log_product(self, weights: Tensor) -> Tensor:
        """Logarithm of λ_F for given weights β·α: ln C + ΣΣ ln Σ_i Σ_o w λ over cells and nodes (eq. 10)."""
        assert self._constants is not None
        edges = (weights[self._described] * self._constants).sum(-1)
        nodes = [edges[:, into].sum(-1) for into in moments.edges_into_nodes(edges.shape[1])]
        sums = torch.stack(nodes)
        return self._log_c + sums[sums > 0].log().sum()

    def state(self) -> dict[str, Tensor]:
        """θ, ln λ* and c, in double precision."""
        return {"multiplier": torch.tensor([self.theta, self._told(), self.last], dtype=torch.float64)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Continue from what ``state`` returned."""
        self.theta, log_limit, self.last = state["multiplier"].tolist()
        self.log_limit = None if math.isnan(log_limit) else log_limit

    def shared(self) -> dict[str, Tensor]:
        """The limit for candidates: ln λ* with the weights that they inherit."""
        return {} if self._shown is None else {LOG_LIMIT: torch.tensor(self._shown, dtype=torch.float64)}

    def figures(self) -> dict[str, float]:
        """Figures of the constraint, for readers."""
        return {"constraint": self.last, "theta": self.theta, "ln_limit": self._told()}

    def _told(self) -> float:
        return math.nan if self.log_limit is None else self.log_limit
