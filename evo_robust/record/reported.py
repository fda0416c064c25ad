"""Reported figures: measured after the search, on the networks of its front only, and kept beside the ledger."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evo_robust.evaluators.base import Evaluation
from evo_robust.files import naming
from evo_robust.objectives.base import Objective
from evo_robust.parts.base import UserError, digest
from evo_robust.parts.strict_json import fault, is_absent_or_text, is_number, is_object, is_text, parse_json

REPORTED_FILE = "reported.jsonl"

_LINE = {
    "architecture": (is_text, "a notation"),
    "fingerprint": (is_text, "text"),
    "objective": (is_text, "a name"),
    "settings": (is_text, "text"),
    "value": (lambda value: value is None or is_number(value), "a number or null"),
    "figures": (is_object, "figures by name"),
    "error": (is_absent_or_text, "text or null"),
}


class Reports:
    """The reported figures of a run folder, one line for each network and objective.

    A line belongs to the ledger's row of the same architecture and fingerprint. It counts as long as the problem
    reports the same objective with the same settings. With other settings the objective is measured again, and the
    old lines stay.

    Args:
        folder: the run folder.
        objectives: the objectives that the problem reports.

    Raises:
        UserError: a damaged line that is not the last one.
    """

    def __init__(self, folder: Path, objectives: Sequence[Objective]) -> None:
        self.path, self.objectives = folder / REPORTED_FILE, tuple(objectives)
        self._settings = {o.name: None if o.stand_in else digest(type(o).__name__, o) for o in objectives}
        self._lines, self._good = _read(self.path)

    def missing(self, row: Mapping[str, Any]) -> list[Objective]:
        """Objectives not measured yet for a row of the ledger; one that failed is not tried again."""
        known = self._of(row)
        return [objective for objective in self.objectives if objective.name not in known]

    def attached(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its reported values under ``reported``, and their details among its figures."""
        known = self._of(row)
        values = {name: line["value"] for name, line in known.items() if line["value"] is not None}
        if not values:
            return row
        figures = {name: value for name in values for name, value in known[name]["figures"].items()}
        return {**row, "reported": values, "figures": {**row["figures"], **figures}}

    def add(self, row: Mapping[str, Any], objective: Objective, found: Evaluation) -> None:
        """Append a line. When this returns, the operating system has it."""
        name = objective.name
        ok = found.status == "ok"
        line = {
            "id": row["id"],
            "architecture": row["architecture"],
            "fingerprint": row["fingerprint"],
            "objective": name,
            "settings": self._settings[name],
            "value": found.recorded[name] if ok else None,
            "figures": {name: found.figures[name]} if ok and name in found.figures else {},
            "seconds": found.seconds,
            "error": found.error,
        }
        with naming(self.path), self.path.open("ab") as file:
            file.truncate(self._good)  # drop the unfinished line of a killed process
            file.seek(0, 2)
            text = json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
            file.write(text)
        self._good += len(text)
        self._lines.append(line)

    def _of(self, row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Lines of a row by objective, for the problem's present settings only."""
        key = (row["architecture"], row["fingerprint"])
        return {
            line["objective"]: line
            for line in self._lines
            if (line["architecture"], line["fingerprint"]) == key and self._counts(line)
        }

    def _counts(self, line: Mapping[str, Any]) -> bool:
        name = line["objective"]
        # a stand-in does not know its settings, so only its name is compared
        return name in self._settings and self._settings[name] in (None, line["settings"])


def reported_columns(objectives: Sequence[Objective], rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Names of reported numbers: the parts of each objective (one per strength), or its value where it has no parts.

    Args:
        objectives: the objectives that the problem reports.
        rows: every number of each row by name.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    found = ([name for name in names if name.startswith(f"{o.name}.")] or [o.name] for o in objectives)
    return [name for parts in found for name in parts if name in names]


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Lines of the file, and the number of bytes in whole lines (an unfinished last line is left out)."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    found, good = [], 0
    for number, text in enumerate(data.split(b"\n")[:-1], 1):
        try:
            line = parse_json(text)
            wrong = (
                fault(line, _LINE, {"error": None}) if isinstance(line, dict) else "expected one JSON object per line"
            )
        except ValueError as error:
            wrong = str(error)
        if wrong:
            raise UserError(f"{path}, line {number} is damaged: {wrong}. Remove the line to measure it again")
        found.append(line)
        good += len(text) + 1
    return found, good
