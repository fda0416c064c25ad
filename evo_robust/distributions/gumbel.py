"""Gumbel-softmax over the operations of every edge, as Wsr-NAS draws them (Cheng et al., AAAI 2023)."""

from __future__ import annotations

import math
from typing import ClassVar

import chz
import torch
from torch import Tensor

from evo_robust.distributions.base import Distribution, Sampler
from evo_robust.parts.base import refuse_unless
from evo_robust.spaces.base import SearchSpace


@chz.chz
class GumbelSoftmax(Distribution):
    """H = softmax((A + Gumbel)/τ) over the operations of each edge (Cheng et al., AAAI 2023; Jang et al., 2017).

    A and H are ``(cells, edges, operations)``: two described cells, or one where they are shared.
    With ``noise=False single_path=False temperature=1`` it is the softmax relaxation of DARTS.
    """

    # 2: architectures are ranked by log-odds. In version 1 edges whose weight was 1 in float32 tied, and the first won
    version: ClassVar[int] = 2

    temperature: float = chz.field(default=0.1, doc="τ, > 0")
    init: float = chz.field(default=1e-3, doc="standard deviation of the initial A, >= 0")
    noise: bool = chz.field(default=True, doc="add Gumbel noise to A; without, only A decides")
    single_path: bool = chz.field(
        default=True,
        doc="the supernet runs each edge's likeliest operation alone (straight-through gradient); without, all of them",
    )

    @chz.validate
    def _ranges(self) -> None:
        refuse_unless(
            self,
            ("temperature", 0 < self.temperature < math.inf, "> 0"),
            ("init", 0 <= self.init < math.inf, ">= 0"),
            prefix="algorithm.distribution.",
        )

    def start(self, space: SearchSpace, seed: int, device: str = "cpu") -> GumbelSampler:
        """See :meth:`Distribution.start`."""
        return GumbelSampler(self, space, seed, device)


class GumbelSampler(Sampler):
    """See :class:`GumbelSoftmax`."""

    groups: ClassVar[tuple[tuple[str, ...], ...]] = (("A",),)
    remedy: ClassVar[str] = "a larger algorithm.distribution.temperature"

    def __init__(self, settings: GumbelSoftmax, space: SearchSpace, seed: int, device: str) -> None:
        super().__init__(space, seed, device)
        self.settings = settings
        self._parameter("A", settings.init * self._normal(*self.shape))

    def sample_logs(self) -> Tensor:
        """See :meth:`Sampler.sample_logs`: (A + Gumbel)/τ."""
        logits = self.parameters["A"]
        if self.settings.noise:
            uniform = torch.rand(self.shape, generator=self.generator).clamp(1e-10, 1 - 1e-7).to(self.device)
            logits = logits - (-uniform.log()).log()
        return logits / self.settings.temperature

    def weigh(self, logs: Tensor) -> Tensor:
        """See :meth:`Sampler.weigh`: soft weights, each edge's sum to 1."""
        return logs.softmax(-1)

    def center_logs(self) -> Tensor:
        """See :meth:`Sampler.center_logs`: A, so that the center is softmax(A), the probabilities of draws."""
        return self.parameters["A"]

    def ranks(self, logs: Tensor) -> Tensor:
        """See :meth:`Sampler.ranks`: log-odds, since an edge's weights sum to 1 and those of others lower its own."""
        alone = torch.eye(logs.shape[-1], dtype=torch.bool, device=logs.device)
        others = logs.unsqueeze(-2).masked_fill(alone, -torch.inf)  # row i: all of the edge's operations but i
        return logs - others.logsumexp(-1)

    def encoding(self, weights: Tensor) -> Tensor:
        """See :meth:`Sampler.encoding`: the soft weights, as in the paper."""
        return weights

    def relaxed(self, weights: Tensor) -> Tensor:
        """See :meth:`Sampler.relaxed`: one operation per edge with weight 1, and the soft weight's gradient."""
        if not self.settings.single_path:
            return weights
        hard = torch.zeros_like(weights).scatter_(-1, weights.argmax(-1, keepdim=True), 1.0)
        # exactly 1 and 0: with a rounding error instead of a zero an operation would run for nothing
        return hard + hard * (weights - weights.detach())
