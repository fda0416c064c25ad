"""Draws RobNet's cells: nodes in a row, convolutions as arcs above it, identities as arcs below."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evo_robust.spaces.cells.drawing import Arc, Area, draw_row
from evo_robust.spaces.cells.layout import edges_of
from evo_robust.spaces.drawing import NODE, SKIP, canvas
from evo_robust.spaces.robnet.codec import CONVOLUTION, IDENTITY, Alpha
from evo_robust.style import INK, PALE


def draw_cells(figure: Figure, cells: Sequence[Alpha], nodes: int) -> None:
    """Draw the shared cell, or a grid of all cells, into an empty figure.

    Args:
        figure: the empty figure.
        cells: α of the shared cell, or of each cell.
        nodes: number of intermediate nodes of a cell.
    """
    axes, width, height = canvas(figure)
    floor = _legend(axes, width, nodes, several=len(cells) > 1)
    whole = Area(0.05, floor, width - 0.1, height - floor - 0.06)
    if len(cells) == 1:
        draw_row(axes, nodes, _arcs(cells[0], nodes), whole)
        return
    # the grid that leaves most room for cells about twice as wide as high
    columns = max(
        range(1, len(cells) + 1), key=lambda n: min(whole.width / n / 2.1, whole.height / -(-len(cells) // n))
    )
    rows = -(-len(cells) // columns)
    for index, alpha in enumerate(cells):
        area = whole.part(index % columns, index // columns, columns, rows)
        size = min(9.0, 14 * area.height, 8 * area.width)
        title = 1.35 * size / 72
        note = "" if any(alpha) else ": empty"
        top = area.bottom + area.height
        axes.text(area.left + 0.06, top, f"cell {index}{note}", fontsize=size, color=INK, va="top", fontweight="bold")
        if any(alpha):
            draw_row(axes, nodes, _arcs(alpha, nodes), dataclasses.replace(area, height=area.height - title))


def _arcs(alpha: Alpha, nodes: int) -> list[Arc]:
    """The arcs of a cell: above the row for convolutions, below it for identities."""
    arcs = []
    for code, (source, target) in zip(alpha, edges_of(nodes), strict=True):
        if code & CONVOLUTION:
            arcs.append(Arc(source, target, NODE, above=True))
        if code & IDENTITY:
            arcs.append(Arc(source, target, SKIP, above=False, dashed=True))
    return arcs


def _legend(axes: Axes, width: float, nodes: int, *, several: bool) -> float:
    """Explain arcs and nodes along the lower edge; returns the height that this takes, in inches."""
    size = min(8.5, 0.9 * width)
    line = 0.02 * size
    inner = "node 2 is" if nodes == 1 else f"nodes 2–{nodes + 1} side by side are"
    squares = "the squares: outputs of the two cells before, k−2 and k−1, and of this one; pale nodes stay zero"
    lines = (
        ("– –  below: identity", SKIP, squares if several else "k−2, k−1: outputs of the two cells before"),
        ("——  above: separable 3×3 convolution", NODE, f"a node adds up its arrows; {inner} the cell's output"),
    )
    for k, (meaning, colour, note) in enumerate(lines):
        axes.text(0.12, 0.06 + k * line, meaning, fontsize=size, color=colour, va="bottom")
        axes.text(width - 0.12, 0.06 + k * line, note, fontsize=size, color=PALE, ha="right", va="bottom")
    return 0.1 + 2 * line
