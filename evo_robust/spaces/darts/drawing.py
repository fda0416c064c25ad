"""Draws DARTS cells: nodes in a row, each with one arrow above it and one below, coloured by operation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evo_robust.spaces.cells.drawing import Arc, Area, draw_row
from evo_robust.spaces.darts.codec import Cell
from evo_robust.spaces.drawing import NODE, SKIP, canvas
from evo_robust.style import INK, PALE

POOL = "#007a5a"
DILATED = "#a0447c"

_KINDS = {
    "sep_conv": ("sep", NODE, "separable convolution, twice"),
    "dil_conv": ("dil", DILATED, "dilated separable convolution"),
    "max_pool": ("max", POOL, "pool, maximum or average"),
    "avg_pool": ("avg", POOL, "pool, maximum or average"),
    "skip_connect": ("skip", SKIP, "skip connection"),
}
"""Word, colour and meaning of each kind of operation."""


def draw_cells(figure: Figure, cells: Sequence[Cell]) -> None:
    """Draw the normal and the reduction cell, or the one shared cell, into an empty figure.

    Args:
        figure: the empty figure.
        cells: one or two cells.
    """
    axes, width, height = canvas(figure)
    floor = _legend(axes, width, len(cells[0]))
    whole = Area(0.05, floor, width - 0.1, height - floor - 0.06)
    titles = ("normal cell", "reduction cell: k−2 and k−1 are halved")[: len(cells)] if len(cells) > 1 else ("",)
    for index, (cell, title) in enumerate(zip(cells, titles, strict=True)):
        area = whole.part(index, 0, len(cells), 1)
        top = area.bottom + area.height
        axes.text(area.left + 0.06, top, title, fontsize=9, color=INK, va="top", fontweight="bold")
        room = dataclasses.replace(area, height=area.height - (0.17 if title else 0))
        draw_row(axes, len(cell), _arcs(cell), room)


def _arcs(cell: Cell) -> list[Arc]:
    """Two arcs into every node: from the earlier predecessor above the row, from the later one below it."""
    arcs = []
    for node, pairs in enumerate(cell, 2):
        for (name, source), above in zip(pairs, (True, False), strict=True):
            kind, size = _split(name)
            word, colour, _ = _KINDS[kind]
            arcs.append(Arc(source, node, colour, above, f"{word} {size}".strip(), dashed=kind == "skip_connect"))
    return arcs


def _split(name: str) -> tuple[str, str]:
    """Kind and size of an operation: ``sep_conv_3x3`` is (sep_conv, 3×3)."""
    kind, _, size = name.rpartition("_")
    return (kind, size.replace("x", "×")) if kind in _KINDS else (name, "")


def _legend(axes: Axes, width: float, nodes: int) -> float:
    """Explain nodes and colours along the lower edge; returns the height that this takes, in inches."""
    size = min(8.5, 0.9 * width)
    meanings = dict.fromkeys((colour, meaning, word == "skip") for word, colour, meaning in _KINDS.values())
    x = 0.12
    for colour, meaning, dashed in meanings:
        text = axes.text(x, 0.06, f"{'– –' if dashed else '——'}  {meaning}", fontsize=size, color=colour, va="bottom")
        x += 0.0078 * size * len(text.get_text()) + 0.2
    inner = "node 2 is" if nodes == 1 else f"nodes 2–{nodes + 1} side by side are"
    note = f"k−2, k−1: outputs of the two cells before; a node adds up its two arrows; {inner} the cell's output"
    axes.text(0.12, 0.06 + 0.02 * size, note, fontsize=size, color=PALE, va="bottom")
    return 0.1 + 0.04 * size
