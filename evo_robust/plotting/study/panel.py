"""A panel of the study's pictures: two columns against each other, with the line and the correlations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from evo_robust.analysis.relations import Relation
from evo_robust.correlations import p_text, signed
from evo_robust.record.quantity import quantity
from evo_robust.style import EVALUATED, INK, KNEE, PALE, plain

_COUNTS = ("parameters", "convolutions per cell")
"""Always on a linear axis, whatever their range, so that the least-squares line is straight."""


def scatter(axes: Axes, found: Relation, title: str, *, x_label: str | None = None, y_label: bool = True) -> None:
    """One point per architecture, y in percent, the regression line, and the correlations under the title."""
    unit = {"parameters": "parameters", "density": "share", "genome density": "share"}.get(found.x_name, "")
    share = unit == "share" or found.x_name.startswith("share")
    shown = quantity(found.x_name, "share" if share else unit, found.x)
    log = shown.log and found.x_name not in _COUNTS
    x, y = shown.shown(found.x), 100 * found.y
    axes.scatter(x, y, s=20, color=EVALUATED, alpha=0.75, lw=0)
    c = found.correlation
    if log:
        # ticks at powers of ten only, since distances span several of them
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif c.known:
        ends = np.array([found.x.min(), found.x.max()])
        axes.plot(shown.shown(ends), 100 * (c.intercept + c.slope * ends), color=KNEE, lw=2)
    axes.set_xlabel(x_label or shown.label)
    if y_label:
        gap = found.y_name == "accuracy gap"
        axes.set_ylabel("clean − robust accuracy (points)" if gap else f"{found.y_name} (%)")
    axes.margins(0.08)
    axes.set_title(title, fontsize=11, pad=34, color=INK)
    axes.text(0, 1.02, correlation_lines(found), transform=axes.transAxes, fontsize=9, color=PALE, va="bottom")


def correlation_lines(found: Relation) -> str:
    """Pearson and Spearman, each with its p, on two lines."""
    c = found.correlation
    if not c.known:
        return f"correlation not defined\n{networks(c.n)}" if c.n else "no such network"
    return (
        f"Pearson r = {signed(c.pearson)} ({p_text(c.pearson_p)})\n"
        f"Spearman ρ = {signed(c.spearman)} ({p_text(c.spearman_p)}), n = {c.n}"
    )


def networks(n: int) -> str:
    """``1 network``, ``200 networks``."""
    return f"{n} network{'s' * (n != 1)}"


def same_heights(panels: Sequence[Axes], values: np.ndarray) -> None:
    """One accuracy axis for all panels, over ``values`` in percent."""
    low, high = float(values.min()), float(values.max())
    room = 0.08 * (high - low) or 1.0
    for axes in panels:
        axes.set_ylim(low - room, high + room)


def _short(value: float, _: object = None) -> str:
    return plain(value) if 1e-3 <= value < 1e5 else f"{value:.0e}".replace("e-0", "e−").replace("e+0", "e")
