"""Standard output and standard error that refuse no letter, and are there even where they were closed."""

from __future__ import annotations

import io
import os
import sys


def take_everything() -> None:
    """Let both streams take whatever a command says.

    A letter that a terminal's encoding does not know is written as Python's escape for it: a search must not end with a
    traceback because its table has a Greek letter. What was closed (``>&-``) swallows what it is told.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (until the process ends)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def silence() -> None:
    """Write no more to standard output: the interpreter's last flush must not complain either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
