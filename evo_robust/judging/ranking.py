"""Networks in the order of what they keep under attack, each with its 95 % interval."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from evo_robust.judging.judgement import Figure, Judgement, Verdict
from evo_robust.style import MARKERS, RUNS, heading, note, picture

MOST_ROWS = 40
"""Most networks in the picture: the best ones."""


def ranked(judgement: Judgement, column: str) -> list[Verdict]:
    """The networks that have a figure in a column, the most accurate first; equal ones stay in their order."""
    having = [v for v in judgement.verdicts if any(f.column == column for f in v.figures)]
    return sorted(having, key=lambda verdict: -verdict.figure(column).accuracy)


def draw_ranking(judgement: Judgement, columns: list[str], names: list[str], by: str, path: Path) -> Path:
    """Draw a row for each network: its accuracy in each column with the 95 % interval.

    Args:
        judgement: with two networks or more.
        columns: what is drawn, clean accuracy first.
        names: of the columns, for the legend.
        by: the column whose order the rows have.
        path: of the PNG file.
    """
    verdicts = ranked(judgement, by)
    shown = verdicts[:MOST_ROWS]
    with picture(path, 8.0, 1.9 + 0.24 * len(shown)) as figure:
        axes = figure.add_subplot()
        for colour, marker, column, name in zip(RUNS, MARKERS, columns, names, strict=False):
            rows = [
                (row, v.figure(column)) for row, v in enumerate(shown) if any(f.column == column for f in v.figures)
            ]
            at = np.array([row for row, _ in rows])
            accuracy, low, high = 100 * np.array([(f.accuracy, *f.interval) for _, f in rows]).T
            bars = [accuracy - low, high - accuracy]
            axes.errorbar(accuracy, at, xerr=bars, fmt=marker, color=colour, ms=5.5, lw=1.6, label=name, alpha=0.9)
        axes.set_yticks(range(len(shown)), [verdict.name for verdict in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlim(0, 101)
        axes.set_xlabel("accuracy (%)")
        figures = [verdict.figure(by) for verdict in verdicts]
        where = f" under {by}" if len(columns) > 2 else ""
        heading(figure, "Which network stays right under attack?", answer(figures, verdicts[0].name, where))
        left_out = f", the best {MOST_ROWS} of {len(verdicts)} networks" if len(verdicts) > MOST_ROWS else ""
        note(
            figure, f"{judgement.n:,} test images of {judgement.data}{left_out}. Bars: 95 % intervals of these images."
        )
    return path


def answer(figures: list[Figure], best: str, where: str = "") -> str:
    """Who is first, and how many others these images cannot tell from it.

    Args:
        figures: of one column, best first.
        best: the first network.
        where: the column in words, such as `` under PGD-20 0.1``; empty where there is one alone.
    """
    first, *others = figures
    close = sum(figure.interval[1] >= first.interval[0] for figure in others)
    told = f"{best} keeps {100 * first.accuracy:.1f} %{where}"
    if not close:
        return f"{told}, clearly more than all others."
    whose = "the interval of 1 other overlaps" if close == 1 else f"the intervals of {close} others overlap"
    return f"{told}; {whose} its own."
