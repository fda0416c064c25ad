"""The supernet of DARTS cells: all operations on all edges, one path or one mixture of them at a time.

Keep this module to torch and the standard library, like all network modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from evo_robust.spaces.cells.layout import edges_of
from evo_robust.spaces.darts.codec import NONE, DARTSArchitecture, edge_operations
from evo_robust.spaces.darts.network import DARTSCell, DARTSNetwork
from evo_robust.spaces.supernet import Mixture, Path, Supernet

Plan = list[tuple[str, ...] | None]


class MixedCell(DARTSCell):
    """A cell whose operations are weighed.

    Attributes:
        weights: what weighs them; all have weight 1 where it is None.
    """

    weights: _Weights | None = None

    def weigh(self, edge: int, name: str, value: Tensor) -> Tensor:
        """See :meth:`DARTSCell.weigh`."""
        return value if self.weights is None else weighed(value, self.weights.of(edge, name))

    def weigh_rest(self, edge: int, value: Tensor) -> Tensor:
        """See :meth:`DARTSCell.weigh_rest`: the sum of the edge's weights, that of ``none`` among them."""
        return value if self.weights is None else weighed(value, self.weights.sums[edge])


class DARTSSupernet(DARTSNetwork, Supernet):
    """The network of all operations on all edges; weights bear the names of ``DARTSNetwork``.

    Until a path is chosen, all of them run with weight 1. In a mixture, a node that no edge enters is zero, and so is
    what leaves it. With partial channels what passes by an edge's operations has the edge's whole weight, the sum of
    its row (β where the weights of operations add up to 1).

    Args:
        operations: names of a mixture's columns, in order.
        arguments: of ``DARTSNetwork``, its cells with all operations on all edges.
    """

    cell_class: ClassVar[type[DARTSCell]] = MixedCell

    def __init__(self, operations: Sequence[str], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.operations, self.partial = tuple(operations), int(arguments["partial"])

    def choose(self, path: Path) -> None:
        """See :meth:`Supernet.choose`.

        Args:
            path: an architecture, with its ``normal`` and its ``reduction`` cell, or a mixture.

        Raises:
            ValueError: a mixture of another shape, or with weights that are negative or no numbers; or neither.
        """
        chosen: list[tuple[Plan, _Weights | None]]
        if isinstance(path, Mixture):
            chosen = [(self._plan(w), _Weights(w, self.operations)) for w in (path.normal, path.reduction)]
        elif not isinstance(path, DARTSArchitecture):
            raise ValueError(f"expected an architecture of DARTS or a mixture, got {path!r}")
        else:
            cells = path.normal, path.reduction
            chosen = [([names or None for names in edge_operations(cell)], None) for cell in cells]
        for cell in self.cells:
            cell.active, cell.weights = chosen[cell.stride - 1]  # type: ignore[operator, assignment]

    def _plan(self, weights: Tensor) -> Plan:
        """Names of the operations that run on every edge, None on edges that carry nothing."""
        wiring = edges_of(self.nodes)
        if tuple(weights.shape) != (len(wiring), len(self.operations)):
            raise ValueError(
                f"expected weights of {len(wiring)} edges × {len(self.operations)} operations, "
                f"got shape {tuple(weights.shape)}"
            )
        rows = weights.detach().tolist()  # one look at the device for all cells
        if not all(weight >= 0 for row in rows for weight in row):
            raise ValueError("expected weights of operations that are >= 0, got others")
        live = [True, True, *[False] * self.nodes]
        plan: Plan = []
        for row, (source, target) in zip(rows, wiring, strict=True):
            names = [name for name, weight in zip(self.operations, row, strict=True) if weight]
            running = tuple(name for name in names if name != NONE)
            # passed-by channels also flow over an edge whose only weight is on `none`
            carries = live[source] and bool(names if self.partial > 1 else running)
            live[target] |= carries
            plan.append(running if carries else None)
        return plan


def weighed(value: Tensor, weight: Tensor | float) -> Tensor:
    """``value · weight``, for nothing where the weight is the number 1."""
    return value if isinstance(weight, float) and weight == 1 else value * weight


class _Weights:
    """A matrix of weights taken apart, once for all cells: tensors where they have gradients, else numbers."""

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
        """The values alone: copies of a supernet (an attack's, a count's) take no part in its gradients."""
        return _Weights(self.matrix.detach().clone(), self.operations)
