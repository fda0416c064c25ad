"""Lipschitz constants as objectives: a bound for one network, and RACL's limit that holds with confidence η."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import chz
import numpy as np
import torch
from torch import Tensor

from evo_robust.lipschitz import chance_constraint
from evo_robust.lipschitz.linear import SpectralNorms
from evo_robust.lipschitz.moments import (
    Cells,
)
from evo_robust.lipschitz.network import BoundForm, NetworkConstants, network_constants
from evo_robust.lipschitz.operations import ConstantRule
from evo_robust.lipschitz.sampled import DRAWS
from evo_robust.objectives.base import Candidate, Context, Objective
from evo_robust.parts.base import LATER, UserError, refuse_unless
from evo_robust.parts.facts import CO_TRAINED_WEIGHTS, DISTRIBUTION, LIPSCHITZ_LIMIT, Fact
from evo_robust.spaces.base import InvalidArchitecture, SearchSpace
from evo_robust.training.weights import untrained

SIGMAS = ("sigma_alpha", "sigma_beta")
PARAMETERS = ("mu_alpha", "sigma_alpha", "mu_beta", "sigma_beta")
"""Names of a log-normal distribution's parameters, in the order in which the constraint takes them."""


LOG_LIMIT = "distribution.log_limit"
"""Name of ln λ* among the tensors that a search shares with its candidates."""


@chz.chz
class LipschitzBound(Objective):
    """Logarithm of a bound of the network's Lipschitz constant (L2), from images in [0,1] to logits.

    It is a logarithm because bounds of deep networks span dozens of orders of magnitude. The bounds of all cells'
    outputs are recorded in the candidate's figures under the objective's name, null where a cell is empty. In a
    constraint, ``Constraint(of=LipschitzBound(), at_most=…)``, the limit is ln λ* too and must be > 0 (λ* > 1): G =
    ln λ_F / ln λ* − 1 is ≤ 0 where λ_F ≤ λ*.

    It works with every space whose networks list their operations: RobNet, DARTS, NSGA-Net phases (not ``form=paper``).
    """

    form: BoundForm = chz.field(
        default="corrected",
        doc="corrected (a valid bound, node by node) or paper (RACL's product over nodes, which is no bound)",
    )
    constants: ConstantRule = chz.field(
        default="joint",
        doc="constants of operations: joint (a chain of linear layers as one map), layers (layer by layer) or paper "
        "(RACL's, which are no bounds)",
    )
    slack: float = chz.field(
        default=0.01, doc="largest relative error above the true spectral norms, in (0,1); smaller takes longer"
    )

    @chz.validate
    def _sensible(self) -> None:
        refuse_unless(
            self,
            ("form", self.form in get_args(BoundForm), "corrected or paper"),
            ("constants", self.constants in get_args(ConstantRule), "joint, layers or paper"),
            ("slack", 0 < self.slack < 1, "in (0,1)"),
        )

    @property
    def unit(self) -> str:
        """Natural logarithm of logits per image, both in L2."""
        return "ln of L2 gain"

    def prepare(self, context: Context) -> None:
        """See :meth:`Objective.prepare`.

        Raises:
            UserError: networks of the space do not list their operations, or not as the form needs.
        """
        try:
            self._constants(_some_network(context), context.data.in_shape, SpectralNorms(steps=1))
        except ValueError as error:
            raise UserError(f"{self.name} cannot be measured on {type(context.space).__name__}: {error}") from None

    def measure(self, candidate: Candidate) -> float:
        """Natural logarithm of the bound."""
        norms = SpectralNorms(slack=self.slack)
        found, log_bound = self._constants(candidate.network(), candidate.context.data.in_shape, norms)
        candidate.figures[self.name] = {"cells": found.log_cells()}
        return log_bound

    def _constants(
        self, network: torch.nn.Module, in_shape: tuple[int, int, int], norms: SpectralNorms
    ) -> tuple[NetworkConstants, float]:
        with torch.no_grad():
            found = network_constants(network, in_shape, self.constants, norms)
            return found, found.log_bound(self.form).item()


def _some_network(context: Context) -> torch.nn.Module:
    """A random network of the space, untrained, on the CPU."""
    rng = np.random.default_rng(0)
    with untrained():
        architecture = _some_architecture(context.space, rng)
        return context.space.build(architecture, context.data.n_classes, context.data.in_shape)


def _some_architecture(space: SearchSpace, rng: np.random.Generator) -> object:
    while True:
        try:
            return space.decode(space.sample(rng))
        except InvalidArchitecture:  # a space may refuse a genome; try the next one
            continue


@chz.chz
class LipschitzConfidence(Objective):
    """ln of the λ_F that an architecture does not exceed with confidence η: µ + Φ⁻¹(η)σ (Dong et al., 2020, eq. 15).

    µ and σ² belong to the product form over the chosen operations. The weights of these follow the search's present
    distribution (algorithm.distribution=LogNormal). With ``quantile="sampled"`` the quantile is sampled instead, as is
    needed for large σ (:mod:`evo_robust.lipschitz.moments`). Without such a distribution, the value is the
    deterministic bound of ``LipschitzBound``, and the figures say so.

    In a constraint it needs its own λ*. ``LogGate(of=LipschitzConfidence(), quantile=0.5)`` takes a quantile over
    random architectures with the present weights, again in every generation, since λ_F depends on the weights.
    ``LogConstraint(of=LipschitzConfidence(), at_most=…)`` has a fixed ln λ* of any sign.

    With ``relative`` the value is µ + Φ⁻¹(η)σ − ln λ*, with the λ* of the search's own constraint
    (algorithm.gradient.confidence), which also depends on the weights; choose η and the other fields as there. That λ*
    comes from sums over all operations on all edges. An architecture sums only over two operations per node, which have
    a small part of the weights while the distribution is undecided. So a calibrated λ* is soon far larger than the
    values of architectures (in the demo of ``racl``, e^16 to e^36 times), and ``LogConstraint(of=…, at_most=0)``
    rejects none.
    """

    eta: float = chz.field(default=0.9, doc="confidence η, in (0,1)")
    form: chance_constraint.ConstraintForm = chz.field(
        default="corrected", doc="corrected (with σ) or as_printed (with σ², as in the paper)"
    )
    cells: Cells = chz.field(
        default="shared", doc="shared: cells of a type share their weights, as in the network; or independent (paper)"
    )
    constants: ConstantRule = chz.field(default="layers", doc="constants of operations: layers, joint or paper")
    slack: float = chz.field(default=0.01, doc="largest relative error above the true spectral norms, in (0,1)")
    relative: bool = chz.field(default=False, doc="subtract ln λ* of the search's own constraint")
    quantile: chance_constraint.Quantile = chz.field(
        default="moments", metadata=LATER, doc="how the quantile of λ_F is found: from moments (paper) or sampled"
    )
    draws: int = chz.field(default=DRAWS, metadata=LATER, doc="draws of a sampled quantile, in 100..10000000")

    @chz.validate
    def _sensible(self) -> None:
        refuse_unless(self, *chance_constraint.checks(self), ("slack", 0 < self.slack < 1, "in (0,1)"))

    @property
    def unit(self) -> str:
        """Natural logarithm of logits per image, both in L2."""
        return "ln of λ_F/λ*" if self.relative else "ln of L2 gain"

    @property
    def reads(self) -> frozenset[Fact]:
        """See :attr:`Objective.reads`."""
        return frozenset({DISTRIBUTION})

    @property
    def needs(self) -> frozenset[Fact]:
        """See :attr:`Part.needs`: with ``relative``, the search's own λ*."""
        return frozenset({CO_TRAINED_WEIGHTS, LIPSCHITZ_LIMIT} if self.relative else ())

    @torch.no_grad()
    def measure(self, candidate: Candidate) -> float:
        """µ + Φ⁻¹(η)σ of ln λ_F, or ln of the bound where there is no distribution.

        Raises:
            UserError: it is relative to a λ* that the search does not have.
        """
        log_limit = candidate.shared().get(LOG_LIMIT) if self.relative else None
        if self.relative and log_limit is None:
            raise UserError(f"{self.name}: expected a search that shares {LIPSCHITZ_LIMIT.name}, got none")
        return self._kept(candidate) - (0.0 if log_limit is None else log_limit.item())

    def _kept(self, candidate: Candidate) -> float:
        network, in_shape = candidate.network(), candidate.context.data.in_shape
        found = network_constants(network, in_shape, self.constants, SpectralNorms(slack=self.slack))
        shared = candidate.shared()
        given = [shared.get(f"distribution.{name}") for name in PARAMETERS]
        known = [tensor for tensor in given if tensor is not None]
        if len(known) < len(PARAMETERS):
            candidate.figures[self.name] = {"distribution": None}
            return found.log_bound("corrected").item()
        # operations that were not chosen have λ = 0, so that they add nothing
        space = candidate.context.space
        constants = found.of_operations(space.mixture_operations, known[0].shape[1])
        kept = chance_constraint.kept(
            [tensor.double() for tensor in known],
            *(constants, space.cell_descriptions(network)),
            log_c=found.log_outside(),
            settings=self,
        )
        candidate.figures[self.name] = {"distribution": "LogNormal", "mu": kept.mu.item(), "var": kept.var.item()}
        return kept.log.item()

    def caution(self, shared: Mapping[str, Tensor]) -> str | None:
        """See :meth:`Objective.caution`: warns of σ beyond the range in which the moments were checked."""
        sigmas = [shared[f"distribution.{name}"] for name in SIGMAS if f"distribution.{name}" in shared]
        return chance_constraint.caution(sigmas, self, self.name)
