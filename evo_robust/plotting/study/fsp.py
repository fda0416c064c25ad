"""At which depth FSP distance tells how much accuracy an attack costs (RobNet, Fig. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from evo_robust.analysis.relations import Relation, shown_depths
from evo_robust.correlations import SIGNIFICANT
from evo_robust.plotting.study.panel import networks, scatter
from evo_robust.style import FRONT, RUNS, heading, note, picture


def draw_fsp(found: Sequence[Relation], path: Path, *, inherited: bool, caution: str) -> None:
    """Correlation by depth as bars, and below it the points of the first, a middle and the last cell.

    Args:
        found: one relation per cell, first to last.
        path: PNG file.
        inherited: whether distances and gaps are those of inherited weights, before finetuning.
        caution: what must be known about the sample.
    """
    depths = shown_depths(found)
    with picture(path, 10.0, 7.6) as figure:
        grid = figure.add_gridspec(2, len(depths), height_ratios=(1, 1.15))
        _bars(figure.add_subplot(grid[0, :]), found)
        for k, depth in enumerate(depths):
            place = ", the first" if depth == 0 else ", the last" if depth == len(found) - 1 else ""
            axes = figure.add_subplot(grid[1, k])
            scatter(axes, found[depth], f"Cell {depth}{place}", x_label="FSP distance", y_label=k == 0)
        heading(figure, "In which cells does FSP distance go with the gap between clean and robust accuracy?")
        weights = "inherited weights, before finetuning" if inherited else "the weights that were judged"
        most = max(r.correlation.n for r in found)
        note(
            figure,
            "FSP distance: how far an attack moves what a cell makes of its input. "
            f"Up to {networks(most)} per cell, with {weights}. Pale bars: p ≥ {SIGNIFICANT} (not corrected for the "
            f"number of cells). {caution}",
        )


def _bars(axes: Axes, found: Sequence[Relation]) -> None:
    depth = np.arange(len(found))
    for side, colour, name in ((-0.2, FRONT, "pearson"), (0.2, RUNS[2], "spearman")):
        values = np.array([getattr(r.correlation, name) for r in found])
        p = np.array([getattr(r.correlation, f"{name}_p") for r in found])
        sure = p < SIGNIFICANT
        heights = np.nan_to_num(values)
        axes.bar(depth[sure] + side, heights[sure], 0.38, color=colour)
        axes.bar(depth[~sure] + side, heights[~sure], 0.38, color=colour, alpha=0.3)
        axes.bar([0], [0], color=colour, label=name.capitalize())
    for d in depth[[not r.correlation.known for r in found]]:
        axes.text(d, 0, "–", ha="center", va="bottom", color="#667077")
    axes.axhline(0, color="#666666", lw=0.8)
    ends = [v for r in found if r.correlation.known for v in (r.correlation.pearson, r.correlation.spearman)]
    axes.set_ylim(min(0, *ends, -0.1) * 1.15, max(0, *ends, 0.1) * 1.15)
    axes.set_xticks(depth)
    axes.set_xlabel("cell, from the image to the logits")
    axes.set_ylabel("correlation with the gap")
    axes.grid(axis="x", visible=False)
