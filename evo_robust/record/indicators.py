"""Measures of a set of points in objective space: front, hypervolume, knee, and the choice of one network."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from pymoo.decomposition.asf import ASF
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from evo_robust.parts.base import UserError, nearest

BEYOND = 1.1
"""How far the reference of a hypervolume lies from the ideal, where the worst value is 1: a tenth beyond it."""

_LARGEST = 1e300
"""Values beyond it are taken for it where boxes are made: a box must have a width that floats hold."""


class HasFront(Protocol):
    """A run as far as ``pick`` needs it."""

    @property
    def front(self) -> Sequence[Mapping[str, Any]]:
        """Rows of the non-dominated set, each with its ``objectives`` by name."""

    @property
    def objectives(self) -> Sequence[str]:
        """Names of the objectives."""


def nondominated(F: np.ndarray) -> np.ndarray:
    """Indices ``(k,)``, ascending, of the non-dominated points of ``F (n, m)``; equal points all stay."""
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
    with np.errstate(over="ignore"):  # beyond floats is beyond the box
        return (_points(F) - ideal) / np.where(width > 0, width, 1.0)


@dataclasses.dataclass(frozen=True)
class Box:
    """What a hypervolume is a share of: everything better than the reference, as far as the ideal.

    Attributes:
        ideal: values ``(m,)`` that nothing is better than; a front with all of them at once covers 1.
        reference: values ``(m,)``, larger in every objective; a point that is not better in all of them covers 0.

    Raises:
        ValueError: a reference that is not larger.
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
    """The box that a search keeps, by the objectives ``F (n, m)`` of its first generation, n ≥ 1.

    It goes from zero to a tenth beyond the worst values: errors and costs cannot fall below zero. What can, such as a
    logarithm, gets room of its own width below the best.
    """
    ideal, nadir = ideal_and_nadir(np.clip(_points(F), -_LARGEST, _LARGEST))
    return _box(np.where(ideal >= 0, 0.0, ideal - (nadir - ideal)), nadir)


def common_box(F: np.ndarray) -> Box:
    """The box in which several searches compare, from the best to a tenth beyond the worst of ``F (n, m)``, n ≥ 1."""
    return _box(*ideal_and_nadir(np.clip(_points(F), -_LARGEST, _LARGEST)))


def _box(ideal: np.ndarray, nadir: np.ndarray) -> Box:
    width = nadir - ideal
    # without any range, one unit, or what floats can tell from so large a number
    width = np.where(width > 0, width, np.maximum(1.0, 2 * np.spacing(np.abs(ideal))))
    return Box(ideal, ideal + BEYOND * width)


def hypervolume(F: np.ndarray, box: Box) -> float:
    """Share in [0, 1] of the box that ``F (n, m)`` dominates."""
    F = normalise(F, box.ideal, box.reference)
    # a point beyond the reference dominates nothing of the box
    F = F[F.max(axis=1) < 1.0]
    if len(F) == 0:
        return 0.0
    # the indicator takes the whole orthant below the reference: points below the ideal would exceed the box
    return float(HV(ref_point=np.ones(F.shape[1]))(np.maximum(F, 0.0)))


def hypervolume_curve(F: np.ndarray, box: Box) -> np.ndarray:
    """Hypervolume ``(n,)`` after each of the points ``F (n, m)``, in their order; it never falls."""
    F = _points(F)
    archive, volumes, volume = F[:0], np.zeros(len(F)), 0.0
    for i, point in enumerate(F):
        # a point that the archive weakly dominates adds nothing: most of a search's points, so most steps are free
        if not (archive <= point).all(axis=1).any():
            archive = np.vstack([archive[~(point <= archive).all(axis=1)], point])
            volume = max(volume, hypervolume(archive, box))
        volumes[i] = volume
    return volumes


def knee(F: np.ndarray) -> int:
    """Index of the best compromise on a front ``F (n, m)``, n ≥ 1.

    Compromise programming with pymoo's achievement scalarisation and equal weights: the point whose worst objective,
    normalised over the front, is best. A tie goes to the smaller sum, then to the first.
    """
    scaled = normalise(F, *ideal_and_nadir(F))
    n_objectives = scaled.shape[1]
    worst = np.asarray(ASF().do(scaled, np.ones(n_objectives), utopian_point=np.zeros(n_objectives))).ravel()
    return int(np.lexsort((scaled.sum(axis=1), worst))[0])


def objective_matrix(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
    """Objectives ``(n, m)`` of recorded rows, columns in the order of ``names``."""
    values = [[row["objectives"][name] for name in names] for row in rows]
    return np.asarray(values, dtype=float).reshape(len(rows), len(names))


def pick(spec: str, run: HasFront) -> int:
    """Position in ``run.front`` that ``spec`` chooses: ``knee``, an index such as ``3``, or ``best:OBJECTIVE``.

    Raises:
        UserError: the front is empty, or ``spec`` names nothing on it.
    """
    names, size = list(run.objectives), len(run.front)
    if size == 0:
        raise UserError("the run has no front yet: no candidate has figures and meets the constraints")
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
        # Python reads no numbers of thousands of digits
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
