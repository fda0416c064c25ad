"""Which cheap figure ranks networks as full training does: Kendall's τ with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from evo_robust.analysis.ranking import Agreement, Ranking
from evo_robust.correlations import signed
from evo_robust.plotting.study.answers import ranks_best
from evo_robust.plotting.study.panel import networks
from evo_robust.style import BASELINE, FRONT, INK, PALE, heading, note, picture

_COLOURS = {"evaluation": FRONT, "size": BASELINE}
_KINDS = {"evaluation": "measured by a run", "size": "known without training"}


def draw_ranking(found: Ranking, words: str, path: Path) -> None:
    """Draw τ of every predictor as a bar with its interval.

    Marks show τ against single truths, and a line shows how well the truths agree with each other.

    Args:
        found: predictors and truths.
        words: name of the accuracy by which the truth ranks.
        path: PNG file.
    """
    main = found.against(found.main)
    with picture(path, 9.0, 2.4 + 0.5 * len(main)) as figure:
        axes = figure.add_subplot()
        for kind in dict.fromkeys(a.predictor.kind for a in main):
            axes.barh([0], [0], color=_COLOURS[kind], label=_KINDS[kind])
        axes.plot([], [], color=INK, lw=1.6, label="95% interval")
        if len(found.truths) > 1:
            axes.plot([], [], color="white", marker="d", mec=INK, ms=6, ls="", label="against each truth alone")
        for y, a in enumerate(main):
            _bar(axes, y, a, [b.kendall.tau for b in found.agreements if b.predictor is a.predictor and b is not a])
        axes.axvline(0, color=PALE, lw=0.8)
        if not math.isnan(found.ceiling):
            label = f"one truth against another ({signed(found.ceiling)})"
            axes.axvline(found.ceiling, color=INK, ls="--", lw=1.2, label=label)
        axes.set_yticks(range(len(main)), [a.predictor.name for a in main])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("Kendall's τ (1: same order, 0: chance, −1: reverse)")
        lows = [a.kendall.low for a in main if not math.isnan(a.kendall.low)]
        axes.set_xlim(min([0.0, *lows]) - 0.05, 1.05)
        heading(figure, "Which figure ranks networks as the truth does?", ranks_best(found))
        same = f"the same {networks(len(found.texts))} for all"
        note(figure, f"Truth: {words}, {found.main}; {same}. Interval: bootstrap over the networks.")


def _bar(axes: Axes, y: int, found: Agreement, singles: Sequence[float]) -> None:
    k = found.kendall
    if math.isnan(k.tau):
        axes.text(0.01, y, "– (all values equal)", va="center", color=PALE)
        return
    axes.barh(y, k.tau, 0.62, color=_COLOURS[found.predictor.kind], alpha=0.85)
    axes.plot([k.low, k.high], [y, y], color=INK, lw=1.6, solid_capstyle="butt")
    axes.plot(singles, [y] * len(singles), "d", color="white", mec=INK, ms=6, zorder=3)
    end = max([k.high, k.tau, 0.0, *(s for s in singles if not math.isnan(s))])
    axes.text(end + 0.015, y, signed(k.tau), va="center", fontsize=9)


def draw_scores(found: Ranking, words: str, path: Path) -> None:
    """Draw true accuracy over each predictor's rank, a panel per predictor; a falling cloud means a good ranking."""
    main = found.against(found.main)
    truth = 100 * found.truths[found.main]
    columns = min(3, len(main))
    rows = math.ceil(len(main) / columns)
    with picture(path, max(8.0, 3.7 * columns), 3.2 * rows + 1.1) as figure:
        for k, a in enumerate(main):
            axes = figure.add_subplot(rows, columns, k + 1)
            axes.scatter(_ranks(a.predictor.scores), truth, s=24, color=_COLOURS[a.predictor.kind], alpha=0.75, lw=0)
            axes.set_title(a.predictor.name, pad=20)
            axes.text(0, 1.02, a.kendall.text, transform=axes.transAxes, fontsize=9, color=PALE, va="bottom")
            axes.set_xlabel("rank it gives (1 = best)")
            if k % columns == 0:
                axes.set_ylabel(f"true {words} (%)")
            axes.margins(0.06)
        heading(figure, "Do the networks that a figure ranks first turn out best?", ranks_best(found))
        note(figure, f"Truth: {found.main}. The better a figure ranks, the more its cloud falls from left to right.")


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Rank of each score ``(n,)``, 1 for the largest; equal scores share their mean rank."""
    below = (scores[:, None] < scores[None]).sum(axis=1)
    equal = (scores[:, None] == scores[None]).sum(axis=1)
    return below + (equal + 1) / 2
