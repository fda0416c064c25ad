"""RACL's confidence constraint for one architecture: the Lipschitz constant that it keeps with confidence η."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import chz
import torch
from torch import Tensor

from evo_robust.lipschitz import confidence
from evo_robust.lipschitz.linear import SpectralNorms
from evo_robust.lipschitz.moments import Cells, network_moments
from evo_robust.lipschitz.network import NetworkConstants, descriptions, network_constants
from evo_robust.lipschitz.operations import Rule
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.parts import UserError, refuse_unless

if TYPE_CHECKING:
    from evo_robust.algorithms.base import Algorithm
    from evo_robust.evaluators.base import Evaluator

_NAMES = ("mu_alpha", "sigma_alpha", "mu_beta", "sigma_beta")

LOG_LIMIT = "distribution.log_limit"
"""Name of ln λ* among the tensors that a search shares with its candidates."""


@chz.chz
class LipschitzConfidence(Objective):
    """ln of the λ_F that an architecture keeps with confidence η, µ + Φ⁻¹(η)σ (Dong et al., 2020, eq. 15).

    µ and σ² are those of the product form over the chosen operations, whose weights are distributed as the search has
    them at present (algorithm.distribution=LogNormal). Where no such distribution exists it is the deterministic bound
    of ``LipschitzBound``, and the figures say so.

    As a constraint, ``LogConstraint(of=LipschitzConfidence(), at_most=…)``, the limit is a fixed ln λ*, of any sign.
    The λ* of a search's own constraint (algorithm.gradient.confidence) follows the weights, as λ_F does: with
    ``relative`` the value is µ + Φ⁻¹(η)σ − ln λ*, and ``LogConstraint(of=LipschitzConfidence(relative=True),
    at_most=0)`` holds an architecture to that λ*; choose η and the rest as there. A calibrated λ* is soon far
    larger than what architectures have (in the demo of ``racl``, e^16 to e^36 times): it comes from sums over all
    operations on all edges, theirs are over two operations per node, with a small part of the weights as long as the
    distribution is undecided. ``at_most=0`` rejects few of them then; a limit that says more is negative, found among
    recorded values.
    """

    reads_distribution: ClassVar[bool] = True

    eta: float = chz.field(default=0.9, doc="confidence η, in (0,1)")
    form: confidence.Form = chz.field(
        default="corrected", doc="corrected (with σ) or as_printed (with σ², as in the paper)"
    )
    cells: Cells = chz.field(
        default="shared", doc="cells of a type share their weights, as they really do, or are independent (paper)"
    )
    constants: Rule = chz.field(default="layers", doc="of operations: layers or joint (corrected), or paper")
    slack: float = chz.field(default=0.01, doc="how far spectral norms may lie above the true ones, in (0,1)")
    relative: bool = chz.field(default=False, doc="take ln λ* of the search's own constraint off")

    @chz.validate
    def _sensible(self) -> None:
        refuse_unless(self, *confidence.checks(self), ("slack", 0 < self.slack < 1, "in (0,1)"))

    @property
    def unit(self) -> str:
        """Natural logarithm of logits per image, both in L2."""
        return "ln of λ_F/λ*" if self.relative else "ln of L2 gain"

    def check_search(self, evaluator: Evaluator, algorithm: Algorithm) -> None:
        """See :meth:`Objective.check_search`: what it is relative to must exist."""
        if self.relative and not (evaluator.co_trains and algorithm.finds_limit):
            raise ValueError(self._missing())

    def _missing(self) -> str:
        return (
            f"{self.name}: expected a λ* to be relative to: algorithm.gradient.confidence=Confidence, with "
            "algorithm.gradient=SupernetLoss and evaluator=CoTrained"
        )

    @torch.no_grad()
    def measure(self, candidate: Candidate) -> float:
        """µ + Φ⁻¹(η)σ of ln λ_F, or ln of the bound where weights are no distribution's.

        Raises:
            UserError: it is relative to a λ* that the search does not have.
        """
        log_limit = candidate.shared().get(LOG_LIMIT) if self.relative else None
        if self.relative and log_limit is None:
            raise UserError(self._missing())
        return self._kept(candidate) - (0.0 if log_limit is None else log_limit.item())

    def _kept(self, candidate: Candidate) -> float:
        network, in_shape = candidate.network(), candidate.context.data.in_shape
        found = network_constants(network, in_shape, self.constants, SpectralNorms(slack=self.slack))
        shared = candidate.shared()
        given = [shared.get(f"distribution.{name}") for name in _NAMES]
        known = [tensor for tensor in given if tensor is not None]
        if len(known) < len(_NAMES):
            candidate.figures[self.name] = {"distribution": None}
            return found.log_bound("corrected").item()
        moments = self._moments(candidate, network, found, known)
        mu, var = (moment.item() for moment in moments)
        candidate.figures[self.name] = {"distribution": "LogNormal", "mu": mu, "var": var}
        return confidence.log_quantile(*moments, eta=self.eta, form=self.form).item()

    def _moments(
        self, candidate: Candidate, network: torch.nn.Module, found: NetworkConstants, given: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        mu_alpha, sigma_alpha, mu_beta, sigma_beta = (tensor.double() for tensor in given)
        # operations that were not chosen have λ = 0 there: they are no terms
        operations = candidate.context.space.operations  # type: ignore[attr-defined]
        constants = found.of_operations(operations, mu_alpha.shape[1])
        return network_moments(
            *(mu_alpha, sigma_alpha.square(), mu_beta, sigma_beta.square()),
            *(constants, descriptions(network, len(mu_alpha))),
            log_c=found.log_outside(),
            cells=self.cells,
        )
