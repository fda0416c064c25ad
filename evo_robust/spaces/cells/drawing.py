"""Draws densely connected cells: nodes in a row, edges as arcs above and below it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from evo_robust.spaces.drawing import FRAME, INK, Edge, Node, draw_flow, draw_frame, draw_graph

# height of the longest arc as a fraction of its length: steeper arcs waste room, flatter ones look alike
_FLAT, _STEEP = 0.17, 0.4


@dataclasses.dataclass(frozen=True)
class Area:
    """A rectangle, in inches."""

    left: float
    bottom: float
    width: float
    height: float

    def part(self, column: int, row: int, columns: int, rows: int) -> Area:
        """One field of a grid, rows from the top."""
        width, height = self.width / columns, self.height / rows
        return Area(self.left + column * width, self.bottom + (rows - 1 - row) * height, width, height)


@dataclasses.dataclass(frozen=True)
class Arc:
    """An edge between two nodes of a cell, drawn as an arrow.

    Attributes:
        source: node it leaves.
        target: node it enters, > source.
        colour: colour of the arrow and its label.
        above: whether it runs above the row, or below it.
        label: a word at its middle.
        dashed: whether its line is dashed.
    """

    source: int
    target: int
    colour: str
    above: bool
    label: str = ""
    dashed: bool = False


def draw_row(axes: Axes, nodes: int, arcs: Sequence[Arc], area: Area) -> None:
    """Draw a cell: two inputs, intermediate nodes in a frame, the output, and the arcs. Nodes without input are pale.

    Args:
        axes: axes from ``canvas``.
        nodes: number of intermediate nodes.
        arcs: arcs between nodes 0 (cell k−2) to nodes + 1.
        area: the rectangle to draw in.
    """
    longest, labels = nodes + 1, any(arc.label for arc in arcs)
    column = min(area.width / (nodes + 3), 0.46 * area.height / (_FLAT * longest))
    # arcs above and below share the height; without labels, always in the same way, so that cells look alike
    spans = [max([a.target - a.source for a in arcs if a.above == side], default=1) for side in (True, False)]
    above, below = spans if labels else (longest, longest)
    steep = min(_STEEP, (0.78 if labels else 0.92) * area.height / ((above + below) * column))
    radius = min(0.17, 0.17 * column)
    middle = area.bottom + area.height * below / (above + below)
    left = area.left + (area.width - (nodes + 2) * column) / 2
    live = {arc.target for arc in arcs}
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
    bends = [_bend(arc, nodes, steep) for arc in arcs]
    ends = [(str(arc.source), str(arc.target)) for arc in arcs]
    edges = [Edge(*e, "", arc.colour, arc.dashed, bend) for e, arc, bend in zip(ends, arcs, bends, strict=True)]
    draw_graph(axes, vertices, edges, radius)
    for arc in (arc for arc in arcs if arc.label):
        # nearer to the target, where arcs from the same node are apart
        span, along = (arc.target - arc.source) * column, 0.58
        high = 4 * along * (1 - along) * _bend(arc, nodes, steep) * span
        _label(axes, arc, left + arc.source * column + along * span, middle + high, radius)


def _bend(arc: Arc, nodes: int, steep: float) -> float:
    # longer arcs are steeper, so that arcs at the same node spread out; short arcs with labels need room
    flattest = 0.75 if arc.label else 0.3
    bend = steep * (flattest + (1 - flattest) * (arc.target - arc.source - 1) / nodes)
    return bend if arc.above else -bend


def _label(axes: Axes, arc: Arc, x: float, y: float, radius: float) -> None:
    """Write an arc's label beside a point of it, in inches, on its outer side."""
    away, side = (0.2, "bottom") if arc.above else (-0.2, "top")
    text = axes.text(x, y + away * radius, arc.label, color=arc.colour, ha="center", va=side, zorder=4)
    text.set(fontsize=72 * 0.85 * radius, path_effects=[withStroke(linewidth=2, foreground="white")])
