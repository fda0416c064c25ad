"""Draws special networks of the front: the best compromise, and the best in each objective."""

from __future__ import annotations

import textwrap
from pathlib import Path

from evo_robust.record.view import View
from evo_robust.style import FRONT, KNEE, picture

_WIDTH = 10.0
"""Width of the picture in inches; a line of bold print has 9.5 letters per inch."""


def draw_networks(view: View, path: Path) -> None:
    """Draw the graphs of the best compromise and of the best network in each objective, one below the other."""
    space, shown = view.run.problem.space, view.quantities()
    # a network may be the best in several objectives
    titles = {
        index: textwrap.wrap(f"#{index}  {role}", int(9.5 * _WIDTH), subsequent_indent="      ")
        for index, role in view.roles().items()
    }
    heights = [2.75 + 0.22 * len(lines) for lines in titles.values()]
    with picture(path, width=_WIDTH, height=sum(heights) + 0.3) as figure:
        figure.suptitle("Networks that stand out on the front", x=0.01, ha="left", fontsize=12)
        parts = figure.subfigures(len(titles), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, height, (index, lines) in zip(parts, heights, titles.items(), strict=True):
            inches = 0.1 + 0.22 * (len(lines) + 1)
            heading, drawing = part.subfigures(2, 1, height_ratios=[inches, height - inches])
            row = view.run.front[index]
            figures = ", ".join(f"{q.words} {q.text(row['objectives'][q.name])}" for q in shown)
            colour = KNEE if index == view.knee else FRONT
            bold = {"color": colour, "fontsize": 11, "fontweight": "bold"}
            heading.text(0.01, 0.95, "\n".join(lines), va="top", linespacing=1.3, **bold)
            heading.text(0.01, 0.05, figures, fontsize=9, va="bottom")
            space.draw(space.from_text(row["architecture"]), drawing)
