"""Pictures of a judgement: accuracy against size, over strengths, over steps, and as searched beside as judged."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from evo_robust.correlations import Kendall, kendall, signed
from evo_robust.judging.judgement import WORST, Figure, Judgement, Verdict
from evo_robust.judging.ranking import draw_ranking
from evo_robust.judging.trends import draw_trends, size_axis, trend, with_trends
from evo_robust.style import EVALUATED, MARKERS, PALE, RUNS, grid, heading, note, picture, plain

MOST_NAMED = 9
"""Most networks that stand in a picture with a colour and name of their own."""

LEAST = 4
"""Fewest networks whose order can be compared with another order."""


def draw(judgement: Judgement, folder: Path) -> list[Path]:
    """Draw every picture for which there are figures, as PNG files in a folder; returns them."""
    found = []
    if len(judgement.verdicts) > 1 and len(columns := hardest(judgement)) > 1:
        names = [_named(column) for column in columns]
        found.append(draw_ranking(judgement, columns, names, _telling(judgement), folder / "ranking.png"))
    if len({verdict.params for verdict in judgement.verdicts}) > 1:
        found.append(_sizes(judgement, folder / "accuracy-size.png"))
    if searches := with_trends(judgement):
        found.append(draw_trends(judgement, searches, folder / "accuracy-flops.png"))
    if any(len(strengths_of(verdict)) for verdict in judgement.verdicts):
        found.append(_strengths(judgement, folder / "accuracy-strength.png"))
    if any(len(steps_of(verdict)) for verdict in judgement.verdicts):
        found.append(_steps(judgement, folder / "accuracy-steps.png"))
    if agreements(judgement):
        found.append(_both_fronts(judgement, folder / "front-judged.png"))
        found.append(_searched(judgement, folder / "searched-judged.png"))
    return found


def hardest(judgement: Judgement) -> list[str]:
    """Columns for pictures with room for few: clean, and one column of each strength, at most three of them.

    That is the worst case; of a strength of one attack alone, this one.
    """
    columns: dict[tuple[str, str], str] = {}
    for f in judgement.verdicts[0].figures:
        ball = f.norm, f.strength
        if f.eps is not None and (f.trial == WORST or ball not in columns):
            columns[ball] = f.column
    chosen = [*columns.values()]
    step = max(1, -(-len(chosen) // 3))
    return ["clean", *chosen[::-1][::step][::-1]]


def _accuracies(judgement: Judgement, column: str) -> np.ndarray:
    """Accuracy in percent of every network in a column; NaN where it has none."""
    by_name = [{f.column: f.accuracy for f in verdict.figures} for verdict in judgement.verdicts]
    return np.array([100 * found.get(column, np.nan) for found in by_name])


# ---- size


def _sizes(judgement: Judgement, path: Path) -> Path:
    """Accuracy against parameters (RobNet, Fig. 1) and FLOPs, with trend lines (RoCo-NAS, Figs. 5 and 6)."""
    columns = hardest(judgement)
    params = np.array([float(verdict.params) for verdict in judgement.verdicts])
    flops = np.array([np.nan if v.flops is None else v.flops for v in judgement.verdicts])
    sizes = [("parameters", params), ("FLOPs (multiply-accumulates of an image)", flops)]
    sizes = [(name, values) for name, values in sizes if np.isfinite(values).all() and len(set(values)) > 1]
    with picture(path, 9.0, 5.2) as figure:
        for k, (name, values) in enumerate(sizes):
            axes = figure.add_subplot(1, len(sizes), k + 1)
            for colour, marker, column in zip(RUNS, MARKERS, columns, strict=False):
                accuracy = _accuracies(judgement, column)
                axes.plot(values, accuracy, marker, color=colour, ms=7, alpha=0.85, label=_named(column), mew=0)
                trend(axes, values, accuracy, colour)
            size_axis(axes)
            axes.set_xlabel(name)
            axes.set_ylabel("accuracy (%)" if k == 0 else "")
            axes.set_ylim(0, 103)
            if len(judgement.verdicts) <= MOST_NAMED:
                _name_points(axes, judgement, values, _accuracies(judgement, columns[0]))
        heading(figure, "Do larger networks stay right under attack?")
        note(figure, f"{_of(judgement)} Dashed: least squares on the logarithm of the size.")
    return path


def _name_points(axes: Axes, judgement: Judgement, x: np.ndarray, y: np.ndarray) -> None:
    """Write each network's name below its point; what all names begin with is left out."""
    names = [verdict.name for verdict in judgement.verdicts]
    common = len(os.path.commonprefix(names)) if len(names) > 1 else 0
    common = common if all(name[:common].endswith((" ", "-", "/")) for name in names) else 0
    turned = max(len(name) - common for name in names) > 4
    for name, at, height in zip(names, x, y, strict=True):
        if np.isfinite(height):
            axes.annotate(
                name[common:], (at, height), (2 if turned else 0, -7), textcoords="offset points", fontsize=7,
                color=PALE, rotation=-40 if turned else 0, rotation_mode="anchor", va="top",
                ha="left" if turned else "center",
            )  # fmt: skip


# ---- strengths and steps


def strengths_of(verdict: Verdict) -> dict[str, list[Figure]]:
    """Trials with two or more strengths, and their figures."""
    by_trial: dict[str, list[Figure]] = {}
    for figure in verdict.figures:
        if figure.eps is not None and figure.trial != WORST:
            by_trial.setdefault(figure.trial, []).append(figure)
    return {trial: found for trial, found in by_trial.items() if len(found) > 1}


def steps_of(verdict: Verdict) -> dict[str, list[tuple[int, Figure]]]:
    """Attacks with two or more numbers of steps at one strength: number of steps and figure, by attack and strength."""
    found: dict[str, list[tuple[int, Figure]]] = {}
    for figure in verdict.figures:
        named = re.fullmatch(r"(.+)-(\d+)((?: l2)?)", figure.trial)
        if named and figure.eps is not None:
            found.setdefault(f"{named[1]}{named[3]} at {figure.strength}", []).append((int(named[2]), figure))
    return {name: sorted(figures, key=lambda f: f[0]) for name, figures in found.items() if len(figures) > 1}


def _strengths(judgement: Judgement, path: Path) -> Path:
    """Accuracy over strengths, a line for each network (Wsr-NAS, Fig. 1; RACL, Fig. 3b and c)."""
    panels = list(dict.fromkeys(name for v in judgement.verdicts for name in strengths_of(v)))[:6]
    lines = {
        panel: [
            (v.name, np.array([[0.0, v.figures[0].accuracy], *((f.eps, f.accuracy) for f in strengths_of(v)[panel])]))
            for v in judgement.verdicts
            if panel in strengths_of(v)
        ]
        for panel in panels
    }
    labels = {p: "pixels changed" if " L0" in p else "strength ε, pixels in 0..1" for p in panels}
    _lines(judgement, path, lines, labels, "How much accuracy is left when the attack grows stronger?", log=False)
    return path


def _steps(judgement: Judgement, path: Path) -> Path:
    """Accuracy over the number of steps (RACL, Fig. 3a)."""
    panels = list(dict.fromkeys(name for v in judgement.verdicts for name in steps_of(v)))[:6]
    lines = {
        panel: [
            (v.name, np.array([(float(steps), f.accuracy) for steps, f in steps_of(v)[panel]]))
            for v in judgement.verdicts
            if panel in steps_of(v)
        ]
        for panel in panels
    }
    title = "How much accuracy is left when the attack takes more steps?"
    _lines(judgement, path, lines, dict.fromkeys(panels, "steps of the attack"), title, log=True)
    return path


def _lines(
    judgement: Judgement,
    path: Path,
    panels: dict[str, list[tuple[str, np.ndarray]]],
    labels: dict[str, str],
    title: str,
    *,
    log: bool,
) -> None:
    """Panels with a line for each network; with many networks all are grey but the best and the worst at the end."""
    rows, columns = grid(len(panels))
    with picture(path, max(7.0, 4.6 * columns), 4.0 * rows + 1.2) as figure:
        for k, (name, lines) in enumerate(panels.items()):
            axes = figure.add_subplot(rows, columns, k + 1)
            for number, (network, points) in enumerate(lines):
                style = _style(number, lines)
                axes.plot(
                    points[:, 0], 100 * points[:, 1], marker="o", ms=4, label=style.pop("label", network), **style
                )
            axes.set_title(name)
            axes.set_xlabel(labels[name])
            axes.set_ylabel("accuracy (%)")
            axes.set_ylim(0, 103)
            if log:
                axes.set_xscale("log")
                ticks = sorted({point for _, points in lines for point in points[:, 0]})
                axes.set_xticks(ticks, [plain(tick) for tick in ticks])
                axes.xaxis.set_minor_formatter(NullFormatter())
        heading(figure, title)
        note(figure, _of(judgement))


def _style(number: int, lines: Sequence[tuple[str, np.ndarray]]) -> dict[str, Any]:
    """Colour of a line: its own where there are few, else only the best and the worst have one."""
    if len(lines) <= MOST_NAMED:
        return {"color": RUNS[number], "lw": 1.8}
    ends = [points[-1, 1] for _, points in lines]
    if number == int(np.argmax(ends)):
        return {"color": RUNS[0], "lw": 2.2, "zorder": 4}
    if number == int(np.argmin(ends)):
        return {"color": RUNS[5], "lw": 2.2, "zorder": 4}
    grey = next(k for k in range(len(lines)) if k not in (int(np.argmax(ends)), int(np.argmin(ends))))
    label = f"{len(lines) - 2} others" if number == grey else "_"
    return {"color": EVALUATED, "lw": 1.0, "label": label}


# ---- as searched, as judged


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How well a figure of the search orders networks as the judge does.

    Attributes:
        figure: name of the search's figure, or ``params``.
        column: the judge's column.
        tau: Kendall's τ between the figure, or what is left of it, and the accuracy; its sign is such that +1 says
            that the figure orders them as the judge.
    """

    figure: str
    column: str
    tau: Kendall


def agreements(judgement: Judgement) -> list[Agreement]:
    """τ of every figure that the search has of all networks, and of the parameters, with every column of the judge.

    A search's figures are minimised, so a smaller one counts as better; of the parameters a larger number does.
    """
    verdicts = judgement.verdicts
    names = [name for name in verdicts[0].searched if all(name in v.searched for v in verdicts)] if verdicts else []
    if len(verdicts) < LEAST or not names:
        return []
    scores = {name: -np.array([v.searched[name] for v in verdicts]) for name in names}
    scores["parameters"] = np.array([float(v.params) for v in verdicts])
    columns = [c for c in judgement.columns if np.isfinite(_accuracies(judgement, c)).all()]
    return [Agreement(n, c, kendall(s, _accuracies(judgement, c))) for n, s in scores.items() for c in columns]


TOGETHER = "all together"
"""What tables call the networks of several searches."""


def by_search(judgement: Judgement) -> dict[str, list[Agreement]]:
    """The agreements within each search by its name, and those over all networks where there are several searches.

    Searches measure different figures: those that only one of them has are found within it alone.
    """
    groups: dict[str, list[Verdict]] = {}
    for verdict in judgement.verdicts:
        groups.setdefault(verdict.group or "", []).append(verdict)
    parts = {name: dataclasses.replace(judgement, verdicts=tuple(found)) for name, found in groups.items()}
    if len(parts) > 1:
        parts[TOGETHER] = judgement
    return {name: found for name, part in parts.items() if (found := agreements(part))}


def _searched(judgement: Judgement, path: Path) -> Path:
    """The networks as searched (across) and as judged (up), a panel for each figure of the search."""
    column = _telling(judgement)
    found = [a for a in agreements(judgement) if a.column == column]
    rows, columns = grid(len(found))
    with picture(path, max(8.0, 3.9 * columns), 3.3 * rows + 1.0) as figure:
        for k, agreement in enumerate(found):
            name, tau = agreement.figure, agreement.tau
            axes = figure.add_subplot(rows, columns, k + 1)
            size = name in ("parameters", "params", "flops")
            values = [v.params if name == "parameters" else v.searched[name] for v in judgement.verdicts]
            axes.plot(values, _accuracies(judgement, column), "o", color=RUNS[0], ms=7, alpha=0.85, mew=0)
            axes.set_title(f"{name.replace('_', ' ')}: τ {signed(tau.tau)} ({signed(tau.low)} to {signed(tau.high)})")
            axes.set_xlabel(
                "number of parameters" if name == "parameters" else f"{name.replace('_', ' ')} in the search"
            )
            axes.set_ylabel("accuracy as judged (%)" if k % columns == 0 else "")
            if size:
                size_axis(axes)
        figure.suptitle(
            f"Do the search's figures order networks as the judge does ({column})?", x=0.01, ha="left", fontsize=12
        )
        note(figure, f"{_of(judgement)} τ: Kendall's, with 95 % interval; 1 is the judge's order, 0 is chance.")
    return path


def _both_fronts(judgement: Judgement, path: Path) -> Path:
    """The networks as searched and as judged, side by side over their FLOPs; numbers tell which is which."""
    column, figure_name = _telling(judgement), _robust_figure(judgement)
    flops = np.array([np.nan if v.flops is None else v.flops for v in judgement.verdicts])
    sizes = flops if np.isfinite(flops).all() else np.array([float(v.params) for v in judgement.verdicts])
    searched = np.array([verdict.searched[figure_name] for verdict in judgement.verdicts])
    judged = 100 - _accuracies(judgement, column)
    tau = next(a.tau for a in agreements(judgement) if (a.figure, a.column) == (figure_name, column))
    panels = (
        ("As searched", searched, figure_name.replace("_", " "), RUNS[0]),
        ("As judged", judged, f"error under {column} (%)", RUNS[5]),
    )
    with picture(path, 9.0, 4.8) as figure:
        for k, (title, values, words, colour) in enumerate(panels):
            axes = figure.add_subplot(1, 2, k + 1)
            order = np.lexsort((values, sizes))
            # what no other network beats in both: the front of this panel alone
            best = [i for n, i in enumerate(order) if values[i] < min([np.inf, *values[order[:n]]])]
            axes.plot(sizes[best], values[best], "-", color=colour, lw=1.2, alpha=0.6)
            axes.plot(sizes, values, "o", color=colour, ms=13, mew=0, alpha=0.9)
            for number, (x, y) in enumerate(zip(sizes, values, strict=True)):
                axes.annotate(str(number), (x, y), ha="center", va="center", color="white", fontsize=8)
            size_axis(axes)
            axes.set_xlabel("FLOPs" if sizes is flops else "parameters")
            axes.set_ylabel(words)
            axes.set_title(title)
            axes.margins(0.08)
        answer = f"Kendall's τ of the two orders: {signed(tau.tau)} ({signed(tau.low)} to {signed(tau.high)})"
        heading(figure, "Does the front hold when its networks are attacked?", answer)
        note(figure, f"{_of(judgement)} Lower is better. A line joins networks that no other one beats in both.")
    return path


def _telling(judgement: Judgement) -> str:
    """The attacked column in which networks differ most: where all fall, or none, there is nothing to see."""
    attacked = [column for column in hardest(judgement) if column != "clean"]
    return max(attacked or ["clean"], key=lambda name: np.nanstd(_accuracies(judgement, name)))


def _robust_figure(judgement: Judgement) -> str:
    """The search's figure that speaks of attacks: an error or loss that is not the clean one, else the first."""
    names = list(dict.fromkeys(a.figure for a in agreements(judgement) if a.figure != "parameters"))
    spoken = [n for n in names if ("error" in n or "loss" in n) and "clean" not in n]
    return (spoken or names)[0]


def _named(column: str) -> str:
    return "not attacked" if column == "clean" else column


def _of(judgement: Judgement) -> str:
    many = f"{len(judgement.verdicts)} networks" if len(judgement.verdicts) > 1 else judgement.verdicts[0].name
    return f"{many} on {judgement.n:,} test images of {judgement.data}."
