"""RobNet's published cells, by name (Guo et al., CVPR 2020): α in notation, with the size of their networks."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

NODES = 4
"""Intermediate nodes of every published cell."""


@dataclasses.dataclass(frozen=True)
class PublishedRobNet:
    """A published network.

    Attributes:
        alphas: α of the cell that all share, or of each cell.
        channels: C of the first cells.
        layers: number of cells.
    """

    alphas: tuple[str, ...]
    channels: int
    layers: int


_LARGE = "11 11 | 11 11 11 | 01 11 01 10 | 11 01 01 01 11"

PUBLISHED = MappingProxyType(
    {
        "small": PublishedRobNet(("11 11 | 01 10 11 | 10 01 00 01 | 10 00 10 11 10",), 36, 20),
        "large": PublishedRobNet((_LARGE,), 36, 20),
        "large-v2": PublishedRobNet((_LARGE,), 64, 33),
        "free": PublishedRobNet(
            (
                "11 10 | 11 11 10 | 11 01 01 10 | 11 11 00 11 01",
                "11 00 | 01 10 01 | 00 10 10 00 | 01 11 10 11 00",
                "11 11 | 11 01 01 | 11 01 00 10 | 00 10 10 00 11",
                "10 11 | 10 01 01 | 10 10 01 10 | 11 00 00 01 10",
                "11 11 | 01 00 10 | 10 10 01 10 | 01 00 10 01 11",
                "11 10 | 11 11 11 | 01 10 11 00 | 10 01 11 01 11",
                "11 11 | 11 10 10 | 01 11 10 01 | 10 10 10 01 10",
                "01 11 | 11 11 01 | 11 11 11 01 | 11 01 11 10 00",
                "11 11 | 11 11 11 | 01 01 11 10 | 01 00 10 01 11",
                "10 11 | 01 00 11 | 11 10 11 01 | 11 11 11 11 00",
                "11 10 | 11 00 00 | 00 11 00 01 | 10 00 01 10 11",
                "01 11 | 01 11 11 | 10 10 11 10 | 11 01 11 10 00",
                "11 11 | 10 10 01 | 00 10 11 11 | 01 10 10 00 01",
                "01 11 | 11 11 01 | 01 11 01 01 | 11 11 01 10 10",
                "01 11 | 11 11 11 | 01 00 01 10 | 10 11 10 10 11",
                "11 11 | 00 11 11 | 01 00 01 10 | 00 11 01 11 11",
                "11 11 | 01 11 11 | 10 11 10 10 | 10 10 10 11 11",
                "10 11 | 01 11 11 | 01 11 00 11 | 11 00 10 00 01",
                "11 10 | 11 11 11 | 11 11 10 11 | 00 11 01 11 11",
                "11 11 | 01 01 11 | 11 01 00 00 | 10 00 01 01 11",
            ),
            channels=36,
            layers=20,
        ),
    }
)
"""Networks by name, for images of CIFAR-10's size."""

MEDIUM = PublishedRobNet(("11 11 | 11 10 11 | 01 11 01 10 | 10 01 00 01 11",), 36, 20)
"""A network of the size of RobNet-medium, whose own cell was never published.

Ten convolutions and six identities of stride 2 give the paper's number of parameters, and many cells have these. This
one is the large cell without three of its convolutions. It is not among ``PUBLISHED``, which seed searches.
"""
