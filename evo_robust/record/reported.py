"""What was measured on the networks of a run's front alone, when the search was over: a file beside the ledger."""

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

    A line belongs to the ledger's row of the same architecture and fingerprint. It counts while the problem reports
    the same objective with the same settings: other settings are measured anew, and the old lines stay.

    Args:
        folder: the run folder.
        objectives: what the problem reports.

    Raises:
        UserError: a damaged line that is not the last one.
    """

    def __init__(self, folder: Path, objectives: Sequence[Objective]) -> None:
        self.path, self.objectives = folder / REPORTED_FILE, tuple(objectives)
        self._settings = {o.name: None if o.stand_in else digest(type(o).__name__, o) for o in objectives}
        self._lines, self._good = _read(self.path)

    def missing(self, row: Mapping[str, Any]) -> list[Objective]:
        """What has not been measured of a ledger's row; what failed once is not tried again."""
        known = self._of(row)
        return [objective for objective in self.objectives if objective.name not in known]

    def attached(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its reported values under ``reported``, and what they say beside among its figures."""
        known = self._of(row)
        values = {name: line["value"] for name, line in known.items() if line["value"] is not None}
        if not values:
            return row
        figures = {name: value for name in values for name, value in known[name]["figures"].items()}
        return {**row, "reported": values, "figures": {**row["figures"], **figures}}

    def add(self, row: Mapping[str, Any], objective: Objective, found: Evaluation) -> None:
        """Append a line; it is in the operating system's hands when this returns."""
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
            file.truncate(self._good)  # what a killed process could not finish
            file.seek(0, 2)
            text = json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
            file.write(text)
        self._good += len(text)
        self._lines.append(line)

    def _of(self, row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Lines of a row by objective, those of the problem's present settings."""
        key = (row["architecture"], row["fingerprint"])
        return {
            line["objective"]: line
            for line in self._lines
            if (line["architecture"], line["fingerprint"]) == key and self._counts(line)
        }

    def _counts(self, line: Mapping[str, Any]) -> bool:
        name = line["objective"]
        # a stand-in does not know its settings; its name has to do
        return name in self._settings and self._settings[name] in (None, line["settings"])


def reported_columns(objectives: Sequence[Objective], rows: Sequence[Mapping[str, float]]) -> list[str]:
    """Names of reported numbers: of each objective its parts (strengths), or its value where it has none.

    Args:
        objectives: what the problem reports.
        rows: every number of each row by name.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    found = ([name for name in names if name.startswith(f"{o.name}.")] or [o.name] for o in objectives)
    return [name for parts in found for name in parts if name in names]


def _read(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Lines of the file, and the number of its good bytes (a torn last line is not counted)."""
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
