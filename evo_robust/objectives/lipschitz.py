"""Lipschitz bounds of networks as an objective, and the public face of :mod:`evo_robust.lipschitz`.

RACL (Dong et al., 2020) searches networks whose Lipschitz constant stays small: how much further apart, in L2, a
network can bring two images.
"""

from __future__ import annotations

from typing import get_args

import chz
import numpy as np
import torch

from evo_robust.lipschitz.chance_constraint import (
    calibrated_limit,
    confidence_constraint,
    dual_update,
    lagrangian_term,
)
from evo_robust.lipschitz.linear import SpectralNorms
from evo_robust.lipschitz.moments import (
    cell_moments,
    edge_moments,
    fenton_wilkinson,
    network_moments,
    node_moments,
)
from evo_robust.lipschitz.network import BoundForm, NetworkConstants, network_constants
from evo_robust.lipschitz.operations import ConstantRule, lipschitz_constant
from evo_robust.objectives.base import Candidate, Context, Objective
from evo_robust.parts.base import UserError, refuse_unless
from evo_robust.spaces.base import InvalidArchitecture, SearchSpace

__all__ = [
    "LipschitzBound",
    "NetworkConstants",
    "SpectralNorms",
    "calibrated_limit",
    "cell_moments",
    "confidence_constraint",
    "dual_update",
    "edge_moments",
    "fenton_wilkinson",
    "lagrangian_term",
    "lipschitz_constant",
    "network_constants",
    "network_moments",
    "node_moments",
]


@chz.chz
class LipschitzBound(Objective):
    """Logarithm of a bound of the network's Lipschitz constant (L2), from images in [0,1] to logits.

    A logarithm, since bounds of deep networks span dozens of orders of magnitude: differences of logarithms are ratios.
    The bounds of all cells' outputs are recorded in the candidate's figures under the objective's name, null where a
    cell is empty. As a constraint, ``Constraint(of=LipschitzBound(), at_most=…)``, the limit is ln λ* too and has to be
    > 0 (λ* > 1): G = ln λ_F / ln λ* − 1 is ≤ 0 where λ_F ≤ λ*.

    Works with every space whose networks tell their operations: RobNet, DARTS, NSGA-Net phases (not ``form=paper``).
    """

    form: BoundForm = chz.field(
        default="corrected",
        doc="corrected (a valid bound, node by node) or paper (RACL's product over nodes, which is no bound)",
    )
    constants: ConstantRule = chz.field(
        default="joint",
        doc="of operations: joint (what is linear as one map), layers (layer by layer) or paper (RACL's, no bounds)",
    )
    slack: float = chz.field(
        default=0.01, doc="how far spectral norms may lie above the true ones, relative, in (0,1); smaller takes longer"
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
            UserError: networks of the space do not tell their operations, or not what the form needs.
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
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # building draws weights: leave no trace of it
        architecture = _some_architecture(context.space, rng)
        return context.space.build(architecture, context.data.n_classes, context.data.in_shape)


def _some_architecture(space: SearchSpace, rng: np.random.Generator) -> object:
    while True:
        try:
            return space.decode(space.sample(rng))
        except InvalidArchitecture:  # spaces may refuse genomes: the next one
            continue
