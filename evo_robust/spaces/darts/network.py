"""Networks of DARTS cells (Liu et al., ICLR 2019), with the partial channels of PC-DARTS (Xu et al., ICLR 2020).

Keep this module to torch and the standard library: ``export`` copies its source, after that of what it imports, into
stand-alone files that rebuild a network without this package. All a network needs is the literal arguments of
``DARTSNetwork``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from evo_robust.spaces.cells.layout import edges_of
from evo_robust.spaces.cells.network import CellNetwork
from evo_robust.spaces.cells.ops import FactorizedReduce, PointConv
from evo_robust.spaces.darts.codec import Cell, edge_operations
from evo_robust.spaces.darts.ops import is_rectified, operation


class DARTSCell(nn.Module):
    """A cell: every node is the sum of the operations on its edges; the output concatenates the nodes.

    With partial channels an edge carries [operations(first C/K channels), other channels], shuffled. At stride 2 the
    other channels pass through a 2×2 max pool.

    Attributes:
        active: names of the operations that run now, for every edge; None where an edge is cut and carries nothing.
    """

    active: list[tuple[str, ...] | None]

    def __init__(
        self,
        cell: Cell,
        partial: int,
        final: bool,
        earlier: int,
        before: int,
        channels: int,
        reduction: bool,
        halved: bool,
    ) -> None:
        super().__init__()
        built = edge_operations(cell)
        self.active = [names or None for names in built]
        self.wiring = edges_of(len(cell))
        self.channels, self.seen, self.partial = channels, channels // partial, partial
        self.stride = 2 if reduction else 1
        self.relu = nn.ReLU()
        reduce = FactorizedReduce if halved else PointConv
        self.preprocess0 = reduce(earlier, channels, final)
        self.preprocess1 = PointConv(before, channels, final)
        for edge, (names, (source, _)) in enumerate(zip(built, self.wiring, strict=True)):
            stride = self.stride if source < 2 else 1
            made = {name: operation(name, self.seen, stride, final) for name in names}
            if made:
                self.add_module(f"e{edge}", nn.ModuleDict(made))
        if partial > 1 and reduction:
            self.halve = nn.MaxPool2d(2, 2, ceil_mode=True)

    def forward(self, earlier: Tensor, before: Tensor) -> Tensor:
        """Output ``(n, nodes·C, h, w)``, from the outputs of cells k−2 and k−1."""
        read = {source for names, (source, _) in zip(self.active, self.wiring, strict=True) if names is not None}
        values = _Values(self)
        # the value of a node that no open edge leaves is never read
        values.append(self.preprocess0(self.relu(earlier)) if 0 in read else earlier)
        values.append(self.preprocess1(self.relu(before)) if 1 in read else before)
        for target in range(2, self.wiring[-1][1] + 1):
            node = self._node(target, values)
            values.append(self._zero(before) if node is None else node)
        return torch.cat(values.whole[2:], 1)

    def _zero(self, before: Tensor) -> Tensor:
        height, width = (-(-side // self.stride) for side in before.shape[2:])
        return before.new_zeros(before.shape[0], self.channels, height, width)

    def _node(self, target: int, values: _Values) -> Tensor | None:
        """Sum over the open edges into a node; None where there are none, which means zero."""
        edges = [
            (edge, source)
            for edge, (source, end) in enumerate(self.wiring)
            if end == target and self.active[edge] is not None
        ]
        total = add_up(self._terms(edges, values))
        if self.partial == 1:
            return total
        rest = add_up(self.weigh_rest(edge, values.rest(source)) for edge, source in edges)
        if rest is None:
            return None
        if total is None:
            total = torch.zeros_like(rest[:, : self.seen])
        whole = torch.cat((total, rest), 1)
        return whole.unflatten(1, (self.partial, self.seen)).transpose(1, 2).flatten(1, 2)

    def _terms(self, edges: Sequence[tuple[int, int]], values: _Values) -> Iterator[Tensor]:
        for edge, source in edges:
            for name in self.active[edge] or ():
                module = getattr(self, f"e{edge}")[name]
                seen = values.positive(source) if is_rectified(module) else values.seen(source)
                yield self.weigh(edge, name, module(seen))

    def weigh(self, edge: int, name: str, value: Tensor) -> Tensor:
        """Output of an operation on an edge, times its weight; that is 1 here."""
        return value

    def weigh_rest(self, edge: int, value: Tensor) -> Tensor:
        """The channels that bypass an edge's operations, times their weight; that is 1 here."""
        return value


class _Values:
    """Values of a cell's nodes in one forward pass, and the tensors that edges read; each is computed once."""

    def __init__(self, cell: DARTSCell) -> None:
        self.cell = cell
        self.whole: list[Tensor] = []
        self._positive: dict[int, Tensor] = {}
        self._rest: dict[int, Tensor] = {}

    def append(self, value: Tensor) -> None:
        """Add the value of the next node."""
        self.whole.append(value)

    def seen(self, source: int) -> Tensor:
        """The channels of a node that operations process."""
        return self.whole[source] if self.cell.partial == 1 else self.whole[source][:, : self.cell.seen]

    def positive(self, source: int) -> Tensor:
        """The same channels after a ReLU, computed once for all edges that leave the node."""
        if source not in self._positive:
            self._positive[source] = self.cell.relu(self.seen(source))
        return self._positive[source]

    def rest(self, source: int) -> Tensor:
        """The channels that bypass operations, in the size that the node's edges output."""
        if source not in self._rest:
            rest = self.whole[source][:, self.cell.seen :]
            self._rest[source] = self.cell.halve(rest) if self.cell.stride == 2 and source < 2 else rest
        return self._rest[source]


def add_up(terms: Iterator[Tensor]) -> Tensor | None:
    """The sum of tensors of one shape; None where there are none. No term is changed."""
    total, fresh = next(terms, None), False
    if total is None:
        return None
    for term in terms:
        # the first addition makes a new tensor, so later ones may add in place
        total, fresh = total.add_(term) if fresh else total + term, True
    return total


class DARTSNetwork(CellNetwork):
    """A stem, cells, global average pooling and a linear classifier.

    Args:
        normal: (operation, predecessor) pairs of every intermediate node of the normal cells.
        reduction: those of the reduction cells, with as many nodes.
        layers: number of cells.
        channels: C of the first cells; it doubles at every reduction. A cell outputs nodes·C channels.
        partial: K of PC-DARTS: operations process the first C/K channels of their input; the others bypass them.
        final: affine batch normalisation, and none after pools. Otherwise a cell's batch normalisation is not affine.
        reductions: indices of the cells whose edges from nodes 0 and 1 have stride 2.
        n_classes: number of logits.
        in_shape: ``(c, h, w)`` of the images.
        large_images: ImageNet's stems (two convolutions of stride 2, then a third) instead of one of stride 1.
    """

    cell_class: ClassVar[type[DARTSCell]] = DARTSCell

    def __init__(
        self,
        normal: Cell,
        reduction: Cell,
        layers: int,
        channels: int,
        partial: int,
        final: bool,
        reductions: Sequence[int],
        n_classes: int,
        in_shape: tuple[int, int, int],
        large_images: bool,
    ) -> None:
        super().__init__(
            lambda index, *place: self.cell_class(reduction if index in reductions else normal, partial, final, *place),
            layers,
            len(normal),
            channels,
            reductions,
            n_classes,
            in_shape,
            large_images,
        )
