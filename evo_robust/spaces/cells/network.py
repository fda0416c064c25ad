"""The common parts of networks of cells: stems, the row of cells, global average pooling, a classifier.

Keep this module to torch and the standard library: ``export`` copies what it needs of it into stand-alone files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from evo_robust.spaces.cells.ops import large_stems, small_stem
from evo_robust.spaces.ops import Normalize

LARGE_SIDE = 64
"""Largest image side in pixels for the stem of stride 1."""


class CellNetwork(nn.Module):
    """Stems, cells that read the outputs of the two before them, global average pooling and a linear classifier.

    Args:
        make_cell: makes a cell, which outputs ``nodes``·C channels. It gets the cell's index, the channels of the
            outputs of cells k−2 and k−1, C, whether it is a reduction, and whether those outputs differ in size.
        layers: number of cells.
        nodes: number of intermediate nodes of a cell.
        channels: C of the first cells; it doubles at every reduction.
        reductions: indices of the cells that halve height and width.
        n_classes: number of logits.
        in_shape: ``(c, h, w)`` of the images.
        large_images: ImageNet's stems (two convolutions of stride 2, then a third) instead of one of stride 1.
    """

    def __init__(
        self,
        make_cell: Callable[[int, int, int, int, bool, bool], nn.Module],
        layers: int,
        nodes: int,
        channels: int,
        reductions: Sequence[int],
        n_classes: int,
        in_shape: tuple[int, int, int],
        large_images: bool,
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.reductions = tuple(reductions)
        self.normalize = Normalize(in_shape[0])
        stems = large_stems if large_images else small_stem
        self.stem, self.stem2 = stems(in_shape[0], channels)
        before = earlier = channels if large_images else 3 * channels
        self.cells = nn.ModuleList()
        halved = large_images  # whether the outputs of cells k−2 and k−1 differ in size
        for index in range(layers):
            reduction = index in reductions
            channels *= 2 if reduction else 1
            self.cells.append(make_cell(index, earlier, before, channels, reduction, halved))
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


def frame_arguments(layers: int, n_classes: int, in_shape: tuple[int, int, int]) -> dict[str, Any]:
    """Arguments of a ``CellNetwork`` that depend only on depth and images; reductions are cells L//3 and 2L//3."""
    return {
        "reductions": sorted({layers // 3, 2 * layers // 3}),
        "n_classes": int(n_classes),
        "in_shape": tuple(int(n) for n in in_shape),
        "large_images": max(in_shape[1:]) > LARGE_SIDE,
    }
