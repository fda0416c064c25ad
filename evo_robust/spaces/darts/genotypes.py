"""Published DARTS cells, by name: the cells, with the C of the networks that their papers trained."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType

NODES = 4
"""Intermediate nodes of every published cell."""

LAYERS = 20
"""Cells of every published network for CIFAR-10."""


@dataclasses.dataclass(frozen=True)
class PublishedDARTS:
    """A published network.

    Attributes:
        text: normal and reduction cell in notation, with short names.
        source: the paper that published it.
        channels: C of the first cells.
    """

    text: str
    source: str
    channels: int = 36


PUBLISHED = MappingProxyType(
    {
        "darts-v1": PublishedDARTS(
            "(sep3,1)(sep3,0)|(skip,0)(sep3,1)|(skip,0)(sep3,1)|(sep3,0)(skip,2) / "
            "(max,0)(max,1)|(skip,2)(max,0)|(max,0)(skip,2)|(skip,2)(avg,0)",
            "DARTS, first order (Liu et al., ICLR 2019)",
        ),
        "darts-v2": PublishedDARTS(
            "(sep3,0)(sep3,1)|(sep3,0)(sep3,1)|(sep3,1)(skip,0)|(skip,0)(dil3,2) / "
            "(max,0)(max,1)|(skip,2)(max,1)|(max,0)(skip,2)|(skip,2)(max,1)",
            "DARTS, second order (Liu et al., ICLR 2019)",
        ),
        "pc-darts": PublishedDARTS(
            "(sep3,1)(skip,0)|(sep3,0)(dil3,1)|(sep5,0)(sep3,1)|(avg,0)(dil3,1) / "
            "(sep5,1)(max,0)|(sep5,1)(sep5,2)|(sep3,0)(sep3,3)|(sep3,1)(sep3,2)",
            "PC-DARTS (Xu et al., ICLR 2020)",
        ),
        "racl": PublishedDARTS(
            "(sep3,0)(sep3,1)|(sep5,0)(skip,1)|(sep3,0)(skip,3)|(sep3,3)(skip,4) / "
            "(sep3,0)(sep5,1)|(avg,0)(dil3,1)|(sep3,0)(sep5,1)|(sep3,2)(dil3,3)",
            "RACL (Dong et al., 2020)",
        ),
        "advrush": PublishedDARTS(
            "(sep3,1)(sep3,0)|(sep5,0)(sep3,1)|(sep3,1)(sep3,0)|(skip,0)(sep3,1) / "
            "(sep3,0)(sep3,1)|(skip,0)(dil3,2)|(skip,0)(avg,1)|(skip,0)(skip,2)",
            "AdvRush (Mok et al., ICCV 2021)",
        ),
        "pvll": PublishedDARTS(
            "(sep5,0)(dil3,1)|(sep3,1)(sep5,0)|(avg,3)(dil5,1)|(sep3,1)(max,0) / "
            "(sep5,1)(max,0)|(max,1)(dil3,2)|(dil5,2)(sep5,0)|(dil3,1)(skip,2)",
            "PVLL (Li et al., 2020)",
        ),
        "wsr-basic": PublishedDARTS(
            "(dil3,0)(dil3,1)|(dil5,0)(avg,1)|(dil5,2)(dil3,3)|(avg,1)(sep5,0) / "
            "(sep3,1)(dil5,0)|(avg,2)(max,1)|(sep3,1)(dil5,2)|(sep3,4)(avg,2)",
            "Wsr-NAS, Basic and Robust (Cheng et al., AAAI 2023)",
            channels=45,
        ),
        "wsr-plus": PublishedDARTS(
            "(dil3,0)(dil3,1)|(dil5,0)(avg,1)|(dil3,3)(dil5,2)|(sep5,0)(avg,1) / "
            "(sep3,1)(dil3,0)|(avg,2)(max,1)|(sep3,1)(dil5,2)|(sep3,4)(max,2)",
            "Wsr-NAS, Plus (Cheng et al., AAAI 2023)",
            channels=46,
        ),
    }
)
"""Networks by name, for images of CIFAR-10's size."""
