"""Log-normal weights of operations and edges, as RACL samples them (Dong et al., 2020)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import chz
import torch
from torch import Tensor

from evo_robust.distributions.base import Distribution, Sampler
from evo_robust.lipschitz.moments import edges_into_nodes
from evo_robust.parts.base import refuse_unless
from evo_robust.spaces.base import SearchSpace


@chz.chz
class LogNormal(Distribution):
    """α ~ LN(µ_α, σ_α²) per operation, β ~ LN(µ_β, σ_β²) per edge; an operation's weight is β·α.

    RACL's distribution (Dong et al., 2020). α is ``(cells, edges, operations)``, β ``(cells, edges)``: two described
    cells, or one where they are shared.

    The paper gives no initial µ and σ. Here medians are 1/operations and 1/inputs, as if all were averaged, and σ is
    small enough for the moments of sums (:mod:`evo_robust.lipschitz.moments`). ``sigma_max`` among the figures of a
    generation tells whether it stays so. The paper does not fix the scale of the weights. Batch normalisation makes a
    network blind to it, but the Lipschitz bound is not. The constraint could then be met by shrinking all weights,
    until only rounding errors are left of the signal. Hence ``scale="fixed"``.
    """

    sigma: float = chz.field(default=0.3, doc="initial σ of all α and β, > 0")
    spread: float = chz.field(default=1e-3, doc="standard deviation of the initial µ around its start, >= 0")

    scale: Literal["fixed", "free"] = chz.field(
        default="fixed",
        doc="fixed: medians of an edge's α, and of a node's β, are scaled to a sum of 1 after each step; free: they "
        "may shrink and grow together",
    )

    @chz.validate
    def _ranges(self) -> None:
        refuse_unless(
            self,
            ("sigma", 0 < self.sigma < math.inf, "> 0"),
            ("spread", 0 <= self.spread < math.inf, ">= 0"),
            prefix="algorithm.distribution.",
        )

    def start(self, space: SearchSpace, seed: int, device: str = "cpu") -> LogNormalSampler:
        """See :meth:`Distribution.start`."""
        return LogNormalSampler(self, space, seed, device)


SMALLEST = 1e-3
"""σ does not fall below: at 0 its gradient would be that of no distribution."""


class LogNormalSampler(Sampler):
    """See :class:`LogNormal`. µ and σ of α are ``(cells, edges, operations)``, those of β ``(cells, edges)``."""

    groups: ClassVar[tuple[tuple[str, ...], ...]] = (("mu_alpha", "mu_beta"), ("sigma_alpha", "sigma_beta"))
    remedy: ClassVar[str] = "a smaller algorithm.distribution.sigma"

    def __init__(self, settings: LogNormal, space: SearchSpace, seed: int, device: str) -> None:
        super().__init__(space, seed, device)
        cells, edges, operations = self.shape
        self.settings = settings
        targets = [target for _, target in space.mixture_edges()]
        inputs = torch.tensor([float(targets.count(target)) for target in targets])
        self._parameter("mu_alpha", settings.spread * self._normal(*self.shape).cpu() - math.log(operations))
        self._parameter("mu_beta", settings.spread * self._normal(cells, edges).cpu() - inputs.log())
        self._parameter("sigma_alpha", torch.full(self.shape, settings.sigma))
        self._parameter("sigma_beta", torch.full((cells, edges), settings.sigma))

    def sample_logs(self) -> Tensor:
        """See :meth:`Sampler.sample_logs`: ln β·α."""
        p = self.parameters
        alpha = p["mu_alpha"] + p["sigma_alpha"] * self._normal(*self.shape)
        beta = p["mu_beta"] + p["sigma_beta"] * self._normal(*self.shape[:2])
        return alpha + beta.unsqueeze(-1)

    def weigh(self, logs: Tensor) -> Tensor:
        """See :meth:`Sampler.weigh`: β·α, all > 0."""
        return logs.exp()

    def center_logs(self) -> Tensor:
        """See :meth:`Sampler.center_logs`: those of the medians."""
        p = self.parameters
        return p["mu_alpha"] + p["mu_beta"].unsqueeze(-1)

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """See :meth:`Sampler.figures`: mean and largest σ of all α and β too."""
        sigmas = torch.cat([self.parameters[name].flatten() for name in ("sigma_alpha", "sigma_beta")])
        return super().figures() | {"sigma_mean": float(sigmas.mean()), "sigma_max": float(sigmas.max())}

    @torch.no_grad()
    def keep_valid(self) -> None:
        """See :meth:`Sampler.keep_valid`."""
        for name in ("sigma_alpha", "sigma_beta"):
            self.parameters[name].clamp_(min=SMALLEST)
        if self.settings.scale == "fixed":
            alpha, beta = self.parameters["mu_alpha"], self.parameters["mu_beta"]
            alpha -= alpha.logsumexp(-1, keepdim=True)
            for into in edges_into_nodes(beta.shape[1]):
                beta[:, into] -= beta[:, into].logsumexp(-1, keepdim=True)
