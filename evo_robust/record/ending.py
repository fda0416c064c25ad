"""Whether a search is over: all its generations are done, or its algorithm had nothing new to propose before."""

from __future__ import annotations

from pathlib import Path

from evo_robust.files import write_json
from evo_robust.parts.base import UserError
from evo_robust.parts.strict_json import fault, is_whole, read_json
from evo_robust.record.run import PROGRESS_FILE, Run, past_seconds

ENDED_FILE = "ended.json"
_SCHEMA = 1
_WHAT = "the early end of a search"
_EXPECTED = {
    "schema": (lambda schema: schema == _SCHEMA, f"{_WHAT} of schema {_SCHEMA}"),
    "generations": (lambda n: is_whole(n, 0), "a whole number >= 0"),
}


def keep_early_end(folder: Path, generations: int) -> None:
    """Write into a run folder that its algorithm had nothing new to propose after so many generations."""
    write_json(folder / ENDED_FILE, {"schema": _SCHEMA, "generations": generations})


def ended_early(folder: Path, generations: int) -> bool:
    """Whether a run folder says that its search ended after so many generations, those that it has.

    Folders of earlier versions never say so.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / ENDED_FILE
    if not path.is_file():
        return False
    content = read_json(path, _WHAT)
    if wrong := fault(content, _EXPECTED, {}):
        raise UserError(f"{path} is damaged: {wrong}. Remove it, and repeat the search's command")
    return bool(content["generations"] == generations)


def unfinished(run: Run) -> str | None:
    """A sentence about a search that lacks its last generations; None elsewhere, or where its folder does not tell."""
    done, total = max(past_seconds(run.folder / PROGRESS_FILE), default=None), run.problem.algorithm.n_gen
    if done is None or done >= total:
        return None
    if ended_early(run.folder, done):
        return early_end(run.folder, done, total)
    return f"{run.folder} has {done} of {total} generations: these are its figures so far. Its command resumes it"


def early_end(folder: Path, done: int, total: int) -> str:
    """What to say of a search that ended by itself."""
    return f"{folder} is finished after {done} of {total} generations: its algorithm had no new network to propose"
