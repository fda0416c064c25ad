"""Draws a study's relations: density, convolutions, finetuning, FSP distance by depth (RobNet, Figs. 3, 5-7)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from evo_robust.analysis.finetuning import Change
from evo_robust.analysis.relations import GENOME_DENSITY, Relation, shown_depths
from evo_robust.correlations import SIGNIFICANT, signed
from evo_robust.plotting.study.answers import denser, how_many_and_where, telling_cells
from evo_robust.plotting.study.panel import correlation_lines, networks, same_heights, scatter
from evo_robust.spaces.structure import MEDIUM, SMALL
from evo_robust.style import FRONT, PALE, RUNS, heading, note, picture

_BEFORE, _AFTER = RUNS[1], FRONT
_BINS = 24


def draw_density(found: Sequence[Relation], path: Path, *, caution: str) -> None:
    """Draw robust accuracy against density and, where recorded, against the number of parameters.

    The genomes' own density would give nearly the same picture, so only its correlation is in the small print.

    Args:
        found: relations of the robust accuracy, density first.
        path: PNG file.
        caution: a warning about the sample.
    """
    robust = [r for r in found if r.y_name == found[0].y_name]
    shown = [r for r in robust if r.x_name != GENOME_DENSITY]
    asked = [f"{correlation_lines(r).splitlines()[0]}" for r in robust if r.x_name == GENOME_DENSITY]
    with picture(path, 4.6 * len(shown) if len(shown) > 1 else 7.0, 5.2) as figure:
        panels = figure.subplots(1, len(shown), squeeze=False)[0]
        labels = {"density": "density (% of all possible operations)"}
        titles = {"density": "Density", "parameters": "Simpler explanation: size"}
        for k, (axes, r) in enumerate(zip(panels, shown, strict=True)):
            scatter(axes, r, titles[r.x_name], x_label=labels.get(r.x_name), y_label=k == 0)
        same_heights(panels, 100 * np.concatenate([r.y for r in shown]))
        line = "Line: least squares. " if found[0].correlation.known else ""
        size = next((r for r in shown if r.x_name == "parameters"), None)
        heading(figure, "Are denser networks more robust?", denser(found[0], size))
        beside = f"Density of genomes, including edges that carry nothing: {asked[0]}. " if asked else ""
        note(figure, f"{networks(found[0].correlation.n)}. {line}{beside}{caution}")


def draw_convolutions(found: Sequence[Relation], path: Path, *, caution: str) -> None:
    """Draw robust accuracy against the number of convolutions, then against their share on direct edges.

    Args:
        found: the relation of the number of convolutions, then one per budget.
        path: PNG file.
        caution: a warning about the sample.
    """
    with picture(path, 14.0, 5.2) as figure:
        panels = figure.subplots(1, len(found))
        for k, (axes, r) in enumerate(zip(panels, found, strict=True)):
            title = "How many?" if k == 0 else f"Where? {r.where[0].upper()}{r.where[1:]}"
            scatter(axes, r, title, x_label="on direct edges (% of convolutions)" if k else None, y_label=k == 0)
            if k:
                axes.set_xlim(-5, 105)
        same_heights(panels, 100 * found[0].y)
        title = "How many convolutions make a network robust, and where should they be?"
        heading(figure, title, how_many_and_where(found[0], found[1:]))
        budgets = f"small up to {SMALL:.0%} of the places, medium up to {MEDIUM:.0%}, large above"
        note(
            figure,
            f"{networks(found[0].correlation.n)}. Budgets by convolutions per cell: {budgets}. Direct edges join "
            f"consecutive nodes. {caution}",
        )


def draw_finetuning(found: Sequence[Change], path: Path) -> None:
    """Draw histograms before and after finetuning on one axis, with means marked; a panel per accuracy."""
    with picture(path, 4.6 * len(found) + (4.0 if len(found) == 1 else 0.0), 4.9) as figure:
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, change in zip(panels, found, strict=True):
            _histograms(axes, change)
        panels[0].set_ylabel("networks")
        gain = 100 * float((found[0].after - found[0].before).mean())
        verb = "gains" if gain >= 0 else "loses"
        name = found[0].name[0].upper() + found[0].name[1:]
        heading(figure, "What does finetuning change?", f"{name} {verb} {abs(gain):.1f} points on average.")
        order = "; ".join(f"{c.name}: τ = {signed(c.agreement.tau)}" for c in found)
        note(
            figure,
            f"{networks(len(found[0].before))}. Dashed lines: means. Kendall's τ between the rankings before and after "
            f"finetuning (1: same ranking): {order}.",
        )


def _histograms(axes: Axes, change: Change) -> None:
    before, after = 100 * change.before, 100 * change.after
    both = np.concatenate([before, after])
    room = 0.5 if np.ptp(both) == 0 else 0.0
    bins = np.linspace(both.min() - room, both.max() + room, _BINS + 1).tolist()
    for values, colour, name in ((before, _BEFORE, "inherited weights"), (after, _AFTER, "after finetuning")):
        axes.hist(values, bins, color=colour, alpha=0.6, label=name)
        axes.axvline(values.mean(), color=colour, ls="--", lw=2)
    # room for the means' numbers at either end
    axes.margins(x=0.15)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top * 1.16)
    # each number is on the side away from the other mean
    left_first = before.mean() <= after.mean()
    for values, colour, left in ((before, _BEFORE, left_first), (after, _AFTER, not left_first)):
        axes.annotate(f"{values.mean():.1f} %", (values.mean(), top * 1.08), (-5 if left else 5, 0), fontsize=10,
                      textcoords="offset points", ha="right" if left else "left", color=colour,
                      fontweight="bold")  # fmt: skip
    axes.set_xlabel(f"{change.name} (%)")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="x", visible=False)


def draw_fsp(found: Sequence[Relation], path: Path, *, inherited: bool, caution: str) -> None:
    """Draw the correlation by depth as bars, and below it the points of the first, a middle and the last cell.

    Args:
        found: one relation per cell, first to last.
        path: PNG file.
        inherited: whether distances and gaps were measured with inherited weights, before finetuning.
        caution: a warning about the sample.
    """
    depths = shown_depths(found)
    with picture(path, 10.0, 7.9) as figure:
        grid = figure.add_gridspec(2, len(depths), height_ratios=(1, 1.15))
        _depth_bars(figure.add_subplot(grid[0, :]), found)
        for k, depth in enumerate(depths):
            place = ", the first" if depth == 0 else ", the last" if depth == len(found) - 1 else ""
            axes = figure.add_subplot(grid[1, k])
            scatter(axes, found[depth], f"Cell {depth}{place}", x_label="FSP distance", y_label=k == 0)
        title = "In which cells does FSP distance follow the gap between clean and robust accuracy?"
        heading(figure, title, telling_cells(found))
        weights = "inherited weights, before finetuning" if inherited else "the final weights"
        most = max(r.correlation.n for r in found)
        note(
            figure,
            "FSP distance: how far an attack changes what a cell computes. "
            f"Up to {networks(most)} per cell, with {weights}. Pale bars: p ≥ {SIGNIFICANT} (not corrected for the "
            f"number of cells). {caution}",
        )


def _depth_bars(axes: Axes, found: Sequence[Relation]) -> None:
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
        axes.text(d, 0, "–", ha="center", va="bottom", color=PALE)
    axes.axhline(0, color=PALE, lw=0.8)
    ends = [v for r in found if r.correlation.known for v in (r.correlation.pearson, r.correlation.spearman)]
    axes.set_ylim(min(0, *ends, -0.1) * 1.15, max(0, *ends, 0.1) * 1.15)
    axes.set_xticks(depth)
    axes.set_xlabel("cell, from the image to the logits")
    axes.set_ylabel("correlation with the gap")
    axes.grid(axis="x", visible=False)
