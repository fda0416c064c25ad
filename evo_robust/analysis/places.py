"""What a convolution on a direct edge brings, and what one on a skip edge does (RobNet, Fig. 6a)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evo_robust.analysis.study import LeftOut, Study, blank
from evo_robust.files import write_csv

PLACES = ("all edges", "direct edges", "skip edges")
"""Direct edges join consecutive nodes, skip edges all others."""

FEWEST = 10
"""Fewest networks for slopes with intervals."""


@dataclasses.dataclass(frozen=True)
class Curve:
    """Mean accuracy over the number of convolutions at one kind of edge.

    Attributes:
        where: ``all edges``, ``direct edges`` or ``skip edges``.
        numbers: convolutions per cell there, ascending whole numbers ``(k,)``.
        networks: how many networks have so many ``(k,)``.
        means: their mean accuracy in [0, 1] ``(k,)``.
        half: half of the mean's 95 % interval ``(k,)``; NaN where one network stands alone.
        slope: what one more convolution there adds to the accuracy, the other kind held fixed (least squares); NaN
            where that cannot be told.
        slope_half: half of the slope's 95 % interval.
    """

    where: str
    numbers: np.ndarray
    networks: np.ndarray
    means: np.ndarray
    half: np.ndarray
    slope: float
    slope_half: float


def curves_of(study: Study) -> list[Curve]:
    """The curves of all, of direct and of skip edges. Where cells differ, their mean number is rounded.

    Raises:
        LeftOut: the space gives no number of convolutions.
    """
    structures = study.known_structures()
    if not any(s.convolutions for s in structures):
        raise LeftOut("no network has a convolution, so there are no curves over their number")
    direct = np.array([s.direct_convolutions for s in structures])
    skip = np.array([s.convolutions for s in structures]) - direct
    accuracy = study.accuracy()
    counts = dict(zip(PLACES, (direct + skip, direct, skip), strict=True))
    slopes = _slopes((direct + skip,), accuracy) + _slopes((direct, skip), accuracy)
    return [_curve(name, n, accuracy, *slope) for (name, n), slope in zip(counts.items(), slopes, strict=True)]


def _curve(where: str, counts: np.ndarray, accuracy: np.ndarray, slope: float, slope_half: float) -> Curve:
    whole = np.round(counts).astype(int)
    numbers = np.unique(whole)
    groups = [accuracy[whole == number] for number in numbers]
    half = [_t(len(g) - 1) * g.std(ddof=1) / math.sqrt(len(g)) if len(g) > 1 else math.nan for g in groups]
    means = np.array([g.mean() for g in groups])
    return Curve(where, numbers, np.array([len(g) for g in groups]), means, np.array(half), slope, slope_half)


def _slopes(columns: Sequence[np.ndarray], y: np.ndarray) -> list[tuple[float, float]]:
    """Least squares of y on the columns and a constant: each slope, and half of its 95 % interval."""
    matrix = np.column_stack([*columns, np.ones(len(y))])
    free = len(y) - matrix.shape[1]
    if len(y) < FEWEST or np.linalg.matrix_rank(matrix) < matrix.shape[1]:
        return [(math.nan, math.nan)] * len(columns)
    found = np.linalg.lstsq(matrix, y)[0]
    rest = float(((y - matrix @ found) ** 2).sum()) / free
    errors = np.sqrt(rest * np.diag(np.linalg.inv(matrix.T @ matrix)))
    return [(float(found[k]), _t(free) * float(errors[k])) for k in range(len(columns))]


def _t(free: int) -> float:
    """97.5 % quantile of Student's t with so many degrees of freedom."""
    from scipy import stats  # imported late: it takes a third of a second, and searches do not need it

    return float(stats.t.ppf(0.975, free))


def write_curves(found: Sequence[Curve], path: Path) -> None:
    """Write the points of the curves as CSV; accuracies are shares in [0, 1]."""
    rows = [
        [c.where, number, n, mean, blank(half), blank(c.slope), blank(c.slope_half)]
        for c in found
        for number, n, mean, half in zip(c.numbers, c.networks, c.means, c.half.tolist(), strict=True)
    ]
    heads = ["edges", "convolutions", "networks", "mean_accuracy", "half_interval", "slope", "slope_half_interval"]
    write_csv(path, heads, rows)
