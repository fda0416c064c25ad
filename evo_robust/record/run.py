"""A run folder as a value: every evaluation, the front, a table of both, and networks with their weights."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from evo_robust.objectives.figures import figures_of
from evo_robust.parts.base import UserError
from evo_robust.parts.facts import DISTRIBUTION
from evo_robust.parts.plain import visible, without_numpy
from evo_robust.problem.value import Problem
from evo_robust.progress import Say, silent
from evo_robust.record.indicators import Box, nondominated, objective_matrix, pick, spelt_pick
from evo_robust.record.rebuild import rebuild

if TYPE_CHECKING:
    from pandas import DataFrame

PROGRESS_FILE = "progress.csv"
DERIVED_FILE = "distribution.csv"

Which = Literal["front", "all"]
"""Which evaluations of a run: those of its front, or all of them."""

_ABOUT = ("id", "generation", "architecture", "status", "seconds", "seed", "error", "fingerprint")


@dataclasses.dataclass(frozen=True, repr=False)
class Run:
    """A run folder, read: what :func:`evo_robust.search` and :func:`evo_robust.load_run` return.

    Example:
        >>> run = load_run("runs/roco-demo")
        >>> run
        Run(roco demo: 96 evaluations, 14 on the front, runs/roco-demo)
        >>> run.table()[0]["clean_error"]
        0.0487
        >>> model = run.network("knee")

    Attributes:
        folder: the run folder.
        info: content of ``problem.json``.
        problem: the problem that was searched.
        evaluations: the ledger's rows, by id.
        front: the non-dominated feasible rows among those with status ``ok``, in order of the first objective.
        objectives: names of the objectives, in declared order.
        missing: which parts of the problem could not be read, in words, because the Python file that defines them was
            not run. Such a run can be listed and drawn, but not exported. None where nothing is missing.
        box: the box of its hypervolume; None while no evaluation has figures.
    """

    folder: Path
    info: dict[str, Any]
    problem: Problem
    evaluations: list[dict[str, Any]]
    front: list[dict[str, Any]]
    objectives: list[str]
    missing: str | None = None
    box: Box | None = None

    def ok(self) -> list[dict[str, Any]]:
        """Rows with status ``ok`` that meet the constraints."""
        return [row for row in self.evaluations if usable(row)]

    def __repr__(self) -> str:
        problem = self.problem
        named = f"{self.info['problem']} {self.info.get('scale') or ''}".strip() if self.info.get("problem") else ""
        what = named or f"{type(problem.space).__name__} on {problem.data.name}"
        size = f"{len(self.evaluations)} evaluations, {len(self.front)} on the front"
        return visible(f"Run({what}: {size}, {self.folder})").replace("\n", "\\n")

    def table(self, which: Which = "front") -> list[dict[str, Any]]:
        """The networks as plain records. All have the same keys, and all values are JSON values.

        Each record holds ``index`` (the position on the front, as ``network`` takes it; None off the front), ``id``,
        ``generation``, ``architecture``, ``status``, ``seconds``, ``seed``, ``error`` and ``fingerprint``. Then comes
        every number by name: objectives, recorded objectives, other figures (parts of a figure after a dot, such as
        ``robust_error.0.05``), and constraints as ``constraints.NAME`` (met where <= 0). Values are as recorded, so
        errors are shares in [0, 1]. A number that an evaluation lacks is None.

        Args:
            which: ``front``, in its order; or ``all`` evaluations by id, including failed ones.

        Raises:
            UserError: ``which`` is neither.

        Example:
            >>> [(row["index"], row["params"]) for row in run.table()[:2]]
            [(0, 48210.0), (1, 31434.0)]
        """
        if which not in ("front", "all"):
            raise UserError(f"expected which='front' or which='all', got {which!r}")
        place = {row["id"]: index for index, row in enumerate(self.front)}
        rows = self.front if which == "front" else self.evaluations
        numbers = [_numbers(row) for row in rows]
        names = dict.fromkeys([*map(_column, self.objectives), *(name for found in numbers for name in found)])
        return [
            {"index": place.get(row["id"]), **{key: row.get(key) for key in _ABOUT}}
            | {name: found.get(name) for name in names}
            for row, found in zip(rows, numbers, strict=True)
        ]

    def to_pandas(self, which: Which = "front") -> DataFrame:
        """The same as ``table``, as a pandas frame with one row per network.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise UserError("to_pandas needs pandas: pip install pandas (table() gives the same without it)") from None
        return pandas.DataFrame.from_records(self.table(which))

    def chosen(self, spec: str | int = "knee") -> dict[str, Any]:
        """The evaluation that a pick names, with all that the ledger holds of it; see ``network``.

        Raises:
            UserError: the front is empty, or there is no such network.
        """
        spec = without_numpy(spec)
        if isinstance(spec, bool) or not isinstance(spec, (str, int)):
            raise UserError(f"expected pick to be 'knee', an index or 'best:OBJECTIVE', got {spec!r}")
        spec = spelt_pick(str(spec), self.objectives)
        return derived_of(self) if spec == "derived" else self.front[pick(spec, self)]

    def network(self, pick: str | int = "knee", device: str = "auto", say: Say = silent) -> nn.Module:
        """A network of the front with the weights it had in the search, in eval mode on the CPU.

        The search does not keep the weights of candidates. They are made again, from the same random numbers. That
        takes as long as the candidate's training took in the search (most of ``seconds`` in its record); inherited
        weights take moments. Another machine or another version of torch gives similar, but not identical weights.

        Args:
            pick: ``knee`` (the best compromise), an index on the front such as ``3``, ``best:OBJECTIVE``, or
                ``derived`` (the most likely architecture of a GradientHybrid's distribution), as in
                ``evo_robust.export``.
            device: where to compute: ``auto`` (as the search did, if possible), ``cpu``, ``cuda`` or ``cuda:INDEX``.
            say: called with each line of progress text.

        Raises:
            UserError: there is no such network, parts of the problem are missing, or the weights cannot be made again.
        """
        if self.missing:
            raise UserError(self.missing)
        model, _ = rebuild(self, self.chosen(pick), device, say)
        return model.cpu().eval()


def _column(name: str) -> str:
    """The column for a number. A name that another column already has gets a prefix."""
    return f"figures.{name}" if name in ("index", *_ABOUT) else name


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Every number of a row by its column."""
    found = {_column(name): value for name, value in figures_of(row).items()}
    return found | {f"constraints.{name}": float(value) for name, value in row.get("constraints", {}).items()}


def past_seconds(path: Path) -> dict[int, float]:
    """Seconds by generation of an earlier progress.csv; empty where there is none."""
    if not path.exists():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            found = {int(row["generation"]): float(row["seconds"]) for row in csv.DictReader(file)}
    except (KeyError, TypeError, ValueError, csv.Error):
        return {}  # the ledger decides; this file is written again
    return {generation: seconds for generation, seconds in found.items() if math.isfinite(seconds)}


def usable(row: Mapping[str, Any]) -> bool:
    """Whether a row has status ``ok`` and meets the constraints."""
    return row["status"] == "ok" and all(g <= 0 for g in row.get("constraints", {}).values())


def comparable(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Feasible rows of the latest fingerprint. Figures from other budgets or other shared weights do not compare."""
    rows = [row for row in rows if usable(row)]
    if not rows:
        return []
    latest = max(rows, key=lambda row: row["id"])["fingerprint"]
    return [row for row in rows if row["fingerprint"] == latest]


def front_of(rows: Sequence[dict[str, Any]], objectives: Sequence[str]) -> list[dict[str, Any]]:
    """Non-dominated feasible rows of one fingerprint, in order of the first objective."""
    rows = comparable(rows)
    front = [rows[i] for i in nondominated(objective_matrix(rows, objectives))]
    return sorted(front, key=lambda row: ([row["objectives"][name] for name in objectives], row["id"]))


def derived_of(run: Run) -> dict[str, Any]:
    """The row of the most likely architecture of the search's distribution, after its last generation.

    Raises:
        UserError: the search has no distribution, or the architecture has no figures that compare with the front's.
    """
    path = run.folder / DERIVED_FILE
    if not path.is_file() and DISTRIBUTION in run.problem.algorithm.provides:
        raise UserError(
            f"pick=derived: {run.folder} has no {DERIVED_FILE} yet. Its first generation writes it; the command that "
            "began this run resumes it"
        )
    if not path.is_file():
        raise UserError(
            f"pick=derived: {run.folder} has no {DERIVED_FILE}: expected a search whose algorithm moves a distribution "
            f"(GradientHybrid), got {type(run.problem.algorithm).__name__}"
        )
    architecture = _last_derived(path)
    for row in comparable(run.evaluations):
        if row["architecture"] == architecture:
            return row
    raise UserError(
        f"pick=derived: {architecture} has no figures from the last generation (with algorithm.share=0 nothing is "
        "drawn from the distribution; or a constraint rejected it)"
    )


def _last_derived(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return str(list(csv.DictReader(file))[-1]["architecture"])
    except (UnicodeDecodeError, csv.Error, LookupError):
        raise UserError(
            f"{path} is damaged: expected lines with an 'architecture'; the command that began this run writes it again"
        ) from None
