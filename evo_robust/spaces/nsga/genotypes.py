"""Published networks of NSGA-Net phases, by name: the notation of three phases of six nodes."""

from __future__ import annotations

from types import MappingProxyType

PUBLISHED = MappingProxyType(
    {
        "roco-table5": "[0][01][000][0000][00000][0] / [1][00][010][1100][00110][1] / [0][00][101][0111][10111][1]",
    }
)
"""``roco-table5``: RoCo-NAS's network of Table V (2021), the only one of that paper whose genome is known."""
