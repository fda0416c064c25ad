"""RACL's confidence constraint for one architecture: the Lipschitz constant that it keeps with confidence η."""

from __future__ import annotations

from statistics import NormalDist
from typing import ClassVar, get_args

import chz
import torch
from torch import Tensor

from evo_robust.lipschitz.confidence import Form, check_confidence
from evo_robust.lipschitz.linear import SpectralNorms
from evo_robust.lipschitz.moments import Cells, network_moments
from evo_robust.lipschitz.network import NetworkConstants, descriptions, network_constants
from evo_robust.lipschitz.operations import Rule
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.parts import refuse_unless

_NAMES = ("mu_alpha", "sigma_alpha", "mu_beta", "sigma_beta")


@chz.chz
class LipschitzConfidence(Objective):
    """ln of the λ_F that an architecture keeps with confidence η, µ + Φ⁻¹(η)σ (Dong et al., 2020, eq. 15).

    As a constraint, ``LogConstraint(of=LipschitzConfidence(), at_most=…)``, the limit is ln λ*, of any sign. µ and σ²
    are those of the product form over the chosen operations, whose weights are distributed as the search has them at
    present (algorithm.distribution=LogNormal). Where no such distribution exists it is the deterministic bound of
    ``LipschitzBound``, and the figures say so.
    """

    reads_distribution: ClassVar[bool] = True

    eta: float = chz.field(default=0.9, doc="confidence η, in (0,1)")
    form: Form = chz.field(default="corrected", doc="corrected (with σ) or as_printed (with σ², as in the paper)")
    cells: Cells = chz.field(
        default="shared", doc="cells of a type share their weights, as they really do, or are independent (paper)"
    )
    constants: Rule = chz.field(default="layers", doc="of operations: layers or joint (corrected), or paper")
    slack: float = chz.field(default=0.01, doc="how far spectral norms may lie above the true ones, in (0,1)")

    @chz.validate
    def _sensible(self) -> None:
        check_confidence(self.eta)
        refuse_unless(
            self,
            ("form", self.form in get_args(Form), "corrected or as_printed"),
            ("cells", self.cells in get_args(Cells), "shared or independent"),
            ("constants", self.constants in get_args(Rule), "joint, layers or paper"),
            ("slack", 0 < self.slack < 1, "in (0,1)"),
        )

    @property
    def unit(self) -> str:
        """Natural logarithm of logits per image, both in L2."""
        return "ln of L2 gain"

    @torch.no_grad()
    def measure(self, candidate: Candidate) -> float:
        """µ + Φ⁻¹(η)σ of ln λ_F, or ln of the bound where weights are no distribution's."""
        network, in_shape = candidate.network(), candidate.context.data.in_shape
        found = network_constants(network, in_shape, self.constants, SpectralNorms(slack=self.slack))
        shared = candidate.shared()
        given = [shared.get(f"distribution.{name}") for name in _NAMES]
        known = [tensor for tensor in given if tensor is not None]
        if len(known) < len(_NAMES):
            candidate.figures[self.name] = {"distribution": None}
            return found.log_bound("corrected").item()
        mu, var = self._moments(candidate, network, found, known)
        candidate.figures[self.name] = {"distribution": "LogNormal", "mu": mu, "var": var}
        return mu + NormalDist().inv_cdf(self.eta) * (var**0.5 if self.form == "corrected" else var)

    def _moments(
        self, candidate: Candidate, network: torch.nn.Module, found: NetworkConstants, given: list[Tensor]
    ) -> tuple[float, float]:
        mu_alpha, sigma_alpha, mu_beta, sigma_beta = (tensor.double() for tensor in given)
        # operations that were not chosen have λ = 0 there: they are no terms
        operations = candidate.context.space.operations  # type: ignore[attr-defined]
        constants = found.of_operations(operations, mu_alpha.shape[1])
        mu, var = network_moments(
            *(mu_alpha, sigma_alpha.square(), mu_beta, sigma_beta.square()),
            *(constants, descriptions(network, len(mu_alpha))),
            log_c=found.log_outside(),
            cells=self.cells,
        )
        return mu.item(), var.item()
