"""What λ_F keeps with confidence where operations are weighted at random, by drawing.

The moments of :mod:`evo_robust.lipschitz.moments` are too small where σ is large. Here the product form is computed for
some thousand draws of α and β, as µ + σz, always with the same normal numbers z. So the result is a function of µ and σ
without chance. Two distributions are compared by the same draws, gradients are those of the draws, and a search that is
continued needs nothing kept.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evo_robust.lipschitz.moments import Cells, check_cells, check_shapes, edges_into_nodes

DRAWS = 10_000
"""Draws, if not told otherwise: the 90% quantile is right to 1.7% of the standard deviation of ln λ_F then."""

_SEED = 0
_NEAR = 0.01
"""The gradient of a quantile is the mean over the draws whose rank is that near to it, as a share of all."""


class Draws(NamedTuple):
    """Draws of ln λ_F.

    Attributes:
        logs: ``(draws,)``, in ascending order; in the precision of the distribution.
    """

    logs: Tensor

    def quantile(self, eta: float) -> Tensor:
        """The smallest draw that a share ``eta`` in (0,1) of all does not exceed; scalar, differentiable.

        The gradient of one draw would be chance, so it is the mean over the draws next to it.
        """
        count = len(self.logs)
        rank = min(max(math.ceil(eta * count) - 1, 0), count - 1)
        width = max(1, round(_NEAR * count))
        near = self.logs[max(0, rank - width) : rank + width + 1].mean()
        return near + (self.logs[rank] - near).detach()


def network_draws(
    mu_alpha: Tensor,
    sigma_alpha: Tensor,
    mu_beta: Tensor,
    sigma_beta: Tensor,
    constants: Tensor,
    described: Sequence[int],
    *,
    log_c: Tensor | float = 0.0,
    cells: Cells = "shared",
    draws: int = DRAWS,
) -> Draws:
    """Draws of ln λ_F, whose moments :func:`evo_robust.lipschitz.moments.network_moments` gives approximately.

    Args:
        mu_alpha: means of ln α ``(descriptions, edges, operations)``, such as normal and reduction.
        sigma_alpha: their standard deviations, >= 0.
        mu_beta: means of ln β ``(descriptions, edges)``.
        sigma_beta: their standard deviations, >= 0.
        constants: λ of the operations in every cell ``(cells, edges, operations)``, 0 where there is none.
        described: for every cell which description it follows.
        log_c: ln C, what multiplies the cells' part.
        cells: ``shared``: cells of a description draw once for all; ``independent``: each draws its own.
        draws: how many, >= 2.

    Raises:
        ValueError: shapes that do not fit, an unknown way, or too few draws.
    """
    check_cells(cells)
    check_shapes(mu_alpha, sigma_alpha, mu_beta, sigma_beta, constants, described)
    if draws < 2:
        raise ValueError(f"expected draws >= 2, got {draws}")
    total = mu_alpha.new_zeros(draws) + log_c
    for description in sorted(set(described)):
        members = [cell for cell, number in enumerate(described) if number == description]
        own = [t[description] for t in (mu_alpha, sigma_alpha, mu_beta, sigma_beta)]
        for together in [members] if cells == "shared" else [[member] for member in members]:
            noise = _noise(draws, *mu_alpha.shape[1:], together[0], mu_alpha.dtype, mu_alpha.device)
            total = total + _nodes(own, constants[together].to(mu_alpha), noise)
    return Draws(total.sort().values)


@functools.lru_cache(maxsize=16)
def _noise(
    draws: int, edges: int, operations: int, number: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Normal numbers ``(edges, draws, operations)`` and ``(edges, draws)`` of cell ``number``, always the same ones."""
    # always on the CPU and in double precision, so that they are the same everywhere
    generator = torch.Generator().manual_seed(_SEED + number)
    alpha = torch.randn(edges, draws, operations, generator=generator, dtype=torch.float64)
    beta = torch.randn(edges, draws, generator=generator, dtype=torch.float64)
    return alpha.to(device, dtype), beta.to(device, dtype)


def _nodes(own: Sequence[Tensor], constants: Tensor, noise: tuple[Tensor, Tensor]) -> Tensor:
    """Σ_cells Σ_nodes ln λ(I_j) ``(draws,)`` of cells that weigh by the same numbers; nodes without edges are none."""
    mu_alpha, sigma_alpha, mu_beta, sigma_beta = own
    used = (constants > 0).any(0)  # edges, operations
    there = (constants > 0).any(-1).T[:, None]  # edges, 1, cells
    # the largest is taken out first, so that no exponential exceeds a float's range
    mu_used = mu_alpha.masked_fill(~used, -torch.inf)
    front = mu_used.detach().amax(-1, keepdim=True).masked_fill(~used.any(-1, keepdim=True), 0.0)  # edges, 1
    alpha = ((mu_used - front)[:, None] + sigma_alpha[:, None] * noise[0]).exp()  # edges, draws, operations
    scale = constants.amax(-1).T[:, None].masked_fill(~there, 1.0)  # edges, 1, cells
    sums = torch.bmm(alpha, constants.permute(1, 2, 0) / scale)  # edges, draws, cells
    beta = mu_beta[:, None] + sigma_beta[:, None] * noise[1]
    logs = sums.masked_fill(~there, 1.0).log() + scale.log() + front[..., None] + beta[..., None]
    total = logs.new_zeros(logs.shape[1])
    for into in edges_into_nodes(len(mu_beta)):
        entered = there[into].any(0)[0]
        terms = logs[into][..., entered].masked_fill(~there[into][..., entered], -torch.inf)
        total = total + terms.logsumexp(0).sum(-1)
    return total
