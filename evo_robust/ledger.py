"""A run folder, read: what was asked, every evaluation, the front."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evo_robust.indicators import nondominated, objective_matrix
from evo_robust.parts import UserError
from evo_robust.problem import Problem, problem_from_dict

SCHEMA = 1
PROBLEM_FILE = "problem.json"
LEDGER_FILE = "evaluations.jsonl"
DERIVED_FILE = "distribution.csv"

_ROW_KEYS = ("id", "generation", "genome", "architecture", "objectives", "status", "fingerprint")


@dataclasses.dataclass(frozen=True)
class Run:
    """A run folder, read.

    Attributes:
        folder: where it is.
        info: ``problem.json``.
        problem: the problem that was searched.
        evaluations: the ledger's rows, by id.
        front: the non-dominated feasible rows among those with status ``ok``, in order of the first objective.
        objectives: their names, in declared order.
    """

    folder: Path
    info: dict[str, Any]
    problem: Problem
    evaluations: list[dict[str, Any]]
    front: list[dict[str, Any]]
    objectives: list[str]

    def ok(self) -> list[dict[str, Any]]:
        """Rows with figures that meet the constraints."""
        return [row for row in self.evaluations if usable(row)]


def usable(row: Mapping[str, Any]) -> bool:
    """Whether a row has figures and meets the constraints."""
    return row["status"] == "ok" and all(g <= 0 for g in row.get("constraints", {}).values())


def comparable(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Feasible rows of one fingerprint, the latest: figures of two budgets or supernet versions are not comparable."""
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
    """The row of the architecture that the search's distribution stands for in the end.

    Raises:
        UserError: the search has no distribution, or the architecture has no figures beside those of the front.
    """
    path = run.folder / DERIVED_FILE
    if not path.is_file() and run.problem.algorithm.co_trains:
        raise UserError(
            f"pick=derived: {run.folder} has no {DERIVED_FILE} yet, which comes with its first generation: the command "
            "that began this run goes on with it"
        )
    if not path.is_file():
        raise UserError(
            f"pick=derived: {run.folder} has no {DERIVED_FILE}: expected a search whose algorithm moves a distribution "
            f"(GradientHybrid), got {type(run.problem.algorithm).__name__}"
        )
    with path.open(encoding="utf-8", newline="") as file:
        architecture = list(csv.DictReader(file))[-1]["architecture"]
    for row in comparable(run.evaluations):
        if row["architecture"] == architecture:
            return row
    raise UserError(
        f"pick=derived: {architecture} was not measured with success in the last generation (algorithm.share=0 draws "
        "nothing from the distribution; a constraint may reject it)"
    )


def load_run(folder: str | Path) -> Run:
    """Read a run folder; a torn last line of the ledger is left out.

    Raises:
        UserError: no run folder, or a damaged file in it.
    """
    folder = Path(folder)
    path = folder / PROBLEM_FILE
    if not path.is_file():
        raise UserError(f"{folder} is no run folder: expected {PROBLEM_FILE} in it (made by evo_robust.run)")
    info = read_problem(path)
    try:
        problem = problem_from_dict(info)
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    rows, _ = read_ledger(folder / LEDGER_FILE)
    names = [o.name for o in problem.objectives]
    for row in rows:
        if row["status"] == "ok" and any(name not in row["objectives"] for name in names):
            raise UserError(f"{folder / LEDGER_FILE}: evaluation {row['id']} lacks one of {', '.join(names)}")
    return Run(folder, info, problem, rows, front_of(rows, names), names)


def read_problem(path: Path) -> dict[str, Any]:
    """``problem.json`` of a run folder.

    Raises:
        UserError: it is damaged or of another schema.
    """
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(info, dict) or info.get("schema") != SCHEMA or not isinstance(info.get("values"), dict):
        found = info.get("schema") if isinstance(info, dict) else type(info).__name__
        raise UserError(f"{path}: expected a run of schema {SCHEMA}, got {found}")
    return info


def read_ledger(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Rows sorted by id, and the number of good bytes (a torn last line is not counted).

    Raises:
        UserError: a damaged line that is not the last one, or two different rows with one id.
    """
    if not path.exists():
        return [], 0
    data = path.read_bytes()
    rows: dict[int, dict[str, Any]] = {}
    good = 0
    lines = data.split(b"\n")
    # after the last newline stands either nothing or what a killed process could not finish
    for number, line in enumerate(lines[:-1], 1):
        row = _parse_row(line)
        if row is None:
            raise UserError(
                f"{path}, line {number} is damaged: expected one JSON object per line with the keys "
                f"{', '.join(_ROW_KEYS)}. Nothing was changed; restore the line or remove it to evaluate it again"
            )
        if row["id"] in rows:
            raise UserError(f"{path}, line {number} is damaged: id {row['id']} stands there a second time")
        rows[row["id"]] = row
        good += len(line) + 1
    return [rows[i] for i in sorted(rows)], good


def _parse_row(line: bytes) -> dict[str, Any] | None:
    """The row, or None where it is not what ``Record.add`` writes."""
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return None
    if not isinstance(row, dict) or any(key not in row for key in _ROW_KEYS):
        return None
    values = row["objectives"]
    sound = (
        isinstance(row["id"], int)
        and isinstance(row["generation"], int)
        and isinstance(row["architecture"], str)
        and row["status"] in ("ok", "failed", "rejected")
        and isinstance(values, dict)
        and isinstance(row.get("constraints", {}), dict)
        and isinstance(row.get("figures", {}), dict)
        and (bool(values) or row["status"] != "ok")
        and all(isinstance(v, (int, float)) and math.isfinite(v) for v in values.values())
    )
    return row if sound else None
