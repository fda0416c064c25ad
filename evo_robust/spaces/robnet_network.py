"""Networks of RobNet cells, and the supernet that holds all their operations (Guo et al., CVPR 2020).

Keep this module to torch and the standard library: ``export`` copies its source, after that of ``ops``, into
stand-alone files that rebuild a network without this package. All a network needs is the literal arguments of
``RobNetNetwork``.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from evo_robust.spaces.ops import Normalize
from evo_robust.spaces.robnet_codec import CONVOLUTION, IDENTITY, Alpha, alpha_from_text, edges_of, live_cells
from evo_robust.spaces.supernet import Supernet


class RobNetNetwork(nn.Module):
    """A stem, cells, global average pooling and a linear classifier; what an α leaves out is not built.

    Args:
        cells: α of every cell in notation, ``11 10 …`` with one pair per edge.
        nodes: intermediate nodes of a cell.
        channels: C of the first cells; it doubles at every reduction. A cell puts out ``nodes``·C channels.
        reductions: indices of the cells whose edges from nodes 0 and 1 have stride 2.
        n_classes: number of logits.
        in_shape: ``(c, h, w)`` of the images.
        large_images: two convolutions of stride 2 as first stem and a third as second (ImageNet), not one of stride 1.
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
        super().__init__()
        self.nodes = nodes
        self.normalize = Normalize(in_shape[0])
        stems = large_stems if large_images else small_stem
        self.stem, self.stem2 = stems(in_shape[0], channels)
        before = earlier = channels if large_images else 3 * channels
        alphas = live_cells([alpha_from_text(text, nodes) for text in cells], nodes)
        self.cells = nn.ModuleList()
        halved = large_images  # whether the outputs of cells k−2 and k−1 differ in size
        for index, alpha in enumerate(alphas):
            reduction = index in reductions
            channels *= 2 if reduction else 1
            self.cells.append(RobNetCell(alpha, nodes, earlier, before, channels, reduction, halved))
            earlier, before, halved = before, nodes * channels, reduction
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(before, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, n_classes)`` of images ``(n, c, h, w)`` in [0,1]."""
        earlier = before = self.stem(self.normalize(x))
        if self.stem2 is not None:
            before = self.stem2(before)
        for cell in self.cells:
            earlier, before = before, cell(earlier, before)
        return self.classifier(self.pool(before).flatten(1))


class RobNetSupernet(RobNetNetwork, Supernet):
    """The network of all operations; ``choose`` says which of them run. Weights bear the names of ``RobNetNetwork``."""

    def choose(self, architecture: Hashable) -> None:
        """See :meth:`Supernet.choose`.

        Args:
            architecture: its ``cells`` are one α for all cells or one for each.
        """
        given: Sequence[Alpha] = architecture.cells  # type: ignore[attr-defined]
        alphas = list(given) * (len(self.cells) if len(given) == 1 else 1)
        for cell, alpha in zip(self.cells, live_cells(alphas, self.nodes), strict=True):
            cell.active = alpha  # type: ignore[assignment]


class RobNetCell(nn.Module):
    """A cell: every node is the sum of the operations on its edges, the output their concatenation.

    Attributes:
        active: code of every edge that runs now; a subset of what was built.
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
        """Output ``(n, nodes·C, h, w)`` of the outputs of cells k−2 and k−1; None for zero, there and here."""
        if not any(self.active):
            return None
        read = {source for code, (source, _) in zip(self.active, self.wiring, strict=True) if code}
        values: list[Tensor | None] = [None, None]
        if 0 in read:
            values[0] = self.preprocess0(self.relu(earlier))
        if 1 in read:
            values[1] = self.preprocess1(self.relu(before))
        positive: dict[int, Tensor] = {}  # one ReLU per node serves all edges that leave it
        for target in range(2, self.wiring[-1][1] + 1):
            values.append(self._node(target, values, positive))
        some = next(value for value in values[2:] if value is not None)
        return torch.cat([torch.zeros_like(some) if value is None else value for value in values[2:]], 1)

    def _node(self, target: int, values: list[Tensor | None], positive: dict[int, Tensor]) -> Tensor | None:
        """Sum of the operations on the edges into a node; None without any, which means zero."""
        fresh: list[Tensor] = []  # tensors that nobody else holds
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


class SepConv(nn.Sequential):
    """Separable 3×3 convolution twice, without its first ReLU: DW(stride)–PW–BN–ReLU–DW–PW–BN, no affine BN."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels, affine=False),
        )


class PointConv(nn.Sequential):
    """1×1 convolution – BN without affine parameters; the ReLU before it is the caller's."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__(nn.Conv2d(before, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=False))


class FactorizedReduce(nn.Module):
    """Two 1×1 convolutions of stride 2, one of them a pixel further, concatenated – BN; the ReLU is the caller's."""

    def __init__(self, before: int, channels: int) -> None:
        super().__init__()
        self.straight = nn.Conv2d(before, channels - channels // 2, 1, 2, bias=False)
        self.shifted = nn.Conv2d(before, channels // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Half the size, rounded up: ``(n, channels, ⌈h/2⌉, ⌈w/2⌉)``."""
        # the added line of zeros is read at odd sizes alone
        beyond = F.pad(x, (-1, 1, -1, 1))
        return self.norm(torch.cat((self.straight(x), self.shifted(beyond)), 1))


def small_stem(in_channels: int, channels: int) -> tuple[nn.Module, nn.Module | None]:
    """3×3 convolution to 3·C channels – BN, no ReLU (CIFAR); both inputs of the first cell."""
    convolution = nn.Conv2d(in_channels, 3 * channels, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(3 * channels)), None


def large_stems(in_channels: int, channels: int) -> tuple[nn.Module, nn.Module | None]:
    """Two convolutions of stride 2, and a third after them (ImageNet)."""
    half = max(1, channels // 2)
    first = nn.Sequential(
        *(nn.Conv2d(in_channels, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half), nn.ReLU(inplace=True)),
        *(nn.Conv2d(half, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels)),
    )
    second = nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels))
    return first, second
