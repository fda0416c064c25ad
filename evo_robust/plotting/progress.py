"""Hypervolume over evaluations: how fast and how far searches get."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from evo_robust.plotting.groups import Group, alone
from evo_robust.record.indicators import common_box, hypervolume_curve
from evo_robust.record.quantity import words
from evo_robust.record.view import View, columns
from evo_robust.style import FRONT, heading, note, picture


@dataclasses.dataclass(frozen=True)
class HypervolumeCurve:
    """A search's hypervolume over its evaluations.

    Attributes:
        evaluations: number of evaluations ``(n,)`` at each value, failures included.
        values: hypervolume ``(n,)``.
    """

    evaluations: np.ndarray
    values: np.ndarray

    def at(self, evaluations: Any, before: float = 0.0) -> np.ndarray:
        """The value after ``evaluations``, an array of any shape; ``before`` where there was no value yet."""
        return np.concatenate([[before], self.values])[np.searchsorted(self.evaluations, evaluations, side="right")]


def mean_curve(given: Sequence[HypervolumeCurve], end: int, before: float) -> HypervolumeCurve:
    """The mean of curves up to ``end``, with a step wherever one has a step; a finished search keeps its last value."""
    x = np.unique(np.concatenate([*(curve.evaluations for curve in given), [end]]))
    return HypervolumeCurve(x, np.mean([curve.at(x, before) for curve in given], axis=0))


def history(view: View, names: Sequence[str], so_far: Callable[[np.ndarray], np.ndarray]) -> HypervolumeCurve:
    """A search's value in the columns ``names``, after each usable evaluation.

    Figures compare only within one fingerprint. Where it changed during the search, for example with new weights, there
    is one value per generation: that of the rows up to its end with the fingerprint of its last row. These rows gave
    the search its front at that time.

    Args:
        view: the run.
        names: the columns.
        so_far: gives the value ``(n,)`` after each of the points ``(n, m)``, in their order.
    """
    rows, F = _points(view, names)
    order = {row["id"]: n for n, row in enumerate(view.run.evaluations, 1)}
    evaluations, values = np.array([order[row["id"]] for row in rows]), np.empty(len(rows))
    fingerprints = np.array([row["fingerprint"] for row in rows])
    for fingerprint in np.unique(fingerprints):
        values[fingerprints == fingerprint] = so_far(F[fingerprints == fingerprint])
    if not view.n_earlier:
        return HypervolumeCurve(evaluations, values)
    last = {row["generation"]: i for i, row in enumerate(rows)}
    end = {row["generation"]: n for n, row in enumerate(view.run.evaluations, 1)}
    return HypervolumeCurve(np.array([end[generation] for generation in last]), values[list(last.values())])


def _points(view: View, names: Sequence[str]) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Usable rows of all fingerprints that have all columns, and these columns ``(n, m)``."""
    rows = view.run.ok()
    F = columns(rows, names)
    whole = np.isfinite(F).all(axis=1)
    return [row for row, kept in zip(rows, whole, strict=True) if kept], F[whole]


def own_curve(view: View) -> HypervolumeCurve:
    """Hypervolume of a run over its evaluations in its own box: the values of ``progress.csv`` and those between."""
    return history(view, view.run.objectives, lambda F: hypervolume_curve(F, view.box))


def common_curves(views: Sequence[View], names: Sequence[str]) -> list[HypervolumeCurve]:
    """Hypervolume of the columns ``names`` over evaluations, one curve per run, all in one box.

    The box goes from the best to a tenth beyond the worst of all runs, so that the curves compare. A run's values here
    depend on the other runs, so they are not figures of the run itself.
    """
    box = common_box(np.concatenate([_points(view, names)[1] for view in views]))
    return [history(view, names, lambda F: hypervolume_curve(F, box)) for view in views]


def draw_hypervolume(view: View, path: Path) -> None:
    """Draw the hypervolume of one run over its evaluations, in its own box, with generations marked."""
    curve, starts = own_curve(view), _generation_starts(view)
    with picture(path, height=5.0) as figure:
        axes = figure.add_subplot()
        draw_curve(axes, view, curve, FRONT)
        dress_volumes(axes, "own-box hypervolume (0 to 1)")
        zoom(axes, [view], [curve])
        for boundary in starts:
            axes.axvline(boundary, color="#dddddd", lw=0.8, zorder=0)
        heading(figure, "Progress: how much of its box the front covers")
        lines = "; grey lines: generations" if starts else ""
        note(figure, f"{view.summary()}{lines}. {own_note(view)}{apart_note(alone([view]))}")


def own_note(view: View) -> str:
    """A sentence that describes a run's own box."""
    ends = ", ".join(
        f"{q.words} {q.number(float(low))} to {q.text(float(high))}"
        for q, low, high in zip(view.quantities(), view.box.ideal, view.box.reference, strict=True)
    )
    return f"The run's own box, fixed by its first generation (hypervolume.json): {ends}."


def draw_curve(axes: Axes, view: View, curve: HypervolumeCurve, colour: str) -> None:
    """Draw one run's curve as steps over its evaluations, from zero to the end of its budget."""
    x = np.concatenate([[0], curve.evaluations, [view.n_asked]])
    y = np.concatenate([[0.0], curve.values, curve.values[-1:]])
    draw_steps(axes, view, x, y, colour, f"{view.name}: {y[-1]:.4f} after {view.n_asked}")
    axes.plot(x[-1], y[-1], "o", color=colour)


def dress_volumes(axes: Axes, label: str) -> None:
    """Set labels and scales for hypervolume over evaluations."""
    axes.set_xlabel("evaluations")
    axes.set_ylabel(label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.grid(axis="x", visible=False)


def draw_steps(axes: Axes, view: View, x: np.ndarray, y: np.ndarray, colour: str, label: str) -> None:
    """Draw steps; where generations were measured separately, each has a dot, since its value stands by itself."""
    marks: Any = {"marker": "o", "markevery": list(np.flatnonzero(x))} if view.n_earlier else {}
    axes.step(x, y, where="post", color=colour, lw=2, label=label, **marks)


def zoom(axes: Axes, views: Sequence[View], volumes: Sequence[HypervolumeCurve]) -> None:
    """Limit the y axis to values that the runs reached after a twentieth of their evaluations."""
    later = np.concatenate(
        [
            curve.values[curve.evaluations >= min(0.05 * view.n_asked, curve.evaluations[-1])]
            for view, curve in zip(views, volumes, strict=True)
        ]
    )
    low, high = float(later.min()), float(later.max())
    room = max(0.15 * (high - low), 0.01)
    axes.set_ylim(max(0.0, low - room), high + room)


def common_note(groups: Sequence[Group], names: Sequence[str]) -> str:
    """A sentence that describes the common box of a comparison."""
    what = ", ".join(words(name) for name in names)
    box = f"Common box: from the best to a tenth beyond the worst of all these runs: {what}."
    return f"{box} Only for comparing them; a run's own-box figure is in its progress.csv.{apart_note(groups)}"


def apart_note(groups: Sequence[Group], worse: str = "fall") -> str:
    """A sentence, with a space before it, where generations are measured separately and the curve may get ``worse``."""
    apart = [group for group in groups if any(view.n_earlier for view in group.views)]
    if not apart:
        return ""
    whose = "" if len(apart) == len(groups) else f" of {' and '.join(group.name for group in apart)}"
    changing = " or ".join(dict.fromkeys(view.changing for group in apart for view in group.views if view.n_earlier))
    each = "Dots: each" if any(not group.repeated for group in apart) else "Each"
    return f" {each} generation{whose} is measured with its own {changing}, and the curve may {worse}."


def _generation_starts(view: View) -> list[float]:
    """Number of evaluations before each generation except the first; empty where lines would be too dense."""
    generations = [row["generation"] for row in view.run.evaluations]
    starts = [i + 0.0 for i in range(1, len(generations)) if generations[i] != generations[i - 1]]
    return starts if len(starts) <= 60 else []
