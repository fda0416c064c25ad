"""A run prepared for pictures: columns of figures, the positions of the front in them, and their names."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evo_robust.objectives.cost import Flops
from evo_robust.objectives.figures import figures_of
from evo_robust.parts.base import UserError
from evo_robust.parts.facts import CO_TRAINED_WEIGHTS
from evo_robust.record.indicators import Box, hypervolume, knee, objective_matrix
from evo_robust.record.quantity import Quantity, is_share, quantity, words
from evo_robust.record.reported import reported_columns
from evo_robust.record.run import Run

COSTS = ("flops", "params")


@dataclasses.dataclass(frozen=True)
class View:
    """The usable evaluations of one run that compare with its front, in order of evaluation.

    Attributes:
        name: the run's name in legends.
        run: the run.
        rows: the n evaluations with figures and the front's fingerprint.
        F: objectives ``(n, m)``.
        asked: number of evaluations ``(n,)`` up to each row, failures included.
        front: position in ``rows`` of each network of the run's front, in its order.
        knee: index of the best compromise on the front.
    """

    name: str
    run: Run
    rows: list[dict[str, Any]]
    F: np.ndarray
    asked: np.ndarray
    front: np.ndarray
    knee: int

    @property
    def n_asked(self) -> int:
        """Number of evaluations, failures included: the budget."""
        return len(self.run.evaluations)

    @property
    def n_failed(self) -> int:
        """Number of evaluations that failed, were rejected or break a constraint."""
        return self.n_asked - len(self.run.ok())

    @property
    def n_earlier(self) -> int:
        """Number of usable evaluations that do not compare with the front: earlier weights or settings."""
        return self.n_asked - self.n_failed - len(self.rows)

    @property
    def box(self) -> Box:
        """The box of the run's hypervolume."""
        assert self.run.box is not None, "a run with a front has figures"
        return self.run.box

    @property
    def hypervolume(self) -> float:
        """Hypervolume of the front in the run's own box, as in the search's last line and in ``progress.csv``."""
        return hypervolume(self.F[self.front], self.box)

    @property
    def changing(self) -> str:
        """What changed since the earlier evaluations: ``weights`` where they are trained meanwhile, else settings."""
        return "weights" if CO_TRAINED_WEIGHTS in self.run.problem.evaluator.provides else "settings"

    @property
    def others(self) -> np.ndarray:
        """Positions in ``rows`` of the networks that are not on the front."""
        return np.setdiff1d(np.arange(len(self.rows)), self.front)

    @property
    def evaluated(self) -> str:
        """The name of ``others`` in a legend."""
        return f"others, with the last {self.changing}" if self.n_earlier else "other networks"

    def column(self, name: str) -> np.ndarray:
        """Values ``(n,)`` of an objective or a recorded figure, NaN where a row has none."""
        return np.array([figures.get(name, np.nan) for figures in self.figures])

    @functools.cached_property
    def figures(self) -> list[dict[str, float]]:
        """Every number of each row by name, from ``figures_of``; collected once for all pictures."""
        return [figures_of(row) for row in self.rows]

    @property
    def reported(self) -> list[str]:
        """Names of the figures measured on the front only, one per strength where there are several."""
        return reported_columns(self.run.problem.reported, [self.figures[position] for position in self.front])

    def attacked(self) -> str:
        """One sentence that says which figures are measured under attack, and under which attack."""
        problem = self.run.problem
        told = [(o, "") for o in (*problem.objectives, *problem.recorded)]
        known = [name for row in self.figures for name in row]
        told += [(o, ", measured on the front only") for o in problem.reported if o.name in known]
        found = [f"{words(o.name)} is {o.attacked}{more}" for o, more in told if not o.stand_in and o.attacked]
        if not found:
            return "What was attacked: nothing; these figures say nothing about robustness."
        return f"What was attacked: {'; '.join(found)}."

    def quantities(self) -> list[Quantity]:
        """How each objective is shown."""
        return [quantity(n, self.unit(n), self.F[:, j]) for j, n in enumerate(self.run.objectives)]

    def unit(self, name: str) -> str:
        """Unit of an objective or figure; for FLOPs the counting rule; empty where no unit is known."""
        problem = self.run.problem
        measured = (*problem.objectives, *problem.recorded, *problem.reported)
        objective = next((o for o in measured if o.name == name), None)
        if objective is None:  # a part of a reported objective has the objective's unit
            objective = next((o for o in problem.reported if name.startswith(f"{o.name}.")), None)
        if objective is None:
            # evaluators record the FLOPs of every network under the default rule
            return Flops().rule if name == "flops" else ""
        if objective.stand_in and is_share(objective.unit) and not _in_share(self.column(name)):
            return ""  # the record says fraction, but that once was the default of every objective
        return objective.short_unit

    def best(self) -> list[int]:
        """Index on the front of the best network in each objective; a tie goes to the best compromise."""
        F = self.F[self.front]
        ties = [np.flatnonzero(F[:, j] == F[:, j].min()) for j in range(F.shape[1])]
        return [int(tie[knee(F[tie])]) for tie in ties]

    def roles(self) -> dict[int, str]:
        """Labels of special networks by their index on the front: the knee first, then the best of each objective."""
        roles = {self.knee: ["best compromise"]} if self.F.shape[1] > 1 else {}
        for shown, index in zip(self.quantities(), self.best(), strict=True):
            roles.setdefault(index, []).append(f"lowest {shown.words}")
        return {index: ", ".join(words) for index, words in roles.items()}

    def summary(self) -> str:
        """How much was evaluated, such as ``120 networks evaluated, 14 on the front``.

        Where weights changed: ``58 networks evaluated 110 times, 90 times with earlier weights, 5 on the front``.
        """
        # only where survivors are measured again with new weights are there more evaluations than networks
        networks = len({row["architecture"] for row in self.run.evaluations}) if self.n_earlier else self.n_asked
        parts = [f"{networks} network{'s' * (networks != 1)} evaluated"]
        if self.n_earlier:
            parts = [f"{parts[0]} {self.n_asked} times", f"{self.n_earlier} times with earlier {self.changing}"]
        if self.n_failed:
            parts.append(f"{self.n_failed} failed, rejected or outside the constraints")
        return ", ".join([*parts, f"{len(self.front)} on the front"])


def _in_share(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values <= 1) | np.isnan(values)).all())


def columns(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> np.ndarray:
    """Values ``(n, m)`` of objectives or recorded figures, NaN where a row lacks one."""
    found = [figures_of(row) for row in rows]
    return np.array([[figures.get(name, np.nan) for name in names] for figures in found]).reshape(-1, len(names))


def view_of(run: Run, name: str | None = None) -> View:
    """The view of a run.

    Raises:
        UserError: it has no successful evaluation.
    """
    if not run.front:
        raise UserError(f"{run.folder}: nothing to draw, {_why_empty(run)}")
    # one fingerprint only: figures from another budget or other shared weights do not compare with the front's
    fingerprint = run.front[0]["fingerprint"]
    rows = [row for row in run.ok() if row["fingerprint"] == fingerprint]
    place = {row["id"]: i for i, row in enumerate(rows)}
    order = {row["id"]: i + 1 for i, row in enumerate(run.evaluations)}
    F = objective_matrix(rows, run.objectives)
    front = np.array([place[row["id"]] for row in run.front])
    asked = np.array([order[row["id"]] for row in rows])
    return View(name or folder_name(run.folder), run, rows, F, asked, front, knee(F[front]))


def _why_empty(run: Run) -> str:
    if not run.evaluations:
        return "no candidate has been evaluated yet; the command that began this run resumes it"
    beyond = [row["constraints"] for row in run.evaluations if row["status"] == "ok"]
    if beyond:
        closest = min(beyond, key=lambda violations: max(violations.values()))
        broken = ", ".join(f"{name} by {value:.3g}" for name, value in closest.items() if value > 0)
        return f"none of {len(run.evaluations)} networks meets the constraints; the nearest one breaks {broken}"
    reason = next((row["error"] for row in run.evaluations if row.get("error")), None)
    return f"none of {len(run.evaluations)} evaluations succeeded" + (f"; the first reason: {reason}" if reason else "")


def folder_name(folder: Path) -> str:
    """Last part of a folder's path; for ``.`` too, the real name."""
    return folder.resolve().name or str(folder)


def names_of(folders: Sequence[Path]) -> list[str]:
    """A short, distinct name for each run: its folder's name, with parent folders where two are equal."""
    paths = [folder.resolve().parts for folder in folders]
    if len(set(paths)) < len(paths):
        raise UserError("expected different runs, got the same folder twice")
    for depth in range(1, max(map(len, paths)) + 1):
        names = ["/".join(parts[-depth:]) for parts in paths]
        if len(set(names)) == len(names):
            break
    return names
