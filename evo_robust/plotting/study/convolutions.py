"""How many convolutions, and where they should stand within a budget (RobNet, Fig. 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evo_robust.analysis.relations import Relation
from evo_robust.plotting.study.panel import networks, same_heights, scatter
from evo_robust.spaces.structure import MEDIUM, SMALL
from evo_robust.style import note, picture


def draw_convolutions(found: Sequence[Relation], path: Path, *, caution: str) -> None:
    """Convolutions against robust accuracy, then their share on direct edges within each budget.

    Args:
        found: the relation of the number of convolutions, then one per budget.
        path: PNG file.
        caution: what must be known about the sample.
    """
    with picture(path, 14.0, 4.9) as figure:
        panels = figure.subplots(1, len(found))
        for k, (axes, r) in enumerate(zip(panels, found, strict=True)):
            title = "How many?" if k == 0 else f"Where? {r.where[0].upper()}{r.where[1:]}"
            scatter(axes, r, title, x_label="on direct edges (% of convolutions)" if k else None, y_label=k == 0)
            if k:
                axes.set_xlim(-5, 105)
        same_heights(panels, 100 * found[0].y)
        title = "How many convolutions make a network robust, and where should they stand?"
        figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        budgets = f"small up to {SMALL:.0%} of the places, medium up to {MEDIUM:.0%}, large above"
        note(
            figure,
            f"{networks(found[0].correlation.n)}. Budgets by convolutions per cell: {budgets}. Direct edges join "
            f"consecutive nodes. {caution}",
        )
