"""The contract of supernets: all operations of a space, one set of weights, one path or one mixture at a time.

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
    """Weights of all operations of a supernet: on every edge it adds up weight · operation.

    An operation whose weight is exactly 0 is not run, so that rows of one 1 among zeros cost what a single path costs.
    The gradient of what comes out reaches the weights of the operations that ran.

    Attributes:
        normal: of the normal cells, float ``(edges, operations)``, >= 0; edges and operations in the space's order,
            what an edge itself weighs already multiplied in. May require grad.
        reduction: of the reduction cells alike; the same tensor where cells are shared.
    """

    normal: Tensor
    reduction: Tensor

    def detach(self) -> Mixture:
        """The same weights without gradients."""
        return Mixture(self.normal.detach(), self.reduction.detach())


Path = Hashable
"""What a supernet can be: an architecture of its space or, where operations can be mixed, a :class:`Mixture`."""


class Supernet(nn.Module, abc.ABC):
    """A network of all operations of a space; ``forward`` runs those that ``choose`` named and pays for no others."""

    @abc.abstractmethod
    def choose(self, path: Path) -> None:
        """Let ``forward`` run this path's operations from now on; weights and modes stay as they are."""


@torch.no_grad()
def inherit(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy into ``network`` the weights of a supernet that bear its parameters' and buffers' names.

    Raises:
        ValueError: the supernet lacks one of them, or its shape differs.
    """
    for name, own in network.state_dict(keep_vars=True).items():
        given = weights.get(name)
        if given is None or given.shape != own.shape:
            found = "nothing" if given is None else f"shape {tuple(given.shape)}"
            raise ValueError(f"expected supernet weights {name} of shape {tuple(own.shape)}, got {found}")
        own.copy_(given)
