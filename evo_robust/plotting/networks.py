"""The networks that stand out on the front, drawn."""

from __future__ import annotations

from pathlib import Path

from evo_robust.record.view import View
from evo_robust.style import FRONT, KNEE, picture


def draw_networks(view: View, path: Path) -> None:
    """The graph of the best compromise and of the best network in each objective, one below the other."""
    roles = view.roles()
    space = view.run.problem.space
    with picture(path, width=10.0, height=2.9 * len(roles) + 0.3) as figure:
        figure.suptitle("Networks that stand out on the front", x=0.01, ha="left", fontsize=12)
        parts = figure.subfigures(len(roles), 1, squeeze=False)[:, 0]
        for part, (index, role) in zip(parts, roles.items(), strict=True):
            heading, drawing = part.subfigures(2, 1, height_ratios=[1, 9])
            row = view.run.front[index]
            values = [q.text(row["objectives"][q.name]) for q in view.quantities()]
            figures = ", ".join(f"{q.words} {v}" for q, v in zip(view.quantities(), values, strict=True))
            colour = KNEE if index == view.knee else FRONT
            heading.text(0.01, 0.4, f"#{index}  {role}", color=colour, fontsize=11, fontweight="bold", va="center")
            heading.text(0.99, 0.4, figures, fontsize=9, ha="right", va="center")
            space.draw(space.from_text(row["architecture"]), drawing)
