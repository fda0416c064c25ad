"""Edges of a densely connected cell, numbered as in RobNet and DARTS.

Keep this module to the standard library: ``export`` copies what it needs of it into stand-alone files.

Node 0 is the output of cell k−2, node 1 that of cell k−1. Every other node may read all nodes before it.
"""

from __future__ import annotations


def edges_of(nodes: int) -> list[tuple[int, int]]:
    """(source, target) of every edge of a cell with ``nodes`` intermediate nodes, in order: (0,2), (1,2), (0,3), …."""
    return [(source, target) for target in range(2, nodes + 2) for source in range(target)]


def n_edges(nodes: int) -> int:
    """Number of edges of a cell: 14 for four nodes."""
    return nodes * (nodes + 3) // 2
