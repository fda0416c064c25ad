"""The picture of an NSGA-Net architecture: its phases in a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path

from evo_robust.spaces.drawing import (
    FRAME,
    SKIP,
    Edge,
    Node,
    canvas,
    depths,
    draw_arrow,
    draw_flow,
    draw_frame,
    draw_graph,
    layered,
)
from evo_robust.spaces.nsga.codec import PhaseGraph
from evo_robust.style import INK, PALE


def draw_phases(figure: Figure, phases: Sequence[PhaseGraph], channels: Sequence[int]) -> None:
    """Draw phases from left to right with pools between them; each phase from its input to its output."""
    axes, width, height = canvas(figure)
    graphs = [_phase_inputs(phase) for phase in phases]
    spans = [max(depths(graph).values()) for graph in graphs]
    # columns: an image, a margin of 0.6 on both sides of a phase, a pool between two, a classifier
    columns = sum(spans) + 1.2 * len(spans) + 0.9 * (len(spans) - 1) + 2.7
    column = min(width / columns, 0.75)
    low, high = 0.13 * height, 0.84 * height
    radius = min(0.15, 0.27 * column, 0.075 * (high - low))
    middle = (low + high) / 2
    x = (width - columns * column) / 2 + column
    _box(axes, x - 0.52 * column, middle, "image", column, height)
    for k, (phase, graph, span) in enumerate(zip(phases, graphs, spans, strict=True)):
        right = x + (span + 1.2) * column
        draw_flow(axes, x - 0.3 * column, x, middle, radius)
        _frame(axes, x, right, low, high, f"phase {k + 1}", f"{channels[k]} channels", column)
        _draw_phase(axes, phase, graph, (x + 0.6 * column, column, middle, high - low), radius)
        if k + 1 < len(phases):
            _box(axes, right + 0.42 * column, middle, "max pool", column, height)
            draw_flow(axes, right, right + 0.22 * column, middle, radius)
        x = right + 0.9 * column
    draw_flow(axes, x - 0.9 * column, x - 0.62 * column, middle, radius)
    _box(axes, x - 0.1 * column, middle, "average pool\n+ classifier", column, height)
    _caption(axes, 0.04 * height, width, skips=any(phase.skip for phase in phases))


def _phase_inputs(phase: PhaseGraph) -> dict[str, list[str]]:
    names = ["in", *(str(node) for node in range(1, phase.n_nodes + 1))]
    graph: dict[str, list[str]] = {"in": []}
    graph |= {names[i]: [names[source] for source in sources] for i, sources in enumerate(phase.inputs, 1)}
    graph["out"] = [names[node] for node in phase.outputs]
    return graph


def _draw_phase(
    axes: Axes, phase: PhaseGraph, graph: Mapping[str, Sequence[str]], area: tuple[float, ...], radius: float
) -> None:
    left, column, middle, height = area
    places = layered(graph)
    tallest = max(y for _, y in places.values())
    row = min(4.4 * radius, 0.31 * height / max(tallest, 0.5))
    nodes = {
        name: Node(left + x * column, middle + y * row, name, "end" if name in ("in", "out") else "operation")
        for name, (x, y) in places.items()
    }
    edges = [Edge(source, name) for name, sources in graph.items() for source in sources]
    draw_graph(axes, nodes, edges, radius)
    if phase.skip:
        start, end, floor = nodes["in"], nodes["out"], middle - 0.44 * height
        path = Path([(start.x, start.y), (start.x, floor), (end.x, floor), (end.x, end.y)])
        draw_arrow(axes, path, SKIP, radius, dashed=True)


def _frame(axes: Axes, left: float, right: float, low: float, high: float, name: str, note: str, column: float) -> None:
    draw_frame(axes, left, right, low, high)
    size = float(np.clip(20 * column, 6, 10))
    axes.text(left + 0.05, high + 0.05, name, fontsize=size, fontweight="bold", color=INK, va="bottom")
    axes.text(right - 0.05, high + 0.05, note, fontsize=size - 1, color=PALE, ha="right", va="bottom")


def _box(axes: Axes, x: float, y: float, text: str, column: float, height: float) -> None:
    size = float(np.clip(20 * column, 6, 9))
    ground = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": FRAME}
    axes.text(x, y, text, fontsize=size, rotation=90, ha="center", va="center", bbox=ground, color=INK, zorder=3)


def _caption(axes: Axes, y: float, width: float, skips: bool) -> None:
    axes.text(0.15, y, "circle: 3×3 convolution; several arrows into it are concatenated", fontsize=7, color=PALE)
    if skips:
        axes.text(width - 0.15, y, "– –  skip connection", fontsize=7, color=SKIP, ha="right")
