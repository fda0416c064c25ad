"""Run folders under a folder, as they stand: read as data, without a line of anybody's code."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from evo_robust.parts.base import UserError
from evo_robust.parts.strict_json import is_whole
from evo_robust.record.ending import ended_early
from evo_robust.record.reading import LARGEST, LEDGER_FILE, PROBLEM_FILE, read_ledger, read_problem
from evo_robust.record.run import PROGRESS_FILE, front_of, past_seconds

DEEPEST = 4
"""Folders inside each other that are looked through for run folders."""

State = Literal["finished", "unfinished", "running", "damaged"]


@dataclasses.dataclass(frozen=True)
class FolderStanding:
    """How a run folder stands.

    Attributes:
        folder: the run folder.
        state: finished: all generations are done, or nothing new was left to propose; running: a process holds it;
            damaged: a file cannot be read; unfinished: none of these. Folders of earlier versions do not tell that
            nothing new was left.
        problem: name and scale of the problem; empty where it had none.
        done: generations that are done.
        total: generations that were asked for; None where it is unknown.
        early: whether it is finished with fewer, because nothing new was left to propose.
        evaluations: rows of the ledger.
        front: networks on the front.
        reason: why it is damaged; empty elsewhere.
    """

    folder: Path
    state: State
    problem: str = ""
    done: int = 0
    total: int | None = None
    early: bool = False
    evaluations: int = 0
    front: int = 0
    reason: str = ""


def run_folders(folder: Path) -> Iterator[Path]:
    """Run folders in a folder, itself included, in order of their names; hidden ones are left out."""
    for place, below, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        if PROBLEM_FILE in files:
            yield Path(place)
        deeper = PROBLEM_FILE not in files and depth < DEEPEST
        below[:] = sorted(name for name in below if not name.startswith(".")) if deeper else []


def standing_of(folder: Path) -> FolderStanding:
    """How a run folder stands."""
    try:
        info = read_problem(folder / PROBLEM_FILE)
        rows, _ = read_ledger(folder / LEDGER_FILE)
        front = front_of(rows, _objectives(info, rows))
        done = max(past_seconds(folder / PROGRESS_FILE), default=0)
        early = ended_early(folder, done)
    except UserError as error:
        return FolderStanding(folder, "damaged", reason=str(error))
    except OSError as error:
        return FolderStanding(folder, "damaged", reason=f"{error.filename or folder}: {error.strerror}")
    except KeyError as error:
        return FolderStanding(folder, "damaged", reason=f"{folder / LEDGER_FILE}: an evaluation lacks {error}")
    total = info["values"].get("algorithm.n_gen")
    total = total if is_whole(total, 1, LARGEST) else None
    whole = total is not None and done >= total
    state: State = "finished" if whole or early else "unfinished"
    if _is_held(folder):
        state = "running"
    problem = " ".join(filter(None, (info.get("problem"), info.get("scale"))))
    return FolderStanding(folder, state, problem, done, total, early and not whole, len(rows), len(front))


def _objectives(info: dict[str, Any], rows: list[dict[str, Any]]) -> list[str]:
    """Names of the objectives; the rows tell them where ``problem.json`` does not."""
    told = [objective.get("name") for objective in info.get("objectives", [])]
    if told and all(isinstance(name, str) for name in told):
        return told
    return next((list(row["objectives"]) for row in rows if row["status"] == "ok"), [])


def _is_held(folder: Path) -> bool:
    """Whether a process that is alive has the folder's lock, by the name that it left in it.

    The lock itself is not tried: a search that begins at that moment would find it taken.
    """
    try:
        text = (folder / "lock").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    match = re.fullmatch(r"process (\d{1,9}) on (.*)\n?", text)
    if match is None or match[2] != platform.node() or os.name == "nt":
        return True  # another machine's, or one that nobody can ask
    try:
        os.kill(int(match[1]), 0)  # sends nothing, and fails where there is no such process
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
