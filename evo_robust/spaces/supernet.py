"""The contract of supernets: all operations of a space, one set of weights, one path at a time.

Keep this module to torch and the standard library, like all network modules.
"""

from __future__ import annotations

import abc
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor, nn


class Supernet(nn.Module, abc.ABC):
    """A network of all operations of a space; ``forward`` runs those that ``choose`` named and pays for no others."""

    @abc.abstractmethod
    def choose(self, architecture: Hashable) -> None:
        """Let ``forward`` run this architecture's operations from now on; weights and modes stay as they are."""


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
