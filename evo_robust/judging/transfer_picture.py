"""A heat map of what images of one network do to another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.patches import Rectangle

from evo_robust.judging.judgement import Judgement, Transfer
from evo_robust.judging.transfer import CLEAN, as_matrices, by_column
from evo_robust.style import INK, KNEE, grid, heading, note, picture

QUESTION = "How many images stay right when the attack never saw the network?"

_MAP = LinearSegmentedColormap.from_list("harm", [KNEE, "#fdf1e7"])
"""The darker a cell, the fewer images stay right."""

_GAP = 0.18
"""Space between the cells without attack and the others, in cells."""

_UPRIGHT = 14
"""Most letters of a name that stands straight below its cells."""

_LONGEST = 24
"""Most letters of a name beside an axis."""


@dataclasses.dataclass(frozen=True)
class _Panel:
    """Accuracies in percent, ``(rows, columns)``; the first row or column is without attack, ``white`` white-box."""

    title: str
    beside: str
    below: str
    rows: list[str]
    columns: list[str]
    values: np.ndarray
    white: list[tuple[int, int]]

    @property
    def slanted(self) -> bool:
        """Whether names below the cells need more room than these have."""
        return max(map(len, self.columns)) > _UPRIGHT


def draw_transfers(judgement: Judgement, path: Path) -> None:
    """Draw a panel for each attack and strength, or one for all where every network has one source."""
    found = judgement.transfers
    matrices = as_matrices(found)
    if matrices:
        panels = [_matrix(judgement, column, cells) for column, cells in by_column(found).items()]
    else:
        panels = [_pairs(judgement)]
    rows, columns = grid(len(panels))
    first = panels[0]
    longest = max(map(len, first.columns))
    wide = (
        0.6 + 0.075 * max(map(len, first.rows)) + len(first.columns) * (0.8 if first.slanted else 0.09 * longest + 0.1)
    )
    high = 0.46 * len(first.rows) + (0.8 + 0.05 * longest if first.slanted else 0.9)
    shades = Normalize(*_range(panels))
    with picture(path, max(columns * wide + 0.3, 7.0), rows * high + 1.5) as figure:
        every = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(every, panels, strict=False):
            _draw(axes, panel, shades, matrices)
        for axes in every[len(panels) :]:
            axes.set_axis_off()
        if any(panel.white for panel in panels):
            outline = Rectangle((0, 0), 0, 0, fill=False, edgecolor=INK, linewidth=2, label="white-box: one network")
            every[0].add_patch(outline)
        heading(figure, QUESTION, _answer(judgement, matrices))
        note(
            figure,
            f"Accuracy in percent on all {judgement.n:,} test images of {judgement.data}. The darker, the more images "
            "are misclassified. Each image is attacked to the last step on the network that it is made on.",
        )


def _matrix(judgement: Judgement, column: str, cells: Sequence[Transfer]) -> _Panel:
    sources = list(dict.fromkeys(cell.source for cell in cells))
    targets = list(dict.fromkeys(cell.target for cell in cells))
    clean = _clean(judgement)
    values = np.full((len(sources) + 1, len(targets)), np.nan)
    values[0] = [clean[target] for target in targets]
    white = []
    for cell in cells:
        at = sources.index(cell.source) + 1, targets.index(cell.target)
        values[at] = 100 * cell.figure.accuracy
        white += [at] if cell.kinship == "same" else []
    rows = [CLEAN, *map(_short, sources)]
    return _Panel(column, "images made on", "judged on", rows, list(map(_short, targets)), values, white)


def _pairs(judgement: Judgement) -> _Panel:
    columns = by_column(judgement.transfers)
    heads = list(columns)
    pairs = list(dict.fromkeys((cell.target, cell.source) for cell in judgement.transfers))
    order = [verdict.name for verdict in judgement.verdicts]
    pairs.sort(key=lambda pair: order.index(pair[0]))
    clean = _clean(judgement)
    values = np.full((len(pairs), len(heads) + 1), np.nan)
    values[:, 0] = [clean[target] for target, _ in pairs]
    white = []
    for column, cells in columns.items():
        for cell in cells:
            at = pairs.index((cell.target, cell.source)), heads.index(column) + 1
            values[at] = 100 * cell.figure.accuracy
            white += [at] if cell.kinship == "same" else []
    if len({source for _, source in pairs}) == 1:
        title, beside = f"images made on {pairs[0][1]}", "judged on"
        names = [_short(target) for target, _ in pairs]
    else:
        title, beside = "judged on  ←  images made on", ""
        names = [f"{_short(target)}  ←  {_short(source)}" for target, source in pairs]
    return _Panel(title, beside, "attack", names, [CLEAN, *heads], values, white)


def _clean(judgement: Judgement) -> dict[str, float]:
    """Accuracy without attack in percent, by network."""
    return {verdict.name: 100 * verdict.figure("clean").accuracy for verdict in judgement.verdicts}


def _range(panels: Sequence[_Panel]) -> tuple[float, float]:
    """Accuracies of the darkest and the lightest cell; at least ten points apart, so that noise is not drawn large."""
    values = np.concatenate([panel.values.ravel() for panel in panels])
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return min(low, high - 10), high


def _draw(axes: Axes, panel: _Panel, shades: Normalize, matrix: bool) -> None:
    """One panel: coloured cells with their numbers, those without attack apart from the others."""
    rows, columns = panel.values.shape
    y = [i + (_GAP if matrix and i else 0) for i in range(rows)]
    x = [j + (_GAP if not matrix and j else 0) for j in range(columns)]
    for (i, j), value in np.ndenumerate(panel.values):
        axes.add_patch(Rectangle((x[j], y[i]), 1, 1, facecolor=_MAP(shades(value)), edgecolor="white", linewidth=1.5))
        axes.text(x[j] + 0.5, y[i] + 0.5, f"{value:.1f}", ha="center", va="center", fontsize=9, color=INK)
    for i, j in panel.white:
        axes.add_patch(Rectangle((x[j], y[i]), 1, 1, fill=False, edgecolor=INK, linewidth=2))
    axes.set_xlim(-0.02, x[-1] + 1.02)
    axes.set_ylim(y[-1] + 1.02, -0.02)
    axes.set_xticks([left + 0.5 for left in x], panel.columns)
    if panel.slanted:
        for label in axes.get_xticklabels():
            label.set(rotation=30, horizontalalignment="right", rotation_mode="anchor")
    axes.set_yticks([top + 0.5 for top in y], panel.rows)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xlabel(panel.below)
    axes.set_ylabel(panel.beside)
    axes.set_title(panel.title)


def _short(name: str) -> str:
    """A long name without its middle: names that retrain chooses differ at their end."""
    return name if len(name) <= _LONGEST else f"{name[:9]}…{name[10 - _LONGEST :]}"


def _answer(judgement: Judgement, matrices: bool) -> str:
    """Who is fooled least, and whose images fool most, over all attacks and strengths."""
    foreign = [transfer for transfer in judgement.transfers if transfer.kinship != "same"]
    if not foreign:
        return "Only white-box attacks: no image was made on another network."
    clean = _clean(judgement)
    right: dict[str, list[float]] = {}
    cost: dict[str, list[float]] = {}
    for transfer in foreign:
        accuracy = 100 * transfer.figure.accuracy
        right.setdefault(transfer.target, []).append(accuracy)
        cost.setdefault(transfer.source, []).append(clean[transfer.target] - accuracy)
    best = max(right, key=lambda name: float(np.mean(right[name])))
    least = f"{_short(best)} ({np.mean(right[best]):.1f} % right on average)"
    told = [f"Least fooled by images of others: {least}." if len(right) > 1 else f"Under images of others: {least}."]
    if matrices and len(cost) > 1:
        worst = max(cost, key=lambda name: float(np.mean(cost[name])))
        told.append(f"Images made on {_short(worst)} harm others most (by {np.mean(cost[worst]):.1f} points).")
    return " ".join(told)
