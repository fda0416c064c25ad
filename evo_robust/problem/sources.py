"""Finds the files that define a problem's own parts, which plot and export need to read a run again."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from evo_robust.parts.base import parts_in
from evo_robust.problem.files import own_source
from evo_robust.problem.value import Problem


def source_of(problem: Problem) -> str | None:
    """The file that defines a problem's own parts; None where all parts are from this package.

    A script comes first, since reading it imports the other files with parts. Parts made in a notebook or an
    interpreter have no file; for these, a warning before the search says what to do.
    """
    files: list[str] = []
    nowhere: list[str] = []
    for cls in dict.fromkeys(map(type, parts_in(problem))):
        file = _file_of(cls)
        if file is None:
            nowhere.append(cls.__name__)
        elif (own := own_source(file)) is not None and not _packaged(cls):
            files.append(own)
    if nowhere:
        warnings.warn(
            f"{', '.join(nowhere)}: not defined in a file, so later commands cannot make such parts again. plot draws "
            "the run from its record, but export and retrain refuse it. Define them in a Python file, such as "
            "problems/mine.py, and import them from there",
            stacklevel=3,
        )
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    files.sort(key=lambda file: script is None or file != str(Path(script).resolve()))
    return files[0] if files else None


def _packaged(cls: type) -> bool:
    """Whether a class belongs to this package."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def _file_of(cls: type) -> Path | None:
    """The Python file that defines a class; None where there is no such file."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(file).resolve() if file is not None and Path(file).is_file() else None
