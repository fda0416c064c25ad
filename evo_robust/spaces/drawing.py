"""Graphs of networks as pictures: nodes and edges for any space."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from evo_robust.style import FRONT, INK, KNEE

NODE, SKIP = FRONT, KNEE
GROUND = "#f1f4f6"
FRAME = "#c9d1d7"

Point = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Node:
    """A vertex; coordinates in inches."""

    x: float
    y: float
    label: str = ""
    kind: Literal["operation", "end"] = "operation"
    colour: str = NODE


@dataclasses.dataclass(frozen=True)
class Edge:
    """An arrow between two named nodes, with an optional label (an operation, a weight) at its middle.

    ``bend`` is the height of its arc as a fraction of its length, positive to the left. With None it is chosen so that
    the arrow avoids nodes and other arrows.
    """

    start: str
    end: str
    label: str = ""
    colour: str = INK
    dashed: bool = False
    bend: float | None = None


# --- graphs -----------------------------------------------------------------------------------------------------


def canvas(figure: Figure) -> tuple[Axes, float, float]:
    """Axes over the whole figure whose coordinates are inches from its lower left corner, with width and height."""
    dots = figure.get_dpi()
    width, height = figure.bbox.width / dots, figure.bbox.height / dots
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return axes, width, height


def depths(inputs: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Length of the longest path to each node from nodes without inputs; the keys are in topological order."""
    depth: dict[str, int] = {}
    for name, sources in inputs.items():
        depth[name] = 1 + max((depth[source] for source in sources), default=-1)
    return depth


def layered(inputs: Mapping[str, Sequence[str]]) -> dict[str, Point]:
    """Coordinates of an acyclic graph's nodes: x is the depth; y is centred on 0 in each layer, in steps of 1."""
    places: dict[str, Point] = {}
    depth = depths(inputs)
    for layer in range(max(depth.values(), default=-1) + 1):
        names = [name for name in inputs if depth[name] == layer]
        height = {name: float(np.mean([places[s][1] for s in inputs[name]] or [0.0])) for name in names}
        names.sort(key=lambda name: -height[name])  # stable: equal heights keep their order
        middle = (len(names) - 1) / 2
        places |= {name: (float(layer), middle - i) for i, name in enumerate(names)}
    return places


def draw_graph(axes: Axes, nodes: Mapping[str, Node], edges: Sequence[Edge], radius: float = 0.14) -> None:
    """Draw circles and arrows between them, short arrows first so that long ones bend around.

    Args:
        axes: axes from ``canvas``.
        nodes: the nodes by name.
        edges: arrows between names of nodes.
        radius: radius of a node in inches; texts scale with it.
    """
    drawn: list[np.ndarray] = []
    for edge in sorted(edges, key=lambda e: round(abs(nodes[e.end].x - nodes[e.start].x), 6)):
        ends = [np.array((nodes[name].x, nodes[name].y)) for name in (edge.start, edge.end)]
        others = np.array([(n.x, n.y) for name, n in nodes.items() if name not in (edge.start, edge.end)])
        bend = _clear_bend(ends[0], ends[1], others.reshape(-1, 2), drawn, radius) if edge.bend is None else edge.bend
        drawn.append(_arc(ends[0], ends[1], bend))
        _draw_edge(axes, edge, ends[0], ends[1], bend, radius)
    for node in nodes.values():
        _draw_node(axes, node, radius)


def _control(start: np.ndarray, end: np.ndarray, bend: float) -> np.ndarray:
    along = end - start
    # the middle of a quadratic Bézier curve lies half as high as its control point
    return (start + end) / 2 + 2 * bend * np.array((-along[1], along[0]))


def _arc(start: np.ndarray, end: np.ndarray, bend: float) -> np.ndarray:
    t = np.linspace(0, 1, 25)[:, None]
    return (1 - t) ** 2 * start + 2 * t * (1 - t) * _control(start, end, bend) + t**2 * end


def _clear_bend(
    start: np.ndarray, end: np.ndarray, nodes: np.ndarray, drawn: Sequence[np.ndarray], radius: float
) -> float:
    """The best bend: it touches fewest nodes; then it keeps away from drawn arrows; then it is flattest."""
    arrows = np.concatenate([*drawn, np.zeros((0, 2))])

    def cost(bend: float) -> float:
        points = _arc(start, end, bend)[3:-3]
        total = 0.6 * abs(bend)
        if len(nodes):
            nearest = np.linalg.norm(points[:, None] - nodes[None], axis=2).min(0)
            total += 10.0 * float(np.clip(1.6 - nearest / radius, 0, None).sum())
        if drawn:
            nearest = np.linalg.norm(points[:, None] - arrows[None], axis=2).min(1)
            total += 0.5 * float((nearest < 0.5 * radius).mean())
        return round(total, 6)  # so that equal graphs look the same wherever they are drawn

    return min((0.0, *(sign * b for b in (0.1, 0.16, 0.22, 0.28, 0.34, 0.4) for sign in (1, -1))), key=cost)


def _draw_edge(axes: Axes, edge: Edge, start: np.ndarray, end: np.ndarray, bend: float, radius: float) -> None:
    points = [start, _control(start, end, bend), end]
    draw_arrow(axes, Path(points, [Path.MOVETO, Path.CURVE3, Path.CURVE3]), edge.colour, radius, dashed=edge.dashed)
    if edge.label:
        x, y = _arc(start, end, bend)[12]
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
        size = 72 * 0.8 * radius
        axes.text(x, y, edge.label, color=edge.colour, fontsize=size, ha="center", va="center", bbox=ground, zorder=4)


def draw_arrow(axes: Axes, path: Path, colour: str, radius: float, *, dashed: bool = False) -> None:
    """Draw an arrow along a path between the centres of two nodes; ``radius`` is theirs, in inches."""
    axes.add_patch(
        FancyArrowPatch(
            path=_cut(path, radius * 1.12),
            arrowstyle="-|>",
            mutation_scale=max(5.0, 72 * radius * 0.9),
            color=colour,
            lw=max(0.7, 10 * radius),
            linestyle=(0, (3, 1.6)) if dashed else "-",
            joinstyle="miter",
            capstyle="butt",
            zorder=2,
        )
    )


def _cut(path: Path, gap: float) -> Path:
    """The path without its parts within ``gap`` inches of its ends."""
    points = _flatten(path)
    keep = (np.linalg.norm(points - points[0], axis=1) >= gap) & (np.linalg.norm(points - points[-1], axis=1) >= gap)
    return Path(points[keep]) if keep.sum() > 1 else Path(points)


def _flatten(path: Path) -> np.ndarray:
    """Closely spaced points along a path of straight lines and quadratic curves."""
    points = [np.asarray(path.vertices)[0]]
    t = np.linspace(0, 1, 60)[1:, None]
    for piece, code in path.iter_segments(curves=True, simplify=False):
        start = points[-1]
        corners = np.asarray(piece).reshape(-1, 2)
        if code == Path.CURVE3:
            points.extend((1 - t) ** 2 * start + 2 * t * (1 - t) * corners[0] + t**2 * corners[1])
        elif code == Path.LINETO:
            points.extend(start + t * (corners[0] - start))
    return np.array(points)


def _draw_node(axes: Axes, node: Node, radius: float) -> None:
    size = (2 * 72 * radius) ** 2
    if node.kind == "end":
        axes.scatter(node.x, node.y, s=size * 0.75, marker="s", color="white", edgecolor=INK, lw=1, zorder=3)
        axes.text(node.x, node.y, node.label, color=INK, fontsize=72 * 0.72 * radius, **_MIDDLE)
    else:
        axes.scatter(node.x, node.y, s=size, color=node.colour, edgecolor="white", lw=0.8, zorder=3)
        axes.text(node.x, node.y, node.label, color="white", fontsize=72 * 1.05 * radius, **_MIDDLE)


_MIDDLE: Any = {"ha": "center", "va": "center_baseline", "zorder": 5}


def draw_frame(axes: Axes, left: float, right: float, low: float, high: float) -> None:
    """Draw a pale box with round corners behind everything else; edges in inches."""
    box = FancyBboxPatch((left, low), right - left, high - low, boxstyle="round,pad=0,rounding_size=0.08", zorder=0)
    box.set(facecolor=GROUND, edgecolor=FRAME, lw=1)
    axes.add_patch(box)


def draw_flow(axes: Axes, left: float, right: float, y: float, radius: float) -> None:
    """Draw a horizontal arrow, its line as thick as suits nodes of this radius; all in inches."""
    axes.annotate(
        "", (right, y), (left, y), arrowprops={"arrowstyle": "-|>", "color": INK, "lw": max(0.7, 10 * radius)}
    )
