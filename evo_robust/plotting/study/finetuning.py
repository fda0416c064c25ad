"""What finetuning does: accuracy before and after (RobNet, Fig. 3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from evo_robust.analysis.finetuning import Change
from evo_robust.correlations import signed
from evo_robust.plotting.study.panel import networks
from evo_robust.style import FRONT, RUNS, heading, note, picture

_BEFORE, _AFTER = RUNS[1], FRONT
_BINS = 24


def draw_finetuning(found: Sequence[Change], path: Path) -> None:
    """Histograms before and after on one axis, means marked; a panel per accuracy."""
    with picture(path, 4.6 * len(found) + (4.0 if len(found) == 1 else 0.0), 4.6) as figure:
        panels = figure.subplots(1, len(found), squeeze=False)[0]
        for axes, change in zip(panels, found, strict=True):
            _histograms(axes, change)
        panels[0].set_ylabel("networks")
        gain = 100 * float((found[0].after - found[0].before).mean())
        verb = "gains" if gain >= 0 else "loses"
        name = found[0].name[0].upper() + found[0].name[1:]
        heading(figure, f"What does finetuning change? {name} {verb} {abs(gain):.1f} points in the mean")
        order = "; ".join(f"{c.name}: τ = {signed(c.agreement.tau)}" for c in found)
        note(
            figure,
            f"{networks(len(found[0].before))}. Dashed lines: means. Kendall's τ between the orders before and after "
            f"finetuning (1: it changes no ranking): {order}.",
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
    # the number stands on the side away from the other mean
    left_first = before.mean() <= after.mean()
    for values, colour, left in ((before, _BEFORE, left_first), (after, _AFTER, not left_first)):
        axes.annotate(f"{values.mean():.1f} %", (values.mean(), top * 1.08), (-5 if left else 5, 0), fontsize=10,
                      textcoords="offset points", ha="right" if left else "left", color=colour,
                      fontweight="bold")  # fmt: skip
    axes.set_xlabel(f"{change.name} (%)")
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="x", visible=False)
