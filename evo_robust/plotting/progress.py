"""Hypervolume over evaluations: how fast and how far searches come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from evo_robust.indicators import hypervolume_curve, ideal_and_nadir
from evo_robust.plotting.style import FRONT, note, picture, words
from evo_robust.plotting.view import View


def curves(views: Sequence[View], names: Sequence[str]) -> list[np.ndarray]:
    """Hypervolume of the columns ``names`` after each usable evaluation, one array ``(n,)`` per run.

    All runs share one normalisation (best and worst over all of them) and one reference point, so the curves compare.
    """
    points = [np.column_stack([view.column(name) for name in names]) for view in views]
    ideal, nadir = ideal_and_nadir(np.concatenate(points))
    return [hypervolume_curve(F, ideal, nadir) for F in points]


def draw_hypervolume(view: View, path: Path) -> None:
    """The hypervolume of one run over its evaluations, generations marked."""
    curve = curves([view], view.run.objectives)[0]
    with picture(path, height=4.8) as figure:
        axes = figure.add_subplot()
        draw_curve(axes, view, curve, FRONT)
        zoom(axes, [view], [curve])
        for boundary in _generation_starts(view):
            axes.axvline(boundary, color="#dddddd", lw=0.8, zorder=0)
        axes.legend(loc="lower right")
        axes.set_title("Progress: the share of objective space that the front covers", fontsize=12)
        note(figure, f"{view.summary()}; grey lines: generations. {reference_note(view.run.objectives)}")


def draw_curve(axes: Axes, view: View, curve: np.ndarray, colour: str) -> None:
    """One run's curve as steps over the evaluations asked for, from nothing to the end of its budget."""
    x = np.concatenate([[0], view.asked, [view.n_asked]])
    y = np.concatenate([[0.0], curve, curve[-1:]])
    axes.step(x, y, where="post", color=colour, lw=2, label=f"{view.name}: {y[-1]:.3f} after {view.n_asked}")
    axes.plot(x[-1], y[-1], "o", color=colour)
    axes.set_xlabel("evaluations")
    axes.set_ylabel("hypervolume (1 = everything)")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(axis="x", visible=False)


def zoom(axes: Axes, views: Sequence[View], volumes: Sequence[np.ndarray]) -> None:
    """Show the heights that matter: from where the runs stood after a twentieth of their evaluations to their best."""
    early = [
        v[np.flatnonzero(view.asked >= min(0.05 * view.n_asked, view.asked[-1]))[0]]
        for view, v in zip(views, volumes, strict=True)
    ]
    low, high = float(min(early)), float(max(v[-1] for v in volumes))
    room = max(0.15 * (high - low), 0.01)
    axes.set_ylim(max(0.0, low - room), high + room)


def reference_note(names: Sequence[str], n_runs: int = 1) -> str:
    """What the hypervolume is measured in."""
    where = "all runs" if n_runs > 1 else "the run"
    what = ", ".join(words(name) for name in names)
    return f"Share of the box from the best to a tenth beyond the worst of {where}: {what}."


def _generation_starts(view: View) -> list[float]:
    """Evaluations before each generation but the first; none when there are too many lines to read."""
    generations = [row["generation"] for row in view.run.evaluations]
    starts = [i + 0.0 for i in range(1, len(generations)) if generations[i] != generations[i - 1]]
    return starts if len(starts) <= 60 else []
