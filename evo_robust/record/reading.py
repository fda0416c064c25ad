"""Reads a run folder. Its files may come from a stranger; a damaged one is named."""

from __future__ import annotations

import functools
import json
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evo_robust.parts.base import UserError, changed, dotted
from evo_robust.parts.plain import first_of
from evo_robust.parts.strict_json import (
    are_numbers,
    fault,
    is_absent_or_label,
    is_absent_or_path,
    is_absent_or_text,
    is_number,
    is_object,
    is_text,
    is_whole,
    parse_json,
    read_json,
    shown,
)
from evo_robust.problem.files import problem_from_dict
from evo_robust.problem.value import Problem, missing_of
from evo_robust.record.box import box_of
from evo_robust.record.reported import Reports
from evo_robust.record.run import Run, front_of, usable
from evo_robust.spaces.base import SearchSpace

SCHEMA = 1
PROBLEM_FILE = "problem.json"
LEDGER_FILE = "evaluations.jsonl"
IMAGES = "data.content"
"""Key of ``identity`` in problem.json: digest of the images; absent where the settings say which they are."""

LARGEST = 10_000_000
"""Upper bound of the numbers of evaluations and generations; a ledger of so many lines could not be read."""


def _are_figures(value: object) -> bool:
    """Whether a value holds figures by name; ``params`` and ``flops``, which all searches record, must be valid."""
    if not isinstance(value, dict):
        return False
    return all(is_number(count) and count >= 0 for name, count in value.items() if name in ("params", "flops"))


_STATUSES = ("ok", "failed", "rejected")
_COUNT = functools.partial(is_whole, smallest=0, beyond=LARGEST)
_ROW = {
    "id": (_COUNT, f"a whole number from 0 to {LARGEST - 1:,}"),
    "generation": (_COUNT, f"a whole number from 0 to {LARGEST - 1:,}"),
    "genome": (lambda genes: isinstance(genes, list) and set(map(type, genes)) == {int}, "whole numbers"),
    "architecture": (is_text, "a notation"),
    "status": (lambda status: status in _STATUSES, "one of " + ", ".join(_STATUSES)),
    "objectives": (are_numbers, "finite numbers by name"),
    "constraints": (are_numbers, "finite numbers by name"),
    "recorded": (are_numbers, "finite numbers by name"),
    "figures": (_are_figures, "figures by name, of which params and flops are numbers >= 0"),
    "seconds": (lambda seconds: is_number(seconds) and seconds >= 0, "a number >= 0"),
    "seed": (lambda seed: is_whole(seed, 0), "a whole number >= 0"),
    "error": (is_absent_or_text, "text or null"),
    "fingerprint": (is_text, "text"),
}
# what rows may lack, and its default
_ROW_DEFAULTS: dict[str, Any] = {"constraints": {}, "recorded": {}, "seconds": 0.0, "seed": 0, "error": None}


def _are_objectives(value: object) -> bool:
    """Whether a value describes objectives as ``problem_to_dict`` does; early files held no units."""
    if not isinstance(value, list) or not all(map(is_object, value)):
        return False
    return all(is_absent_or_label(told.get(key)) for told in value for key in ("name", "unit"))


_INFO = {
    "schema": (lambda schema: schema == SCHEMA, f"a run of schema {SCHEMA}"),
    "values": (is_object, "the problem's values"),
    "identity": (is_object, "the values that decide the figures"),
    "problem": (is_absent_or_text, "a name or null"),
    "scale": (is_absent_or_text, "a name or null"),
    "objectives": (_are_objectives, "a list of objects whose 'name' and 'unit' are null or text that can be printed"),
    "source": (is_absent_or_path, "a path (without zero bytes, of names of at most 255 bytes) or null"),
    "device": (is_absent_or_text, "a device or null"),
    "command": (is_absent_or_text, "text or null"),
    "versions": (is_object, "versions by name"),
    "sessions": (lambda sessions: isinstance(sessions, list) and all(map(is_object, sessions)), "a list of objects"),
}
_INFO_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(("problem", "scale", "source", "device", "command")),
    "objectives": [],
    "versions": {},
    "sessions": [],
}


def load_run(folder: str | Path, *, trust: bool = False) -> Run:
    """Read a run folder. An unfinished last line of the ledger is left out.

    Args:
        folder: the run folder.
        trust: run the Python file that the problem came from, wherever it lies; see ``problem_from_dict``.

    Raises:
        UserError: this is no run folder, or a file in it is damaged.

    Example:
        >>> len(load_run("runs/roco-demo").front)
        14
    """
    folder = Path(folder)
    path = folder / PROBLEM_FILE
    if not path.is_file():
        inside = folder.is_file() and (folder.parent / PROBLEM_FILE).is_file()
        hint = (
            f": did you mean {folder.parent}?" if inside else f": expected {PROBLEM_FILE} in it, which a search writes"
        )
        raise UserError(f"{folder} is no run folder{hint}")
    info = read_problem(path)
    try:
        problem = problem_from_dict(info, trust=trust, stand_ins=True)
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    missing = missing_of(problem)
    check_identity(info, problem, path)
    # a stand-in cannot check genomes
    rows, _ = read_ledger(folder / LEDGER_FILE, None if problem.space.stand_in else problem.space)
    names = [o.name for o in problem.objectives]
    _check_rows(rows, problem, folder / LEDGER_FILE)
    reports = Reports(folder, problem.reported)
    rows = [reports.attached(row) for row in rows]
    box = box_of(folder, [row for row in rows if usable(row)], names)
    return Run(folder, info, problem, rows, front_of(rows, names), names, missing, box)


def _check_rows(rows: Sequence[Mapping[str, Any]], problem: Problem, path: Path) -> None:
    """Refuse rows with status ``ok`` that lack an objective or constraint of the problem."""
    names = {"objectives": [o.name for o in problem.objectives], "constraints": [c.name for c in problem.constraints]}
    for row in rows:
        if row["status"] != "ok":
            continue
        for key, wanted in names.items():
            if missing := [name for name in wanted if name not in row.get(key, {})]:
                raise UserError(f"{path}: evaluation {row['id']} lacks {missing[0]!r} under {key!r}")


def read_problem(path: Path) -> dict[str, Any]:
    """``problem.json`` of a run folder.

    Raises:
        UserError: it is damaged or of another schema.
    """
    info = read_json(path, f"a run of schema {SCHEMA}")
    if wrong := fault(info, _INFO, _INFO_DEFAULTS):
        raise UserError(f"{path} is no run's: {wrong}")
    return info


OWN = ("schema", "values", "identity", "objectives", "constraints", "draws", "versions", "device", "sessions")
"""Entries of ``problem.json`` that a search writes itself."""


def check_entries(info: Mapping[str, Any]) -> None:
    """Refuse entries for ``problem.json`` with which it could not be read again.

    Raises:
        UserError: naming the first one.
    """
    for key in info:
        if not isinstance(key, str):
            raise UserError(f"info: expected texts as keys, got {key!r}")
        if key in OWN:
            raise UserError(f"info: {key!r} is what a search writes itself: leave it out, or take another name")
    if wrong := fault(info, {key: _INFO[key] for key in _INFO if key not in OWN}, _INFO_DEFAULTS):
        raise UserError(f"info: {wrong}")
    try:
        parse_json(json.dumps(info, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"info: expected what JSON can hold ({error})") from None


def check_identity(info: Mapping[str, Any], problem: Problem, path: Path) -> None:
    """Refuse a ``problem.json`` whose ``identity`` and ``values`` differ: its figures belong to another search.

    Args:
        info: what the file holds.
        problem: the problem that its ``values`` describe.
        path: the file, for the message.

    Raises:
        UserError: they differ; the message names the first such values.
    """
    known, values = {key: value for key, value in info["identity"].items() if key != "device"}, info["values"]
    if missing_of(problem) is None:
        present = dotted(problem, identity=True)
        # fields added after the file was written are in neither of them
        written = {key: value for key, value in present.items() if key in known or key in values}
        if problem.data.content:
            written[IMAGES] = problem.data.content
    else:  # a stand-in does not know its identity, so only keys that both have are compared
        known = {key: value for key, value in known.items() if key in values}
        written = {key: values[key] for key in known}
    if differences := changed(known, written):
        raise UserError(
            f"{path} was edited: its 'identity' and 'values' differ: {first_of(differences, 3)}. "
            "Restore the file, or begin another run"
        )


def read_ledger(path: Path, space: SearchSpace | None = None) -> tuple[list[dict[str, Any]], int]:
    """Rows sorted by id, and the number of bytes in whole lines (an unfinished last line is left out).

    Args:
        path: the ledger; a missing file counts as one without rows.
        space: the search space. Without it, genomes are not checked against the architectures.

    Raises:
        UserError: a damaged line that is not the last one, or two different rows with one id.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    rows: dict[int, dict[str, Any]] = {}
    good = 0
    lines = data.split(b"\n")
    # after the last newline there is either nothing or the unfinished line of a killed process
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = _parse_row(line, space)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number} is damaged: {error}. Nothing was changed; restore the line, or remove it and "
                "its network is evaluated again"
            ) from None
        if row["id"] in rows:
            raise UserError(f"{path}, line {number} is damaged: it repeats id {row['id']}")
        rows[row["id"]] = row
        good += len(line) + 1
    return [rows[i] for i in sorted(rows)], good


def _parse_row(line: bytes, space: SearchSpace | None) -> dict[str, Any]:
    """A row as ``Record.add`` writes it.

    Raises:
        ValueError: the line is no such row; the message says what is wrong.
    """
    row = parse_json(line)
    if not isinstance(row, dict):
        raise ValueError(f"expected one JSON object per line, got {shown(row)}")
    if wrong := fault(row, _ROW, _ROW_DEFAULTS):
        raise ValueError(wrong)
    if row["status"] == "ok" and not row["objectives"]:
        raise ValueError("its status is ok, but it has no objectives")
    if space is not None:
        _check_genome(row, space)
    return row


def _check_genome(row: Mapping[str, Any], space: SearchSpace) -> None:
    genome, choices = row["genome"], space.n_choices
    if len(genome) != len(choices):
        raise ValueError(f"its genome has {len(genome)} genes, expected the space's {len(choices)}")
    if min(genome) < 0 or any(map(operator.ge, genome, choices)):
        i = next(i for i, gene in enumerate(genome) if not 0 <= gene < choices[i])
        raise ValueError(f"gene {i} of its genome is {shown(genome[i])}, expected 0 to {choices[i] - 1}")
    if row["status"] != "ok":  # an architecture that cannot be built has no text
        return
    text = space.to_text(space.decode(np.array(genome)))
    if text != row["architecture"]:
        raise ValueError(f"its genome is that of {shown(text)}, its architecture {shown(row['architecture'])}")
