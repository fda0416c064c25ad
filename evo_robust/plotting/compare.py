"""Compares several runs in one picture: fronts, hypervolume, top-N networks; a run with its random baseline."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from evo_robust.files import write_csv
from evo_robust.plotting.answers import who_leads
from evo_robust.plotting.fronts import better
from evo_robust.plotting.groups import Group, GroupStanding, Spread
from evo_robust.plotting.progress import (
    HypervolumeCurve,
    apart_note,
    common_curves,
    common_note,
    draw_curve,
    draw_steps,
    dress_volumes,
    history,
    mean_curve,
    zoom,
)
from evo_robust.plotting.tables import SEARCH_TIME, TOP, Top
from evo_robust.record.indicators import nondominated
from evo_robust.record.quantity import Quantity, quantity
from evo_robust.record.view import COSTS, View
from evo_robust.style import INK, MARKERS, RUNS, dress, grid, heading, note, picture

COMMON = "common-box hypervolume"
"""Name of a comparison's hypervolume. It belongs to no single run, and depends on which runs are compared."""


def shown_columns(views: Sequence[View], names: Sequence[str]) -> list[Quantity]:
    """How columns are shown, with one scale for all runs."""
    found = []
    for name in names:
        unit = next((view.unit(name) for view in views if view.unit(name)), "")
        found.append(quantity(name, unit, np.concatenate([view.column(name) for view in views])))
    return found


def runs_of(groups: Sequence[Group]) -> list[View]:
    """All runs of groups."""
    return [view for group in groups for view in group.views]


def draw_fronts(groups: Sequence[Group], names: Sequence[str], path: Path, title: str, answer: str = "") -> None:
    """Draw all fronts in one panel per pair of common objectives, with other evaluated networks in pale dots.

    For a group of runs, a thick line shows what at least half of them reach, and thin lines show each run. ``answer``
    answers the question in ``title``.
    """
    shown = shown_columns(runs_of(groups), names)
    if len(names) == 1:
        _draw_one_column(groups, shown[0], path, title, answer)
        return
    pairs = [(b, a) if b.name in COSTS and a.name not in COSTS else (a, b) for a, b in itertools.combinations(shown, 2)]
    pairs.sort(key=lambda pair: pair[0].name not in COSTS)
    rows, columns = grid(len(pairs))
    width, height = (8.0, 5.5) if len(pairs) == 1 else (max(8.0, 3.6 * columns), 3.7 * rows + 0.6)
    with picture(path, width, height + (0.4 if answer else 0.0)) as figure:
        for k, (qx, qy) in enumerate(pairs):
            _overlay(figure.add_subplot(rows, columns, k + 1), groups, qx, qy)
        heading(figure, title, answer)
        summaries = "; ".join(f"{group.name}: {_summary(group)}" for group in groups)
        repeated = any(group.repeated for group in groups)
        thick = " Thick: what at least half of a search's runs reached; thin: single runs." if repeated else ""
        pale = " Pale dots: networks that are not on its front." if any(not group.repeated for group in groups) else ""
        lines = f"Lines: what each search reached in the two objectives of a panel, by its own figures.{thick}{pale}"
        note(figure, f"{summaries}. {lines}")


def _summary(group: Group) -> str:
    if not group.repeated:
        return group.views[0].summary()
    return f"{len(group.views)} runs of {group.budget} evaluations"


def _overlay(axes: Axes, groups: Sequence[Group], qx: Quantity, qy: Quantity) -> None:
    dress(axes, "x", qx)
    dress(axes, "y", qy)
    for group, colour, marker in zip(groups, itertools.cycle(RUNS), itertools.cycle(MARKERS), strict=False):
        edges = [_overlay_run(axes, view, qx, qy, colour, marker, faint=group.repeated) for view in group.views]
        if group.repeated:
            label = f"fronts of {group.label}"
            x, y = half_reach(edges)
            dot = "o" if len(x) == 1 else None  # a line of one point would be invisible
            axes.step(x, y, where="post", color=colour, lw=2.6, marker=dot, zorder=4, label=label)
    axes.margins(0.08)
    better(axes)


def _overlay_run(
    axes: Axes, view: View, qx: Quantity, qy: Quantity, colour: str, marker: str, *, faint: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one run's networks and front, or with ``faint`` only its line; returns the corners of that line."""
    x, y = qx.shown(view.column(qx.name)), qy.shown(view.column(qy.name))
    # the front in these two objectives only; networks behind the line are on the front for another objective
    edge = nondominated(np.column_stack([x, y]))
    edge = edge[np.lexsort((-y[edge], x[edge]))]
    if faint:
        axes.scatter(x[edge], y[edge], s=14, color=colour, alpha=0.35, lw=0, marker=marker, zorder=3)
        axes.step(x[edge], y[edge], where="post", color=colour, lw=0.8, alpha=0.35, zorder=2)
    else:
        axes.scatter(x[view.others], y[view.others], s=12, color=colour, alpha=0.2, lw=0, marker=marker, zorder=1)
        axes.step(x[edge], y[edge], where="post", color=colour, lw=1.8, alpha=0.8, zorder=2)
        front = view.front
        axes.scatter(x[front], y[front], s=60, color=colour, edgecolor="white", lw=0.8, marker=marker,
                     zorder=3, label=f"front of {view.name}")  # fmt: skip
    return x[edge], y[edge]


def half_reach(edges: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The line ``(x, y)`` that at least half of the runs reach, from the corners of each run's line, x ascending."""
    x = np.unique(np.concatenate([xs for xs, _ in edges]))
    heights = np.sort([HypervolumeCurve(xs, ys).at(x, before=np.inf) for xs, ys in edges], axis=0)
    y = heights[(len(edges) - 1) // 2]
    return x[np.isfinite(y)], y[np.isfinite(y)]


def _draw_one_column(groups: Sequence[Group], shown: Quantity, path: Path, title: str, answer: str) -> None:
    with picture(path) as figure:
        axes = figure.add_subplot()
        for group, colour in zip(groups, itertools.cycle(RUNS), strict=False):
            best = [
                history(view, [shown.name], lambda F: np.minimum.accumulate(shown.shown(F[:, 0])))
                for view in group.views
            ]
            if group.repeated:
                _draw_repeats(axes, group, best, colour, before=np.nan)
            else:
                draw_steps(axes, group.views[0], best[0].evaluations, best[0].values, colour, group.name)
        axes.set_xlabel("evaluations")
        dress(axes, "y", shown)
        heading(figure, title, answer)
        only = f"Best so far; {shown.words} is the only objective that these runs have in common."
        note(figure, only + repeats_note(groups) + apart_note(groups, "rise"))


def draw_hypervolumes(groups: Sequence[Group], names: Sequence[str], path: Path, found: Sequence[Standing]) -> None:
    """Draw hypervolume over evaluations, in one box for all runs; ``found`` are the standings of all runs.

    For a group of runs, a thick line shows the mean, and thin lines show each run.
    """
    views = runs_of(groups)
    with picture(path, height=5.6) as figure:
        axes = figure.add_subplot()
        volumes = common_curves(views, names)
        left = iter(volumes)
        for group, colour in zip(groups, itertools.cycle(RUNS), strict=False):
            own = [next(left) for _ in group.views]
            if group.repeated:
                _draw_repeats(axes, group, own, colour, before=0.0)
            else:
                draw_curve(axes, group.views[0], own[0], colour)
        dress_volumes(axes, f"{COMMON} (0 to 1)")
        zoom(axes, views, volumes)
        answer = who_leads(group_standings(groups, found), min(view.n_asked for view in views))
        heading(figure, _question(groups), answer)
        note(figure, common_note(groups, names) + repeats_note(groups))


def _question(groups: Sequence[Group]) -> str:
    if len(groups) == 1 and groups[0].repeated:
        return "How far does the same search get with other seeds?"
    return "Which search gets further with the same number of evaluations?"


def _draw_repeats(axes: Axes, group: Group, own: Sequence[HypervolumeCurve], colour: str, before: float) -> None:
    """Draw the mean of a group's curves and, thin, each curve; the label gives mean and deviation at their end."""
    for view, curve in zip(group.views, own, strict=True):
        x = np.concatenate([[0], curve.evaluations, [view.n_asked]])
        y = np.concatenate([[before], curve.values, curve.values[-1:]])
        axes.step(x, y, where="post", color=colour, lw=0.8, alpha=0.35, zorder=1.5)
    end = max(view.n_asked for view in group.views)
    mean, spread = mean_curve(own, end, before), Spread(np.array([curve.values[-1] for curve in own]))
    x, y = np.concatenate([[0], mean.evaluations]), np.concatenate([[before], mean.values])
    axes.step(x, y, where="post", color=colour, lw=2.6, label=f"{group.label}: {spread.text}")
    axes.plot(x[-1], y[-1], "o", color=colour)


def repeats_note(groups: Sequence[Group]) -> str:
    """A sentence about thick and thin lines, with a space before it; empty where no run is repeated."""
    if not any(group.repeated for group in groups):
        return ""
    return " Thick: mean of a search's runs, in the legend with their standard deviation at the end; thin: single runs."


def write_hypervolumes(views: Sequence[View], names: Sequence[str], path: Path) -> None:
    """Write the curves in the common box as CSV: run, evaluations, value; one line per value of :func:`history`."""
    rows = [
        [view.name, int(n), f"{volume:.8g}"]
        for view, curve in zip(views, common_curves(views, names), strict=True)
        for n, volume in zip(curve.evaluations, curve.values, strict=True)
    ]
    write_csv(path, ["run", "evaluations", "common_box_hypervolume"], rows)


def draw_top(tables: Sequence[Top], shown: Sequence[Quantity], path: Path, groups: Sequence[Group]) -> None:
    """Draw mean figures of the networks with the fewest FLOPs, a panel per figure, as in RoCo-NAS's Figs. 3 and 4.

    A group of runs has the mean over the runs, with a whisker of one standard deviation on each side. A front with
    fewer than N networks has no bar for N, since that would only repeat the bar before.
    """
    rows, columns = grid(len(shown))
    with picture(path, max(8.0, 3.5 * columns), 3.2 * rows + 0.7) as figure:
        for k, q in enumerate(shown):
            axes = figure.add_subplot(rows, columns, k + 1)
            for r, group in enumerate(groups):
                _bars(axes, group, tables, q, r, len(groups))
            axes.set_xticks(range(len(TOP)), [f"top-{n}" for n in TOP])
            axes.set_xlim(-0.55, len(TOP) - 0.45)
            axes.set_title(q.label)
            axes.grid(axis="x", visible=False)
            axes.margins(y=0.2 if any(group.repeated for group in groups) else 0.12)
        heading(figure, "The networks with the fewest FLOPs: means (lower is better)")
        whiskers = "Whiskers: one standard deviation over runs. " if any(g.repeated for g in groups) else ""
        top = f"Top-N: the N networks of a front with the fewest FLOPs. {_short_fronts(tables)}{whiskers}"
        note(figure, f"{top}{SEARCH_TIME}")


def _short_fronts(tables: Sequence[Top]) -> str:
    """A sentence about fronts that are smaller than the largest N; empty where there are none."""
    short = [f"{t.run} has only {t.networks}" for t in tables if t.networks < t.n == max(TOP)]
    return f"–: a front has no more networks than the bar before shows ({', '.join(short)}). " if short else ""


def _bars(axes: Axes, group: Group, tables: Sequence[Top], q: Quantity, r: int, n_groups: int) -> None:
    """Draw a bar for every N that includes more networks of a front than the N before."""
    runs = [view.name for view in group.views]
    width = 0.8 / n_groups
    upright = 90 if n_groups > 2 else 0
    before, label = 0, group.label
    for k, n in enumerate(TOP):
        own = [t for t in tables if t.n == n and t.run in runs]
        x = k + (r - (n_groups - 1) / 2) * width
        if (networks := sum(t.networks for t in own)) == before:
            axes.text(x, 0, "–", ha="center", va="bottom", color=RUNS[r % len(RUNS)])
            continue
        spread = Spread(np.array([t.means[q.name] for t in own]))
        whisker = float(q.shown(np.array(spread.sd))) if group.repeated else None
        bar = axes.bar(x, float(q.shown(np.array(spread.mean))), width * 0.94, color=RUNS[r % len(RUNS)], label=label,
                       yerr=whisker, error_kw={"elinewidth": 1, "ecolor": INK, "capsize": 2})  # fmt: skip
        axes.bar_label(bar, [q.number(spread.mean)], fontsize=7, padding=2, rotation=upright)
        before, label = networks, "_nolegend_"


@dataclasses.dataclass(frozen=True)
class Standing:
    """A run's figures in a comparison.

    Attributes:
        run: the run's name.
        evaluations: its budget, failures included.
        front: size of its front.
        own_box_hypervolume: hypervolume in the run's own box, of all its objectives, as its search shows it.
        common_box_hypervolume: hypervolume in the box of this comparison, after all evaluations of the run.
        common_box_hypervolume_at_equal_budget: the same, after as many evaluations as the shortest run had.
        dominated: share of its front that networks on another run's front dominate.
        best: lowest value by column.
    """

    run: str
    evaluations: int
    front: int
    own_box_hypervolume: float
    common_box_hypervolume: float
    common_box_hypervolume_at_equal_budget: float
    dominated: float
    best: dict[str, float]


def standings(views: Sequence[View], names: Sequence[str]) -> list[Standing]:
    """The figures of all runs, in the columns ``names``."""
    budget = min(view.n_asked for view in views)
    fronts = [np.column_stack([view.column(name)[view.front] for name in names]) for view in views]
    found = []
    volumes = common_curves(views, names)
    for k, view in enumerate(views):
        others = np.concatenate([F for i, F in enumerate(fronts) if i != k])
        beaten = [bool(((others <= f).all(axis=1) & (others < f).any(axis=1)).any()) for f in fronts[k]]
        best = {name: float(view.column(name).min()) for name in names}
        end, at_budget = float(volumes[k].values[-1]), float(volumes[k].at(budget))
        own = (view.name, view.n_asked, len(view.front), view.hypervolume)
        found.append(Standing(*own, end, at_budget, float(np.mean(beaten)), best))
    return found


def group_standings(groups: Sequence[Group], found: Sequence[Standing]) -> list[GroupStanding]:
    """The figures of all groups, from the standings of their runs."""
    by_run = {standing.run: standing for standing in found}
    result = []
    for group in groups:
        own = [by_run[view.name] for view in group.views]
        end, early = ([getattr(s, f"common_box_hypervolume{when}") for s in own] for when in ("", "_at_equal_budget"))
        result.append(GroupStanding(group.name, Spread(np.array(end)), Spread(np.array(early))))
    return result


def write_standings(found: Sequence[Standing], path: Path) -> None:
    """Write the comparison as CSV, with values as recorded."""
    fixed = [field.name for field in dataclasses.fields(Standing) if field.name != "best"]
    names = list(found[0].best)
    rows = [[*(getattr(s, key) for key in fixed), *(s.best[name] for name in names)] for s in found]
    write_csv(path, [*fixed, *(f"best_{name}" for name in names)], rows)
