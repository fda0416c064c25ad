"""The box of a run's hypervolume: fixed when its first generation is over, and kept in the run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evo_robust.files import write_json
from evo_robust.parts.base import UserError
from evo_robust.parts.strict_json import are_numbers, fault, read_json
from evo_robust.record.indicators import Box, first_box, objective_matrix

BOX_FILE = "hypervolume.json"
_SCHEMA = 1
_WHAT = "the box of a run's hypervolume"
_EXPECTED = {
    "schema": (lambda schema: schema == _SCHEMA, f"{_WHAT} of schema {_SCHEMA}"),
    "ideal": (are_numbers, "finite numbers by objective"),
    "reference": (are_numbers, "finite numbers by objective"),
}


def box_of(folder: Path, usable: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Box | None:
    """The box of a run: the one in its folder, else that of its first generation; None while there are no figures.

    Args:
        folder: the run folder. Early versions kept no box; the box of the first generation is the same.
        usable: rows with figures that meet the constraints.
        names: objectives of the run.

    Raises:
        UserError: the file is damaged, or of other objectives.
    """
    if (kept := kept_box(folder, names)) is not None or not usable:
        return kept
    first = min(row["generation"] for row in usable)
    return first_box(objective_matrix([row for row in usable if row["generation"] == first], names))


def kept_box(folder: Path, names: Sequence[str]) -> Box | None:
    """The box in the run folder; None where there is no such file.

    Raises:
        UserError: the file is damaged, or of other objectives.
    """
    path = folder / BOX_FILE
    if not path.is_file():
        return None
    advice = "Remove the file; it is made again from the ledger"
    try:
        content = read_json(path, _WHAT)
    except UserError as error:
        raise UserError(f"{error}. {advice}") from None
    if wrong := fault(content, _EXPECTED, {}):
        raise UserError(f"{path} is damaged: {wrong}. {advice}")
    for key in ("ideal", "reference"):
        if sorted(content[key]) != sorted(names):
            told = ", ".join(content[key]) or "none"
            raise UserError(f"{path} is damaged: expected {', '.join(names)} as {key!r}, got {told}. {advice}")
    ideal, reference = (np.array([content[key][name] for name in names], float) for key in ("ideal", "reference"))
    try:
        return Box(ideal, reference)
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}. {advice}") from None


def keep_box(folder: Path, names: Sequence[str], box: Box) -> None:
    """Write the box into the run folder, in the units of the record."""
    ends = {"ideal": box.ideal, "reference": box.reference}
    values = {key: dict(zip(names, map(float, end), strict=True)) for key, end in ends.items()}
    write_json(folder / BOX_FILE, {"schema": _SCHEMA, **values})
