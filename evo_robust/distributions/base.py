"""What a distribution over architectures offers: relaxed samples with gradients, and architectures drawn from it."""

from __future__ import annotations

import abc
from typing import ClassVar

import chz
import torch
from torch import Tensor

from evo_robust.parts.base import Part, UserError
from evo_robust.spaces.base import Architecture, SearchSpace
from evo_robust.spaces.supernet import Mixture


@chz.chz
class Distribution(Part, abc.ABC):
    """How operations are weighed at random on every edge, as settings."""

    version: ClassVar[int] = 1
    """Raised when a change of code changes what is drawn: a search that drew otherwise cannot be continued."""

    @abc.abstractmethod
    def start(self, space: SearchSpace, seed: int, device: str = "cpu") -> Sampler:
        """The distribution as it begins.

        Args:
            space: one with a ``mixture_shape``.
            seed: of all its draws, >= 0; the same seed gives the same draws.
            device: torch device of its parameters and weights.

        Returns:
            The sampler, whose weights are float32 of ``space.mixture_shape``.

        Raises:
            ValueError: the space mixes no operations.
        """


class Sampler(abc.ABC):
    """A distribution at work: its parameters, and a generator of its own.

    Weights are float32 ``(cells, edges, operations)``: 2 described cells (normal, reduction), or 1 where they are
    shared; the space's operations in its order, ``none`` among them where the space has it.

    Attributes:
        space: the search space.
        parameters: leaf tensors that gradients move, by name.
    """

    groups: ClassVar[tuple[tuple[str, ...], ...]]
    """Names of the parameters that are moved together; a step moves one group after the other."""
    remedy: ClassVar[str] = "another algorithm.distribution"
    """What to choose where its numbers leave the finite range, beside smaller steps."""

    def __init__(self, space: SearchSpace, seed: int, device: str) -> None:
        if space.mixture_shape is None:
            raise ValueError(
                f"expected a space whose operations can be mixed, such as DARTS, got {type(space).__name__}"
            )
        self.space = space
        self.shape = space.mixture_shape
        self.device = torch.device(device)
        # always on the CPU: only a few hundred numbers are drawn
        self.generator = torch.Generator().manual_seed(seed)
        self.parameters: dict[str, Tensor] = {}

    @abc.abstractmethod
    def sample_logs(self) -> Tensor:
        """Logarithms of random weights ``(cells, edges, operations)``, differentiable in the parameters.

        A weight may be too small for a float; its logarithm is not.
        """

    @abc.abstractmethod
    def weigh(self, logs: Tensor) -> Tensor:
        """The weights that logarithms of :meth:`sample_logs` stand for; 0 where one was made -inf."""

    def sample(self) -> Tensor:
        """Random weights ``(cells, edges, operations)``, differentiable in the parameters.

        Raises:
            UserError: they are beyond what a float holds.
        """
        return self.weighed(self.sample_logs())

    def weighed(self, logs: Tensor) -> Tensor:
        """The weights of logarithms; see :meth:`weigh`.

        Raises:
            UserError: they are beyond what a float holds.
        """
        weights = self.weigh(logs)
        self.refuse_unless_finite("weights", weights)
        return weights

    @abc.abstractmethod
    def center_logs(self) -> Tensor:
        """Logarithms ``(cells, edges, operations)`` without chance, from which the search's result is derived."""

    def center(self) -> Tensor:
        """Weights ``(cells, edges, operations)`` without chance."""
        return self.weigh(self.center_logs())

    def ranks(self, logs: Tensor) -> Tensor:
        """Numbers ``(cells, edges, operations)`` in the order of the weights that logarithms stand for.

        Weights themselves are too coarse to be ranked. A weight close to 1 becomes 1 in float32, and two such edges
        tie. Their logarithms tell them apart.
        """
        return logs

    def encoding(self, weights: Tensor) -> Tensor:
        """A sample as a loss estimator reads it: 1 for each edge's likeliest operation, with its share's gradient."""
        shares = weights / weights.sum(-1, keepdim=True)
        hard = torch.zeros_like(shares).scatter_(-1, shares.argmax(-1, keepdim=True), 1.0)
        return hard + shares - shares.detach()

    def relaxed(self, weights: Tensor) -> Tensor:
        """What the supernet's forward pass weighs operations by, given a sample; the sample itself as a rule."""
        return weights

    def keep_valid(self) -> None:  # noqa: B027 (most parameters may be anything)
        """Put parameters back into their range after a step."""

    def refuse_unless_finite(self, what: str, *tensors: Tensor, otherwise: str = "") -> None:
        """Raise ``UserError`` where numbers of the distribution are no longer finite, with what to choose then."""
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise UserError(
                f"expected finite {what} of {type(self).__name__.removesuffix('Sampler')}, the distribution over "
                f"architectures, got inf or NaN: choose a smaller algorithm.gradient.lr, or {self.remedy}{otherwise}"
            )

    def mixture(self, weights: Tensor | None = None) -> Mixture:
        """A random mixture for a supernet (or that of given weights), differentiable in the parameters."""
        relaxed = self.relaxed(self.sample() if weights is None else weights)
        return Mixture(relaxed[0], relaxed[-1])

    @torch.no_grad()
    def draw(self) -> Architecture:
        """A random architecture: what is derived from a sample."""
        logs = self.sample_logs()
        self.weighed(logs)  # refused where the distribution has left the floats
        return self.derive(logs)

    @torch.no_grad()
    def mode(self) -> Architecture:
        """The architecture that the distribution stands for."""
        return self.derive(self.center_logs())

    @torch.no_grad()
    def derive(self, logs: Tensor) -> Architecture:
        """Per edge the operation of the largest weight, per node the two best edges (DARTS §2.4, RACL).

        Args:
            logs: what the weights are made of, such as :meth:`sample_logs` gives; ranked by :meth:`ranks`.
        """
        return self.space.derive(self.ranks(logs.double()).cpu().numpy())

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """How settled the distribution is, by the center's weights as shares of their edge; means over all edges.

        ``entropy`` of the shares in nats, from ln of the number of operations (nothing is preferred) down to 0;
        ``largest`` share, from 1/operations to 1; ``from_uniform``, the total variation distance from equal shares,
        from 0 to 1 − 1/operations. Where shares are the probabilities of draws (:class:`GumbelSoftmax`), the last is
        the part of the draws that would have to change to make them uniform.
        """
        center = self.center()
        shares = center / center.sum(-1, keepdim=True)
        return {
            "entropy": float(-torch.xlogy(shares, shares).sum(-1).mean()),
            "largest": float(shares.amax(-1).mean()),
            "from_uniform": float((shares - 1 / shares.shape[-1]).abs().sum(-1).mean() / 2),
        }

    def state(self) -> dict[str, Tensor]:
        """Parameters and generator, by name."""
        return {**self.parameters, "generator": self.generator.get_state()}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Take what ``state`` returned."""
        for name, own in self.parameters.items():
            own.copy_(state[name])
        self.generator.set_state(state["generator"])

    def seed(self) -> int:
        """A seed for others, the next of this distribution's random numbers."""
        return int(torch.randint(2**62, (), generator=self.generator))

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.device)

    def _parameter(self, name: str, value: Tensor) -> None:
        self.parameters[name] = value.to(self.device).requires_grad_()
