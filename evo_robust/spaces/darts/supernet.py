"""The supernet of DARTS cells: all operations on all edges, one path or one mixture of them at a time.

Keep this module to torch and the standard library, like all network modules.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor

from evo_robust.spaces.cells.layout import edges_of
from evo_robust.spaces.darts.codec import NONE, DARTSArchitecture, edge_operations
from evo_robust.spaces.darts.network import DARTSCell, DARTSNetwork
from evo_robust.spaces.supernet import Mixture, Supernet, SupernetPath

Plan = list[tuple[str, ...] | None]


class MixedCell(DARTSCell):
    """A cell whose operations have weights.

    Attributes:
        weights: the weights; None means that all of them are 1.
    """

    weights: _Weights | None = None

    def weigh(self, edge: int, name: str, value: Tensor) -> Tensor:
        """See :meth:`DARTSCell.weigh`."""
        return value if self.weights is None else weighed(value, self.weights.of(edge, name))

    def weigh_rest(self, edge: int, value: Tensor) -> Tensor:
        """See :meth:`DARTSCell.weigh_rest`: the weight is the sum of the edge's weights, including that of ``none``."""
        return value if self.weights is None else weighed(value, self.weights.sums[edge])


class DARTSSupernet(DARTSNetwork, Supernet):
    """The network of all operations on all edges; weights have the names of ``DARTSNetwork``.

    Until a path is chosen, all operations run with weight 1. In a mixture, a node without inputs is zero, and so are
    the edges that leave it. With partial channels, the channels that bypass an edge's operations have the edge's whole
    weight: the sum of its row (β where the weights of operations add up to 1).

    Args:
        operations: names of a mixture's columns, in order.
        arguments: arguments of ``DARTSNetwork``, whose cells have all operations on all edges.
    """

    cell_class: ClassVar[type[DARTSCell]] = MixedCell

    def __init__(self, operations: Sequence[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.operations, self.partial = tuple(operations), int(arguments["partial"])

    def choose(self, path: SupernetPath) -> None:
        """See :meth:`Supernet.choose`.

        Args:
            path: an architecture, with its ``normal`` and its ``reduction`` cell, or a mixture.

        Raises:
            ValueError: ``path`` is neither, or a mixture of another shape, or with weights that are negative or NaN.
        """
        chosen: list[tuple[Plan, _Weights | None]]
        if isinstance(path, Mixture):
            chosen = [(self._plan(w), _Weights(w, self.operations)) for w in (path.normal, path.reduction)]
        elif not isinstance(path, DARTSArchitecture):
            raise ValueError(f"expected an architecture of DARTS or a mixture, got {path!r}")
        else:
            cells = path.normal, path.reduction
            chosen = [([names or None for names in edge_operations(cell)], None) for cell in cells]
        for cell in cast("Iterable[MixedCell]", self.cells):
            cell.active, cell.weights = chosen[cell.stride - 1]

    def _plan(self, weights: Tensor) -> Plan:
        """Names of the operations that run, for every edge; None for edges that carry nothing."""
        wiring = edges_of(self.nodes)
        if tuple(weights.shape) != (len(wiring), len(self.operations)):
            raise ValueError(
                f"expected weights of {len(wiring)} edges × {len(self.operations)} operations, "
                f"got shape {tuple(weights.shape)}"
            )
        rows = weights.detach().tolist()  # one transfer from the device for all cells
        if not all(weight >= 0 for row in rows for weight in row):
            raise ValueError("expected weights of operations that are >= 0, got others")
        live = [True, True, *[False] * self.nodes]
        plan: Plan = []
        for row, (source, target) in zip(rows, wiring, strict=True):
            names = [name for name, weight in zip(self.operations, row, strict=True) if weight]
            running = tuple(name for name in names if name != NONE)
            # bypassing channels also flow over an edge whose only weight is on `none`
            carries = live[source] and bool(names if self.partial > 1 else running)
            live[target] |= carries
            plan.append(running if carries else None)
        return plan


def weighed(value: Tensor, weight: Tensor | float) -> Tensor:
    """``value · weight``; where the weight is the number 1, ``value`` itself."""
    return value if isinstance(weight, float) and weight == 1 else value * weight


class _Weights:
    """The entries of a weight matrix, split once for all cells: tensors where they have gradients, else numbers."""

    def __init__(self, matrix: Tensor, operations: Sequence[str]) -> None:
        self.matrix, self.operations = matrix, tuple(operations)
        self.single: Sequence[Tensor | float] = matrix.flatten().unbind()
        self.sums: Sequence[Tensor | float] = matrix.sum(1).unbind()
        if not matrix.requires_grad:
            self.single, self.sums = matrix.flatten().tolist(), matrix.sum(1).tolist()

    def of(self, edge: int, name: str) -> Tensor | float:
        """The weight of an operation on an edge."""
        return self.single[edge * len(self.operations) + self.operations.index(name)]

    def __deepcopy__(self, memo: dict[int, Any]) -> _Weights:
        """Copy values without gradients, so that copies of a supernet (for attacks, counts) do not get into them."""
        return _Weights(self.matrix.detach().clone(), self.operations)
