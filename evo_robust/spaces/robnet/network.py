"""Networks of RobNet cells, and the supernet that holds all their operations (Guo et al., CVPR 2020).

Keep this module to torch and the standard library: ``export`` copies its source, after that of ``ops``, into
stand-alone files that rebuild a network without this package. All a network needs is the literal arguments of
``RobNetNetwork``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from evo_robust.spaces.cells.layout import edges_of
from evo_robust.spaces.cells.network import CellNetwork
from evo_robust.spaces.cells.ops import FactorizedReduce, PointConv, SepConv
from evo_robust.spaces.robnet.codec import CONVOLUTION, IDENTITY, Alpha, RobNetArchitecture, alpha_from_text, live_cells
from evo_robust.spaces.supernet import Supernet, SupernetPath


class RobNetNetwork(CellNetwork):
    """A stem, cells, global average pooling and a linear classifier. Operations that α lacks are not built.

    Args:
        cells: α of every cell in notation, ``11 10 …`` with one pair per edge.
        nodes: number of intermediate nodes of a cell.
        channels: C of the first cells; it doubles at every reduction. A cell outputs ``nodes``·C channels.
        reductions: indices of the cells whose edges from nodes 0 and 1 have stride 2.
        n_classes: number of logits.
        in_shape: ``(c, h, w)`` of the images.
        large_images: ImageNet's stems (two convolutions of stride 2, then a third) instead of one of stride 1.
    """

    def __init__(
        self,
        cells: Sequence[str],
        nodes: int,
        channels: int,
        reductions: Sequence[int],
        n_classes: int,
        in_shape: tuple[int, int, int],
        large_images: bool,
    ) -> None:
        alphas = live_cells([alpha_from_text(text, nodes) for text in cells], nodes)
        super().__init__(
            lambda index, *place: RobNetCell(alphas[index], nodes, *place),
            len(alphas),
            nodes,
            channels,
            reductions,
            n_classes,
            in_shape,
            large_images,
        )


class RobNetSupernet(RobNetNetwork, Supernet):
    """The network of all operations; ``choose`` selects those that run. Weights have the names of ``RobNetNetwork``."""

    def choose(self, path: SupernetPath) -> None:
        """See :meth:`Supernet.choose`.

        Args:
            path: an architecture, whose ``cells`` are one α for all cells or one for each.

        Raises:
            ValueError: ``path`` is no such architecture.
        """
        if not isinstance(path, RobNetArchitecture):
            raise ValueError(f"expected an architecture of RobNet, got {path!r}")
        given: Sequence[Alpha] = path.cells
        alphas = list(given) * (len(self.cells) if len(given) == 1 else 1)
        cells = cast("Iterable[RobNetCell]", self.cells)
        for cell, alpha in zip(cells, live_cells(alphas, self.nodes), strict=True):
            cell.active = alpha


class RobNetCell(nn.Module):
    """A cell: every node is the sum of the operations on its edges; the output concatenates the nodes.

    Attributes:
        active: code of the operations that run now, for every edge; a subset of those that were built.
    """

    active: Alpha

    def __init__(
        self, alpha: Alpha, nodes: int, earlier: int, before: int, channels: int, reduction: bool, halved: bool
    ) -> None:
        super().__init__()
        self.active = alpha
        self.wiring = edges_of(nodes)
        used = {source for code, (source, _) in zip(alpha, self.wiring, strict=True) if code}
        self.relu = nn.ReLU()
        if 0 in used:
            reduce = FactorizedReduce if halved else PointConv
            self.preprocess0 = reduce(earlier, channels)
        if 1 in used:
            self.preprocess1 = PointConv(before, channels)
        self.convolutions = nn.ModuleDict()
        self.identities = nn.ModuleDict()
        for edge, (code, (source, _)) in enumerate(zip(alpha, self.wiring, strict=True)):
            stride = 2 if reduction and source < 2 else 1
            if code & CONVOLUTION:
                self.convolutions[f"e{edge}"] = SepConv(channels, stride)
            if code & IDENTITY and stride == 2:
                self.identities[f"e{edge}"] = FactorizedReduce(channels, channels)

    def forward(self, earlier: Tensor | None, before: Tensor | None) -> Tensor | None:
        """Output ``(n, nodes·C, h, w)``, from the outputs of cells k−2 and k−1. None means zero, for inputs too."""
        if not any(self.active):
            return None
        read = {source for code, (source, _) in zip(self.active, self.wiring, strict=True) if code}
        values: list[Tensor | None] = [None, None]
        if 0 in read:
            values[0] = self.preprocess0(self.relu(earlier))
        if 1 in read:
            values[1] = self.preprocess1(self.relu(before))
        positive: dict[int, Tensor] = {}  # one ReLU per node, used by all edges that leave it
        for target in range(2, self.wiring[-1][1] + 1):
            values.append(self._node(target, values, positive))
        some = next(value for value in values[2:] if value is not None)
        return torch.cat([torch.zeros_like(some) if value is None else value for value in values[2:]], 1)

    def _node(self, target: int, values: list[Tensor | None], positive: dict[int, Tensor]) -> Tensor | None:
        """Sum of the operations on the edges into a node; None where there are none, which means zero."""
        fresh: list[Tensor] = []  # tensors that nothing else refers to
        kept: list[Tensor] = []
        for edge, (code, (source, end)) in enumerate(zip(self.active, self.wiring, strict=True)):
            value = values[source] if end == target and code else None
            if value is None:
                continue
            name = f"e{edge}"
            reduced = code & IDENTITY and name in self.identities
            if (code & CONVOLUTION or reduced) and source not in positive:
                positive[source] = self.relu(value)
            if code & CONVOLUTION:
                fresh.append(self.convolutions[name](positive[source]))
            if reduced:
                fresh.append(self.identities[name](positive[source]))
            elif code & IDENTITY:
                kept.append(value)
        total = None
        for term in (*fresh, *kept):
            # the first convolution's output may be added to in place: no backward pass reads it
            total = term if total is None else total.add_(term) if fresh else total + term
        return total
