"""The front of one run: in two objectives at a time, in three dimensions, and as parallel coordinates."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator

from evo_robust.plotting.groups import alone
from evo_robust.plotting.progress import apart_note, draw_steps, history
from evo_robust.record.quantity import Quantity
from evo_robust.record.view import COSTS, View
from evo_robust.style import EVALUATED, FRONT, INK, KNEE, PALE, dress, grid, heading, note, picture, plain

MAX_NUMBERED = 30
"""On larger fronts, only special networks (the knee, the best ones) have numbers."""


def draw_front(view: View, path: Path) -> None:
    """Draw all evaluated networks pale, the front with the numbers of ``front.csv``, and its best compromise marked."""
    m = view.F.shape[1]
    if m == 1:
        _draw_best_so_far(view, path)
    elif m == 2:
        with picture(path) as figure:
            axes = figure.add_subplot()
            _panel(axes, view, *objective_pairs(view)[0])
            heading(figure, "Pareto front: no other network is as good in both objectives")
            note(figure, view.summary())
    else:
        _draw_panels(view, path)


def objective_pairs(view: View) -> list[tuple[int, int]]:
    """Pairs of objectives (x, y): a cost is always on x, and pairs with a cost come first."""
    names = view.run.objectives
    pairs = []
    for i, j in itertools.combinations(range(len(names)), 2):
        pairs.append((j, i) if names[j] in COSTS and names[i] not in COSTS else (i, j))
    return sorted(pairs, key=lambda p: names[p[0]] not in COSTS)


def _draw_panels(view: View, path: Path) -> None:
    pairs = objective_pairs(view)
    three = view.F.shape[1] == 3
    n = len(pairs) + three
    rows, columns = grid(n)
    with picture(path, width=max(8.5, 3.8 * columns), height=3.7 * rows + 0.6) as figure:
        for k, pair in enumerate(pairs):
            axes = figure.add_subplot(rows, columns, k + 1)
            _panel(axes, view, *pair)
        if three:
            _space(figure, (rows, columns, n), view)
        heading(figure, f"Pareto front in {view.F.shape[1]} objectives: no other network is as good in all of them")
        note(figure, view.summary() + "; a number is the same network in every panel")


def _panel(axes: Axes, view: View, jx: int, jy: int) -> None:
    shown = view.quantities()
    qx, qy = shown[jx], shown[jy]
    x, y = qx.shown(view.F[:, jx]), qy.shown(view.F[:, jy])
    dress(axes, "x", qx)
    dress(axes, "y", qy)
    _cloud(axes, view, x, y)
    if view.F.shape[1] == 2:
        order = np.argsort(x[view.front], kind="stable")
        axes.step(x[view.front][order], y[view.front][order], where="post", color=FRONT, lw=1.5, alpha=0.6, zorder=2)
    axes.margins(0.08)
    better(axes)


def _cloud(axes: Any, view: View, *columns: np.ndarray) -> None:
    """Draw evaluated points, the front and its knee in two or three dimensions, with the front's numbers."""
    front, alone = view.front, len(view.front) == 1
    numbered = list(range(len(front))) if len(front) <= MAX_NUMBERED else sorted(view.roles())
    plain_ones = [i for i in range(len(front)) if i not in numbered]
    blue = [i for i in numbered if i != view.knee]
    edge = {"edgecolor": "white", "lw": 0.8}
    knee = "the only network on the front" if alone else "best compromise"
    for places, size, colour, z, label in (
        (front[plain_ones], 30, FRONT, 2.5, None),
        (front[blue], 110, FRONT, 3, "Pareto front"),
        (front[[view.knee]], 150, KNEE, 4, knee),
    ):
        if len(places):  # no legend entry without dots
            axes.scatter(*(c[places] for c in columns), s=size, color=colour, zorder=z, label=label, **edge)
    if len(view.others):
        others = (c[view.others] for c in columns)
        axes.scatter(*others, s=16, color=EVALUATED, alpha=0.55, lw=0, zorder=1, label=view.evaluated)
    for i in numbered:
        place = [float(c[front[i]]) for c in columns]
        axes.text(*place, str(i), color="white", fontsize=7, ha="center", va="center_baseline", zorder=5)


def _space(figure: Figure, place: tuple[int, int, int], view: View) -> None:
    """Draw three objectives in space, with a line from each network of the front down to the floor."""
    axes = figure.add_subplot(*place, projection="3d", computed_zorder=False)
    order = sorted(range(3), key=lambda j: view.run.objectives[j] not in COSTS)
    shown = view.quantities()
    # matplotlib's three-dimensional axes cannot be logarithmic, so draw the logarithm and label it with the value
    columns = [_log_or_plain(shown[j], view.F[:, j]) for j in order]
    _cloud(axes, view, *columns)
    floor = columns[2].min()
    for i in view.front:
        x, y, z = (float(c[i]) for c in columns)
        axes.plot([x, x], [y, y], [floor, z], color=FRONT, lw=0.6, alpha=0.5)
    for j, which in zip(order, "xyz", strict=True):
        getattr(axes, f"set_{which}label")(shown[j].label, fontsize=8)
        axis = getattr(axes, f"{which}axis")
        axis.set_tick_params(labelsize=7, pad=0)
        if shown[j].log:
            axis.set_major_locator(MultipleLocator(1))
            axis.set_major_formatter(lambda v, _: plain(10**v))
        else:
            axis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))  # more labels would overlap at this angle
    # the corner where all objectives are small is the nearest one
    axes.view_init(elev=20, azim=-135)
    axes.set_title("all three at once: better is near and low", fontsize=10)
    axes.set_box_aspect(None, zoom=0.85)


def _log_or_plain(shown: Quantity, values: np.ndarray) -> np.ndarray:
    return np.log10(shown.shown(values)) if shown.log else shown.shown(values)


def better(axes: Axes) -> None:
    """Draw an arrow towards the corner where both objectives are small, if that corner is empty."""
    points = np.concatenate([np.asarray(c.get_offsets()) for c in axes.collections])
    axes.autoscale_view()  # so that the limits include the last dots
    place = axes.transAxes.inverted().transform(axes.transData.transform(points))
    if (place < (0.24, 0.16)).all(axis=1).any():
        return
    arrow = {"arrowstyle": "-|>", "color": PALE, "lw": 1.2}
    axes.annotate("better", (0.015, 0.02), (0.09, 0.11), "axes fraction", "axes fraction", arrow,
                  color=PALE, fontsize=9, va="center")  # fmt: skip


def _draw_best_so_far(view: View, path: Path) -> None:
    shown = view.quantities()[0]
    values = shown.shown(view.F[:, 0])
    with picture(path) as figure:
        axes = figure.add_subplot()
        if len(view.others):
            x, y = view.asked[view.others], values[view.others]
            axes.scatter(x, y, s=16, color=EVALUATED, lw=0, label=view.evaluated)
        best = history(view, view.run.objectives, lambda F: np.minimum.accumulate(shown.shown(F[:, 0])))
        which = "of each generation" if view.n_earlier else "so far"
        draw_steps(axes, view, best.evaluations, best.values, FRONT, f"best {which}")
        i = view.front[view.knee]
        axes.scatter(view.asked[i], values[i], s=120, color=KNEE, zorder=3, label="best")
        axes.set_xlabel("evaluations")
        dress(axes, "y", shown)
        heading(figure, f"One objective: the best network {which}")
        note(figure, f"{view.summary()}.{apart_note(alone([view]), 'rise')}" if view.n_earlier else view.summary())


def draw_parallel(view: View, path: Path) -> None:
    """Draw a line across all objectives for each network of the front; lower is better everywhere."""
    shown = view.quantities()
    scaled = np.column_stack([_unit(q, view.F[:, j], view.F[view.front, j]) for j, q in enumerate(shown)])
    m = len(shown)
    with picture(path, width=max(8.0, 2.2 * m), height=5.2) as figure:
        axes = figure.add_subplot()
        axes.set_axis_off()
        roles = view.roles()
        for i, line in enumerate(scaled):
            marked = i in roles
            colour = KNEE if i == view.knee else FRONT
            axes.plot(range(m), line, color=colour, lw=2.6 if marked else 1.0, alpha=1.0 if marked else 0.35,
                      marker="o", ms=5 if marked else 3, zorder=3 if marked else 2)  # fmt: skip
        for j, q in enumerate(shown):
            _upright(axes, j, q, view.F[view.front, j])
        _name_lines(axes, roles, scaled, view.knee)
        axes.set_xlim(-0.35, m - 1 + 0.95)
        axes.set_ylim(-0.26, 1.12)
        axes.set_title("What each network of the front trades: one line per network, lower is better", fontsize=12)
        note(figure, view.summary())


def _unit(shown: Quantity, every: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The front's values scaled to [0, 1] between best and worst; 0 where all are equal."""
    values = np.log(values) if shown.log else values
    width = float(np.ptp(values))
    return (values - values.min()) / width if width > 0 else np.zeros_like(values)


def _upright(axes: Axes, j: int, shown: Quantity, values: np.ndarray) -> None:
    axes.plot([j, j], [0, 1], color=INK, lw=1, zorder=1)
    axes.text(j, 1.05, shown.text(values.max()), ha="center", va="bottom", fontsize=9)
    axes.text(j, -0.05, shown.text(values.min()), ha="center", va="top", fontsize=9)
    axes.text(j, -0.14, shown.label + ("\nlog scale" if shown.log else ""), ha="center", va="top", fontweight="bold")


def _name_lines(axes: Axes, roles: dict[int, str], scaled: np.ndarray, knee: int) -> None:
    """Write names at the right end of special lines, moved apart where they would touch."""
    m, texts = scaled.shape[1], {}
    for i, role in roles.items():
        texts[i] = f"#{i} {role}".replace(", ", ",\n") if len(role) > 24 else f"#{i} {role}"
    order = sorted(roles, key=lambda i: scaled[i, -1])
    half = {i: 0.025 * (texts[i].count("\n") + 1) + 0.01 for i in order}
    places, free = {}, -0.03
    for i in order:  # upwards: move each name above the one below it
        places[i] = max(float(scaled[i, -1]), free + half[i])
        free = places[i] + half[i]
    free = 1.03
    for i in reversed(order):  # then down again, where the highest name had no room
        places[i] = min(places[i], free - half[i])
        free = places[i] - half[i]
    for i in order:
        colour = KNEE if i == knee else FRONT
        axes.text(m - 1 + 0.1, places[i], texts[i], color=colour, fontsize=8.5, va="center", linespacing=1.1)
