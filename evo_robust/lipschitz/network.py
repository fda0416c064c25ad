"""Lipschitz bounds (L2) of whole networks, from images in [0,1] to logits.

Two forms, over the same constants of operations:

- ``corrected``: a valid bound. Let λ(v) be the constant of value v as a function of the image. A sum of operations has
  λ(I_j) ≤ Σ_i β^(i,j) Σ_o α_o λ_o λ(I_i), and concatenated channels have √Σλ². A cell reads the two cells before it,
  each with its own λ and through its own preprocessing. The normalisation of the images (1/std), stem, pooling and
  classifier are included.
- ``paper`` (RACL, Dong et al., 2020, eqs 9, 10): C Π_cells Π_nodes Σ_i β^(i,j) Σ_o α_o λ_o. It leaves out λ(I_i), as if
  the nodes of a cell stood one behind the other. **This is no bound.** If the four nodes of a cell all copy one input,
  the output is twice as long, but the product is 1. The paper does not say what C is. Here it is all that is not in the
  nodes, with the larger one of each cell's two preprocessings.

Results are natural logarithms. A network of 20 cells has bounds like 10^60, of which only ratios mean anything, and
untrained networks exceed the range of floats.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from evo_robust.lipschitz.graph import IMAGE, Term, Value, graph_of
from evo_robust.lipschitz.linear import SpectralNorms
from evo_robust.lipschitz.operations import ConstantRule, OperationConstants, log_constants, operation_of
from evo_robust.parts.base import Shape

BoundForm = Literal["corrected", "paper"]
"""``corrected`` is a valid bound; ``paper`` RACL's product, which is none."""


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkConstants:
    """A network's wiring with the Lipschitz constant of every operation.

    Attributes:
        values: the network's values in order, the logits last.
        logs: ln of the constants, for every value those of its terms.
    """

    values: tuple[Value, ...]
    logs: tuple[tuple[float, ...], ...]

    def log_bound(self, form: BoundForm = "corrected") -> Tensor:
        """Logarithm of the network's bound in a form, float64 scalar; differentiable in a mixture's weights.

        -inf for a network whose logits do not depend on the image.

        Raises:
            ValueError: an unknown form, or the paper's of a network that is not made of cells.
        """
        if form not in get_args(BoundForm):
            raise ValueError(f"expected form corrected or paper, got {form!r}")
        if form == "corrected":
            return self._reached()[self.values[-1].name]
        outside, nodes = self._product()
        return outside + nodes

    def log_cells(self) -> list[float | None]:
        """Logarithm of the corrected bound of every cell's output; None of an empty cell."""
        reached = self._reached()
        known = {value.cell: reached[value.name].item() for value in self.values if value.role == "cell"}
        last = max((cell for cell in known if cell is not None), default=-1)
        return [known.get(cell) for cell in range(last + 1)]

    def log_outside(self) -> float:
        """Logarithm of the paper's C: all that is not in the nodes.

        Raises:
            ValueError: the network is not made of cells.
        """
        return self._product()[0].item()

    def of_operations(self, operations: Sequence[str], n_edges: int) -> Tensor:
        """λ of every operation, float64 ``(cells, edges, operations)``; 0 where there is none, inf beyond a float.

        Args:
            operations: names in order, such as a mixture's columns; one that stands nowhere (``none``) has λ=0.
            n_edges: of a cell.
        """
        n_cells = 1 + max((value.cell for value in self.values if value.cell is not None), default=-1)
        found = torch.full((n_cells, n_edges, len(operations)), -torch.inf, dtype=torch.float64)
        columns = {name: column for column, name in enumerate(operations)}
        for value, logs in zip(self.values, self.logs, strict=True):
            for term, log in zip(value.terms, logs, strict=True):
                if term.place is not None and term.operation in columns:
                    found[(*term.place, columns[term.operation])] = log
        return found.exp()

    def _reached(self) -> dict[str, Tensor]:
        """Logarithm of every value's constant as a function of the image."""
        reached = {IMAGE: torch.zeros((), dtype=torch.float64)}
        for value, logs in zip(self.values, self.logs, strict=True):
            reached[value.name] = _joined(value, logs, reached)
        return reached

    def _product(self) -> tuple[Tensor, Tensor]:
        """Logarithms of C and of the product over nodes."""
        if any(value.role == "block" for value in self.values):
            raise ValueError("expected a network of cells for the paper's product form, got one of phases")
        one = torch.zeros((), dtype=torch.float64)
        read = {IMAGE: one}
        outside, nodes = one, one
        inputs: dict[int | None, Tensor] = {}
        for value, logs in zip(self.values, self.logs, strict=True):
            own = _joined(value, logs, read)
            # a node leaves out what leads to it: this is the mistake of the product form, and the only one
            read[value.name] = own if value.role == "edge" else one
            if value.role == "outside":
                outside = outside + own
            elif value.role == "input":
                inputs[value.cell] = torch.maximum(inputs.get(value.cell, own), own)
            elif value.role == "node":
                nodes = nodes + own
        return outside + sum(inputs.values(), start=one), nodes


def network_constants(
    network: nn.Module,
    in_shape: Shape,
    rule: ConstantRule = "joint",
    norms: SpectralNorms | None = None,
    *,
    everything: bool = False,
) -> NetworkConstants:
    """The Lipschitz constants of a network's operations in eval mode, where they stand; the network stays as it is.

    Args:
        network: of RobNet, DARTS or NSGA-Net phases, or a chain of layers; of a supernet what was chosen.
        in_shape: ``(c, h, w)`` of the images.
        rule: what constants of operations are made of; see :mod:`evo_robust.lipschitz.operations`.
        norms: how spectral norms are found: certified bounds when not given. In a search that asks again and again keep
            one ``SpectralNorms(steps=…)``, which goes on where it ended.
        everything: take all operations that a supernet holds, instead of those that it runs now.

    Raises:
        ValueError: the network's wiring or an operation's constant is not known.
    """
    values = tuple(graph_of(network, everything))
    shapes = {IMAGE: in_shape}
    operations: list[list[OperationConstants]] = []
    for value in values:
        found = [
            operation_of(term.modules, _seen(term, shapes), rule, on_edge=term.place is not None)
            for term in value.terms
        ]
        operations.append([operation for operation, _ in found])
        shapes[value.name] = _shape(value, [shape for _, shape in found])
    logs = iter(log_constants([one for some in operations for one in some], norms or SpectralNorms()))
    return NetworkConstants(values, tuple(tuple(next(logs) for _ in some) for some in operations))


def _seen(term: Term, shapes: Mapping[str, Shape]) -> Shape:
    """Shape of what a term reads."""
    channels, height, width = shapes[term.source]
    return (channels if term.channels is None else term.channels, height, width)


def _shape(value: Value, shapes: Sequence[Shape]) -> Shape:
    """Shape of a value whose terms have these."""
    channels = shapes[0][0] if value.join == "sum" else sum(shape[0] for shape in shapes)
    return (channels, *shapes[0][1:])


def _joined(value: Value, logs: Sequence[float], reached: Mapping[str, Tensor]) -> Tensor:
    """Logarithm of a value's constant, given those of what it reads."""
    terms = torch.stack(
        [reached[term.source] + _log_weight(term) + log for term, log in zip(value.terms, logs, strict=True)]
    )
    terms = terms[~terms.isneginf()]  # nothing comes through there; its gradient would be no number
    if not len(terms):
        return torch.full((), -math.inf, dtype=torch.float64)
    if value.join == "sum":
        return terms.logsumexp(0)
    return terms.amax() if value.join == "beside" else (2 * terms).logsumexp(0) / 2


def _log_weight(term: Term) -> Tensor | float:
    if isinstance(term.weight, Tensor):
        return term.weight.double().log().cpu()
    return math.log(term.weight)
