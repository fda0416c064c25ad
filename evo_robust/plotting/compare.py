"""Several runs laid over each other: fronts, hypervolume, top-N networks; a run beside its random baseline."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from evo_robust.files import write_csv
from evo_robust.indicators import nondominated
from evo_robust.plotting.fronts import better
from evo_robust.plotting.progress import apart_note, curves, draw_curve, draw_steps, history, reference_note, zoom
from evo_robust.plotting.style import MARKERS, RUNS, Quantity, grid, heading, note, picture, quantity
from evo_robust.plotting.tables import TOP, Top
from evo_robust.plotting.view import COSTS, View


def shown_columns(views: Sequence[View], names: Sequence[str]) -> list[Quantity]:
    """How columns are shown, one scale for all runs."""
    found = []
    for name in names:
        unit = next((view.unit(name) for view in views if view.unit(name)), "")
        found.append(quantity(name, unit, np.concatenate([view.column(name) for view in views])))
    return found


def draw_fronts(views: Sequence[View], names: Sequence[str], path: Path, title: str) -> None:
    """The fronts over each other, every pair of common objectives, other evaluated networks faint."""
    shown = shown_columns(views, names)
    if len(names) == 1:
        _draw_one_column(views, shown[0], path, title)
        return
    pairs = [(b, a) if b.name in COSTS and a.name not in COSTS else (a, b) for a, b in itertools.combinations(shown, 2)]
    pairs.sort(key=lambda pair: pair[0].name not in COSTS)
    rows, columns = grid(len(pairs))
    size = (8.0, 5.5) if len(pairs) == 1 else (max(8.0, 3.6 * columns), 3.7 * rows + 0.6)
    with picture(path, *size) as figure:
        for k, (qx, qy) in enumerate(pairs):
            _overlay(figure.add_subplot(rows, columns, k + 1), views, qx, qy)
        heading(figure, title)
        summaries = "; ".join(f"{view.name}: {view.summary()}" for view in views)
        note(figure, f"{summaries}. Lines: what each search reached in the two objectives of a panel.")


def _overlay(axes: Axes, views: Sequence[View], qx: Quantity, qy: Quantity) -> None:
    qx.dress(axes, "x")
    qy.dress(axes, "y")
    for view, colour, marker in zip(views, itertools.cycle(RUNS), itertools.cycle(MARKERS), strict=False):
        x, y = qx.shown(view.column(qx.name)), qy.shown(view.column(qy.name))
        axes.scatter(x, y, s=12, color=colour, alpha=0.2, lw=0, marker=marker, zorder=1)
        # what the search reached in these two alone; networks behind the line are on the front for another objective
        edge = nondominated(np.column_stack([x, y]))
        edge = edge[np.lexsort((-y[edge], x[edge]))]
        axes.step(x[edge], y[edge], where="post", color=colour, lw=1.8, alpha=0.8, zorder=2)
        front = view.front
        axes.scatter(x[front], y[front], s=60, color=colour, edgecolor="white", lw=0.8, marker=marker,
                     zorder=3, label=f"front of {view.name}")  # fmt: skip
    axes.margins(0.08)
    better(axes)


def _draw_one_column(views: Sequence[View], shown: Quantity, path: Path, title: str) -> None:
    with picture(path) as figure:
        axes = figure.add_subplot()
        for view, colour in zip(views, itertools.cycle(RUNS), strict=False):
            best = history(view, [shown.name], lambda F: np.minimum.accumulate(shown.shown(F[:, 0])))
            draw_steps(axes, view, best.evaluations, best.values, colour, view.name)
        axes.set_xlabel("evaluations")
        shown.dress(axes, "y")
        axes.legend(loc="upper right")
        axes.set_title(title, fontsize=12)
        only = f"Best so far; {shown.words} is the only objective that these runs have in common."
        note(figure, only + apart_note(views, "rise"))


def draw_hypervolumes(views: Sequence[View], names: Sequence[str], path: Path) -> None:
    """Hypervolume over evaluations, one normalisation and reference point for all runs."""
    with picture(path, height=4.8) as figure:
        axes = figure.add_subplot()
        volumes = curves(views, names)
        for view, curve, colour in zip(views, volumes, itertools.cycle(RUNS), strict=False):
            draw_curve(axes, view, curve, colour)
        zoom(axes, views, volumes)
        axes.legend(loc="lower right")
        axes.set_title("Which search gets further with the same number of evaluations?", fontsize=12)
        note(figure, reference_note(views, names))


def write_hypervolumes(views: Sequence[View], names: Sequence[str], path: Path) -> None:
    """The curves as CSV: run, evaluations, hypervolume, one line per value of :func:`history`."""
    rows = [
        [view.name, int(n), f"{volume:.8g}"]
        for view, curve in zip(views, curves(views, names), strict=True)
        for n, volume in zip(curve.evaluations, curve.values, strict=True)
    ]
    write_csv(path, ["run", "evaluations", "hypervolume"], rows)


def draw_top(tables: Sequence[Top], shown: Sequence[Quantity], path: Path) -> None:
    """Mean figures of the networks with the fewest FLOPs, a panel per figure: Figs. 3 and 4 of RoCo-NAS."""
    runs = list(dict.fromkeys(t.run for t in tables))
    rows, columns = grid(len(shown))
    with picture(path, max(8.0, 3.5 * columns), 3.2 * rows + 0.7) as figure:
        for k, q in enumerate(shown):
            axes = figure.add_subplot(rows, columns, k + 1)
            for r, run in enumerate(runs):
                _bars(axes, [t for t in tables if t.run == run], q, r, len(runs))
            axes.set_xticks(range(len(TOP)), [f"top-{n}" for n in TOP])
            axes.set_title(q.label)
            axes.grid(axis="x", visible=False)
            axes.margins(y=0.12)
        heading(figure, "The networks with the fewest FLOPs: means (lower is better)")
        short = [f"{t.run} has only {t.networks}" for t in tables if t.networks < t.n == max(TOP)]
        note(figure, "Top-N: the N networks of a front with the fewest FLOPs. " + "; ".join(short))


def _bars(axes: Axes, tables: Sequence[Top], q: Quantity, r: int, n_runs: int) -> None:
    width = 0.8 / n_runs
    x = np.arange(len(tables)) + (r - (n_runs - 1) / 2) * width
    heights = [float(t.means[q.name]) for t in tables]
    bars = axes.bar(x, q.shown(np.array(heights)), width * 0.94, color=RUNS[r % len(RUNS)], label=tables[0].run)
    upright = 90 if n_runs > 2 else 0
    axes.bar_label(bars, [q.number(h) for h in heights], fontsize=7, padding=2, rotation=upright)


@dataclasses.dataclass(frozen=True)
class Standing:
    """Where a run stands beside others.

    Attributes:
        run: its name.
        evaluations: its budget, failures counted.
        front: size of its front.
        hypervolume: after all its evaluations.
        at_equal_budget: after as many evaluations as the shortest run had.
        dominated: share of its front that a network of another run's front dominates.
        best: lowest value by column.
    """

    run: str
    evaluations: int
    front: int
    hypervolume: float
    at_equal_budget: float
    dominated: float
    best: dict[str, float]


def standings(views: Sequence[View], names: Sequence[str]) -> list[Standing]:
    """The comparison in numbers, on the columns ``names``."""
    budget = min(view.n_asked for view in views)
    fronts = [np.column_stack([view.column(name)[view.front] for name in names]) for view in views]
    found = []
    volumes = curves(views, names)
    for k, view in enumerate(views):
        others = np.concatenate([F for i, F in enumerate(fronts) if i != k])
        # a run without any success so early has covered nothing
        within = [0.0, *volumes[k].values[volumes[k].evaluations <= budget]]
        beaten = [bool(((others <= f).all(axis=1) & (others < f).any(axis=1)).any()) for f in fronts[k]]
        best = {name: float(view.column(name).min()) for name in names}
        end, at_budget = float(volumes[k].values[-1]), float(within[-1])
        found.append(Standing(view.name, view.n_asked, len(view.front), end, at_budget, float(np.mean(beaten)), best))
    return found


def write_standings(found: Sequence[Standing], path: Path) -> None:
    """The comparison as CSV, values as recorded."""
    fixed = ["run", "evaluations", "front", "hypervolume", "at_equal_budget", "dominated"]
    names = list(found[0].best)
    rows = [[*(getattr(s, key) for key in fixed), *(s.best[name] for name in names)] for s in found]
    write_csv(path, [*fixed, *(f"best_{name}" for name in names)], rows)
