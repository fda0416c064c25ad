"""The contract of supernets: one set of weights for all operations of a space, of which one path or mixture runs.

Keep this module to torch and the standard library, like all network modules.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Weights for all operations of a supernet: every edge outputs the sum of weight · operation.

    An operation whose weight is exactly 0 does not run, so a mixture with a single 1 per row costs as much as a single
    path. The output's gradient reaches the weights of the operations that ran.

    Attributes:
        normal: weights of the normal cells, float ``(edges, operations)``, >= 0, in the space's order. An edge's own
            weight is already multiplied in. May require grad.
        reduction: weights of the reduction cells, of the same form; the same tensor where cells are shared.
    """

    normal: Tensor
    reduction: Tensor

    def detach(self) -> Mixture:
        """The same weights without gradients."""
        return Mixture(self.normal.detach(), self.reduction.detach())


SupernetPath = Hashable
"""What a supernet can run: an architecture of its space or, where operations can be mixed, a :class:`Mixture`."""


class Supernet(nn.Module, abc.ABC):
    """A network with all operations of a space; ``forward`` computes only those of the path given to ``choose``."""

    @abc.abstractmethod
    def choose(self, path: SupernetPath) -> None:
        """Make ``forward`` run this path's operations from now on; weights and modes do not change."""


@torch.no_grad()
def inherit(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy a supernet's weights into ``network``, by the names of its parameters and buffers.

    Raises:
        ValueError: the supernet lacks one of these names, or its tensor has another shape.
    """
    for name, own in network.state_dict(keep_vars=True).items():
        given = weights.get(name)
        if given is None or given.shape != own.shape:
            found = "nothing" if given is None else f"shape {tuple(given.shape)}"
            raise ValueError(f"expected supernet weights {name} of shape {tuple(own.shape)}, got {found}")
        own.copy_(given)
