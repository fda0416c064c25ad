"""Draws what convolutions on direct and on skip edges bring (RobNet, Fig. 6a)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.ticker import MaxNLocator

from evo_robust.analysis.places import Curve
from evo_robust.correlations import signed
from evo_robust.plotting.study.panel import networks
from evo_robust.style import FRONT, PALE, RUNS, heading, note, picture

_LOOKS = ((PALE, "s"), (FRONT, "o"), (RUNS[1], "^"))


def draw_places(found: Sequence[Curve], words: str, path: Path, *, caution: str) -> None:
    """Draw the mean accuracy over the number of convolutions: on all, on direct and on skip edges.

    Args:
        found: the three curves.
        words: name of the accuracy.
        path: PNG file.
        caution: a warning about the sample.
    """
    with picture(path, 8.5, 5.2) as figure:
        axes = figure.add_subplot()
        for curve, (colour, marker) in zip(found, _LOOKS, strict=True):
            lone = curve.networks == 1
            half = 100 * curve.half
            half[lone] = 0.0
            axes.errorbar(curve.numbers, 100 * curve.means, half, color=colour, lw=1.8, elinewidth=1.0, capsize=2)
            for alone in (False, True):
                chosen = lone == alone
                axes.plot(curve.numbers[chosen], 100 * curve.means[chosen], marker, color=colour, ms=6, ls="",
                          mfc="white" if alone else colour, label="_" if alone else curve.where)  # fmt: skip
        axes.set_xlabel("convolutions per cell at these edges")
        axes.set_ylabel(f"mean {words} (%)")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        heading(figure, "Where does one more convolution help more?", where_it_helps(found))
        note(
            figure,
            f"{networks(int(found[0].networks.sum()))}. Bars: 95% intervals of the means; a hollow point is one "
            f"network. Direct edges join consecutive nodes, skip edges all others. {caution}",
        )


def where_it_helps(found: Sequence[Curve]) -> str:
    """What one more convolution brings at either kind of edge, with 95 % intervals."""
    _, direct, skip = found
    if math.isnan(direct.slope) or math.isnan(skip.slope):
        return "That cannot be told: too few networks, or all alike."
    said = [
        f"on {name} edges {signed(100 * c.slope)} ± {100 * c.slope_half:.2f}"
        for c, name in ((direct, "direct"), (skip, "skip"))
    ]
    return f"One more brings, in points: {said[0]}, {said[1]}."
