"""RobNet's cells as pictures: nodes in a row, convolutions as arcs above it, identities as arcs below."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evo_robust.spaces.drawing import (
    FRAME,
    INK,
    NODE,
    PALE,
    SKIP,
    Edge,
    Node,
    canvas,
    draw_flow,
    draw_frame,
    draw_graph,
)
from evo_robust.spaces.robnet_codec import CONVOLUTION, IDENTITY, Alpha, edges_of

# height of the longest arc as a fraction of its length: steeper wastes room, flatter arcs cannot be told apart
_FLAT, _STEEP = 0.17, 0.4


@dataclasses.dataclass(frozen=True)
class _Area:
    """A rectangle, in inches."""

    left: float
    bottom: float
    width: float
    height: float

    def part(self, column: int, row: int, columns: int, rows: int) -> _Area:
        """One field of a grid, rows from the top."""
        width, height = self.width / columns, self.height / rows
        return _Area(self.left + column * width, self.bottom + (rows - 1 - row) * height, width, height)


def draw_cells(figure: Figure, cells: Sequence[Alpha], nodes: int) -> None:
    """Draw the cell that all share, or a grid of all cells, into an empty figure.

    Args:
        figure: where to.
        cells: α of the shared cell, or of each.
        nodes: intermediate nodes of a cell.
    """
    axes, width, height = canvas(figure)
    floor = _legend(axes, width, nodes, several=len(cells) > 1)
    whole = _Area(0.05, floor, width - 0.1, height - floor - 0.06)
    if len(cells) == 1:
        _draw_cell(axes, cells[0], nodes, whole)
        return
    # the grid whose fields have most room for a cell about twice as wide as high
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
            _draw_cell(axes, alpha, nodes, dataclasses.replace(area, height=area.height - title))


def _draw_cell(axes: Axes, alpha: Alpha, nodes: int, area: _Area) -> None:
    """Nodes from left to right, their frame, the output, and the arcs."""
    longest, half = nodes + 1, 0.46 * area.height
    column = min(area.width / (nodes + 3), half / (_FLAT * longest))
    steep = min(_STEEP, half / (longest * column))
    radius = min(0.17, 0.17 * column)
    middle = area.bottom + area.height / 2
    left = area.left + (area.width - (nodes + 2) * column) / 2
    wiring = edges_of(nodes)
    live = {target for code, (_, target) in zip(alpha, wiring, strict=True) if code}
    labelled = radius > 0.085  # smaller letters cannot be read
    vertices = {}
    for node in range(nodes + 2):
        end = node < 2
        label = ("k−2", "k−1")[node] if end else str(node)
        colour = INK if node in live else FRAME
        vertices[str(node)] = Node(
            left + node * column, middle, label if labelled else "", "end" if end else "operation", colour
        )
    right, out = left + (nodes + 1.35) * column, left + (nodes + 2) * column
    vertices["out"] = Node(out, middle, "out" if labelled else "", "end")
    draw_frame(axes, left + 1.65 * column, right, middle - 2.2 * radius, middle + 2.2 * radius)
    draw_flow(axes, right, out - radius, middle, radius)
    draw_graph(axes, vertices, _arcs(alpha, nodes, steep), radius)


def _arcs(alpha: Alpha, nodes: int, steep: float) -> list[Edge]:
    """An arc above the row for every convolution, one below for every identity."""
    edges = []
    for code, (source, target) in zip(alpha, edges_of(nodes), strict=True):
        # longer arcs are steeper, so that those which leave a node, or enter it, spread out
        bend = steep * (0.3 + 0.7 * (target - source - 1) / nodes)
        if code & CONVOLUTION:
            edges.append(Edge(str(source), str(target), colour=NODE, bend=bend))
        if code & IDENTITY:
            edges.append(Edge(str(source), str(target), colour=SKIP, dashed=True, bend=-bend))
    return edges


def _legend(axes: Axes, width: float, nodes: int, *, several: bool) -> float:
    """What arcs and nodes mean, along the lower edge; the height that it takes, in inches."""
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
