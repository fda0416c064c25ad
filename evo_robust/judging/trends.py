"""Accuracy under each attack against FLOPs, with a trend line for each search (RoCo-NAS, Figs. 5 and 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from evo_robust.judging.judgement import WORST, Judgement, Verdict
from evo_robust.judging.tops import groups_of, training_of
from evo_robust.style import MARKERS, RUNS, grid, heading, note, picture, plain

FEWEST = 3
"""Fewest networks of a search for a trend line."""

MOST_PANELS = 9
"""Most attacks and strengths in the picture, in their order."""


def with_trends(judgement: Judgement) -> dict[str, list[Verdict]]:
    """The networks of each search, lightest first, where one of them has enough for a trend; else none."""
    found = groups_of(judgement)
    enough = any(len({verdict.flops for verdict in verdicts}) >= FEWEST for verdicts in found.values())
    return found if enough and _columns(judgement) else {}


def _columns(judgement: Judgement) -> list[str]:
    """Attacks and strengths, without clean accuracy and worst cases."""
    left_out = {f.column for v in judgement.verdicts for f in v.figures if f.trial in ("clean", WORST)}
    return [column for column in judgement.columns if column not in left_out][:MOST_PANELS]


def draw_trends(judgement: Judgement, searches: Mapping[str, Sequence[Verdict]], path: Path) -> Path:
    """Draw a panel for each attack and strength: accuracy against FLOPs, a colour and a trend line for each search."""
    columns = _columns(judgement)
    rows, across = grid(len(columns))
    with picture(path, max(7.0, 3.6 * across), 3.1 * rows + 1.2) as figure:
        for k, column in enumerate(columns):
            axes = figure.add_subplot(rows, across, k + 1)
            for number, (name, verdicts) in enumerate(searches.items()):
                colour, marker = RUNS[number % len(RUNS)], MARKERS[number % len(MARKERS)]
                points = [(v.flops, 100 * f.accuracy) for v in verdicts for f in v.figures if f.column == column]
                x, y = np.array(points, dtype=float).reshape(-1, 2).T
                axes.plot(x, y, marker, color=colour, ms=6, alpha=0.85, mew=0, label=name)
                trend(axes, x, y, colour)
            size_axis(axes)
            axes.set_title(column)
            axes.set_xlabel("FLOPs (multiply-accumulates)" if k >= len(columns) - across else "")
            axes.set_ylabel("accuracy (%)" if k % across == 0 else "")
        heading(figure, "Which search's networks stay right, at equal FLOPs?")
        trained = training_of([verdict for verdicts in searches.values() for verdict in verdicts])
        note(
            figure,
            f"{sum(map(len, searches.values()))} networks on {judgement.n:,} test images of {judgement.data}, trained: "
            f"{trained}. Dashed: least squares on the logarithm of FLOPs, for each search.",
        )
    return path


def size_axis(axes: Axes) -> None:
    """A logarithmic axis with ticks such as 5k, 10k and 20k."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(_short)
    axes.xaxis.set_minor_formatter(NullFormatter())


def _short(value: float, _: object = None) -> str:
    """A size on an axis, such as ``20k`` or ``5.5M``."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:g}{letter}"
    return plain(value)


def trend(axes: Axes, x: np.ndarray, y: np.ndarray, colour: str) -> None:
    """A dashed line: least squares of y on the logarithm of x, over three known points or more."""
    known = np.isfinite(y)
    if known.sum() < FEWEST or len(set(x[known])) < 2:
        return
    slope, level = np.polyfit(np.log10(x[known]), y[known], 1)
    ends = np.array([x.min(), x.max()])
    axes.plot(ends, slope * np.log10(ends) + level, "--", color=colour, lw=1.2, alpha=0.7)
