"""Which files define a problem's own parts: what plot and export need to read a run again."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from evo_robust.parts.base import parts_in
from evo_robust.problem.files import own_source
from evo_robust.problem.value import Problem


def source_of(problem: Problem) -> str | None:
    """The file to read so that all parts of a problem are known; None where this package has them all.

    A script comes first, since reading it imports whatever else it took its parts from. Parts that were made in a
    notebook or typed into an interpreter have no file: of them a warning says what to do, before anything is searched.
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
            f"{', '.join(nowhere)}: in no file, so that later commands cannot make such parts again. plot draws "
            "the run from its record, but export and retrain refuse it. Define them in a Python file, such as "
            "problems/mine.py, and import them from there",
            stacklevel=3,
        )
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    files.sort(key=lambda file: script is None or file != str(Path(script).resolve()))
    return files[0] if files else None


def _packaged(cls: type) -> bool:
    """Whether a class is one of this package's own."""
    return cls.__module__.partition(".")[0] == __name__.partition(".")[0]


def _file_of(cls: type) -> Path | None:
    """The Python file that defines a class, None where there is none."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return Path(file).resolve() if file is not None and Path(file).is_file() else None
