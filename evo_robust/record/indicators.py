"""Pareto front, hypervolume and knee of points in objective space, and the choice of one network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from pymoo.decomposition.asf import ASF
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from evo_robust.parts.base import UserError, nearest, spelt

BEYOND = 1.1
"""Reference point of a hypervolume where the ideal is 0 and the worst value is 1: a tenth beyond the worst."""

PICKS = ("knee", "best", "derived")
"""Words that a pick begins with, where it is no number."""

_LARGEST = 1e300
"""Boxes clip larger values to this one, so that their width is a finite float."""


class HasFront(Protocol):
    """What ``pick`` needs of a run."""

    @property
    def front(self) -> Sequence[Mapping[str, Any]]:
        """Rows of the non-dominated set, each with its ``objectives`` by name."""

    @property
    def objectives(self) -> Sequence[str]:
        """Names of the objectives."""


def nondominated(F: np.ndarray) -> np.ndarray:
    """Indices ``(k,)``, ascending, of the non-dominated points of ``F (n, m)``; of equal points all are kept.

    Example:
        >>> nondominated(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
        [0, 1]
    """
    F = _points(F)
    if len(F) == 0:
        return np.zeros(0, dtype=int)
    return np.sort(NonDominatedSorting().do(F, only_non_dominated_front=True)).astype(int)


def ideal_and_nadir(F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value ``(m,)`` of each objective over ``F (n, m)``, n ≥ 1."""
    F = _points(F)
    if len(F) == 0:
        raise ValueError("expected at least one point, got none")
    return F.min(axis=0), F.max(axis=0)


def normalise(F: np.ndarray, ideal: np.ndarray, nadir: np.ndarray) -> np.ndarray:
    """``F (n, m)`` scaled so that the ideal is 0 and the nadir 1; an objective without range becomes 0."""
    width = np.asarray(nadir, dtype=float) - np.asarray(ideal, dtype=float)
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which is outside the box
        return (_points(F) - ideal) / np.where(width > 0, width, 1.0)


@dataclasses.dataclass(frozen=True)
class Box:
    """The box between ideal and reference; a hypervolume is the share of it that a front covers.

    Attributes:
        ideal: best values ``(m,)``. A point with all of them covers the whole box: hypervolume 1.
        reference: values ``(m,)``, larger than the ideal in every objective. A point that is not better than the
            reference in every objective covers nothing: hypervolume 0.

    Raises:
        ValueError: a reference that is not larger than the ideal.

    Example:
        >>> hypervolume(np.array([[0.5, 0.5]]), Box(np.zeros(2), np.ones(2)))
        0.25
    """

    ideal: np.ndarray
    reference: np.ndarray

    def __post_init__(self) -> None:
        """Check the ends."""
        with np.errstate(over="ignore"):
            width = self.reference - self.ideal
        if not ((width > 0) & np.isfinite(width)).all():
            raise ValueError(f"expected a reference above the ideal, got {self.reference} and {self.ideal}")


def first_box(F: np.ndarray) -> Box:
    """The box that a search keeps, from the objectives ``F (n, m)`` of its first generation, n ≥ 1.

    It goes from zero to a tenth beyond the worst values, since errors and costs cannot be negative. An objective that
    can, such as a logarithm, gets extra room below its best value, as wide as its range.
    """
    ideal, nadir = ideal_and_nadir(np.clip(_points(F), -_LARGEST, _LARGEST))
    return _box(np.where(ideal >= 0, 0.0, ideal - (nadir - ideal)), nadir)


def common_box(F: np.ndarray) -> Box:
    """The box for comparing several searches: from the best to a tenth beyond the worst of ``F (n, m)``, n ≥ 1."""
    return _box(*ideal_and_nadir(np.clip(_points(F), -_LARGEST, _LARGEST)))


def _box(ideal: np.ndarray, nadir: np.ndarray) -> Box:
    width = nadir - ideal
    # where all values are equal: one unit, or the least width that floats can resolve there
    width = np.where(width > 0, width, np.maximum(1.0, 2 * np.spacing(np.abs(ideal))))
    return Box(ideal, ideal + BEYOND * width)


def hypervolume(F: np.ndarray, box: Box) -> float:
    """Share in [0, 1] of the box that ``F (n, m)`` dominates."""
    F = normalise(F, box.ideal, box.reference)
    # a point beyond the reference dominates nothing of the box
    F = F[F.max(axis=1) < 1.0]
    if len(F) == 0:
        return 0.0
    # pymoo's indicator has no lower end, so points below the ideal would count for more than the box
    return float(HV(ref_point=np.ones(F.shape[1]))(np.maximum(F, 0.0)))


def hypervolume_curve(F: np.ndarray, box: Box) -> np.ndarray:
    """Hypervolume ``(n,)`` after each of the points ``F (n, m)``, in their order; it never falls."""
    F = _points(F)
    archive, volumes, volume = F[:0], np.zeros(len(F)), 0.0
    for i, point in enumerate(F):
        # a point that the archive weakly dominates adds nothing, which is so for most points of a search
        if not (archive <= point).all(axis=1).any():
            archive = np.vstack([archive[~(point <= archive).all(axis=1)], point])
            volume = max(volume, hypervolume(archive, box))
        volumes[i] = volume
    return volumes


def knee(F: np.ndarray) -> int:
    """Index of the best compromise on a front ``F (n, m)``, n ≥ 1.

    The objectives are normalised over the front. The knee is the point whose worst objective is smallest (pymoo's
    achievement scalarisation with equal weights). Ties go to the smaller sum, then to the first point.

    Example:
        >>> knee(np.array([[0.0, 1.0], [0.4, 0.4], [1.0, 0.0]]))
        1
    """
    scaled = normalise(F, *ideal_and_nadir(F))
    n_objectives = scaled.shape[1]
    worst = np.asarray(ASF().do(scaled, np.ones(n_objectives), utopian_point=np.zeros(n_objectives))).ravel()
    return int(np.lexsort((scaled.sum(axis=1), worst))[0])


def objective_matrix(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
    """Objectives ``(n, m)`` of recorded rows, columns in the order of ``names``."""
    values = [[row["objectives"][name] for name in names] for row in rows]
    return np.asarray(values, dtype=float).reshape(len(rows), len(names))


def spelt_pick(spec: str, objectives: Sequence[str]) -> str:
    """A pick whose words have the capitals that they have here: ``best:FLOPs`` becomes ``best:flops``."""
    kind, colon, name = spec.partition(":")
    return spelt(kind, PICKS) + colon + spelt(name, objectives)


def pick(spec: str, run: HasFront) -> int:
    """Position in ``run.front`` that ``spec`` chooses: ``knee``, an index such as ``3``, or ``best:OBJECTIVE``.

    Raises:
        UserError: the front is empty, or ``spec`` names nothing on it.
    """
    names, size = list(run.objectives), len(run.front)
    spec = spelt_pick(spec, names)
    if size == 0:
        raise UserError("the run has no front yet: no candidate was evaluated with success and meets the constraints")
    F = objective_matrix(run.front, names)
    kind, colon, name = spec.partition(":")
    if spec == "knee":
        return knee(F)
    if kind == "best" and colon:
        if name not in names:
            raise UserError(f"pick={spec}: no objective {name!r} in this run; {nearest(name, names)}")
        # among equally good ones, the best compromise of the rest
        best = np.flatnonzero(F[:, names.index(name)] == F[:, names.index(name)].min())
        return int(best[knee(F[best])])
    if spec.isascii() and spec.isdecimal():
        digits = spec.lstrip("0")
        # Python refuses to read numbers with thousands of digits
        if len(digits) > len(str(size)) or int(digits or 0) >= size:
            raise UserError(f"pick={spec[:24]}: the front has {size} networks, 0 to {size - 1}")
        return int(digits or 0)
    expected = f"pick=knee, pick=INDEX (0 to {size - 1}), pick=best:OBJECTIVE or pick=derived"
    raise UserError(f"expected {expected}, got pick={spec}")


def _points(F: np.ndarray) -> np.ndarray:
    F = np.asarray(F, dtype=float)
    if F.ndim != 2 or F.shape[1] == 0:
        raise ValueError(f"expected points of shape (n, m) with m ≥ 1, got {F.shape}")
    if not np.isfinite(F).all():
        raise ValueError("expected finite objectives, got NaN or infinity")
    return F
