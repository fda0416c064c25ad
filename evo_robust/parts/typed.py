"""Commands as users type them: their names, and whether a command was started as installed or as a Python module."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from evo_robust.signals import INSTALLED, starts_as_installed

COMMANDS = {
    "run": "search a problem",
    "plot": "pictures and tables of a run, or of several runs together",
    "export": "chosen networks as genotype file, weights, model.py and ONNX",
    "retrain": "train a found network from scratch, and evaluate it",
    "judge": "attack trained networks with everything, on test images",
    "analyze": "which properties of networks make them robust, by a run's record",
    "list": "available problems, parts and run folders",
}
"""Commands by name, with what they do."""


def line(name: str, *arguments: str) -> str:
    """A command to paste, quoted where needed, in the form in which the user started this one."""
    return f"{_door(name)} {shlex.join(arguments)}".strip()


def as_typed(text: str) -> str:
    """A text with its commands, such as ``evo_robust run …``, in the form of :func:`line`."""
    return re.sub(rf"\bevo_robust ({'|'.join(COMMANDS)})\b", lambda found: _door(found[1]), text)


def door() -> str:
    """How the user types the command that has all the others."""
    return "evo_robust" if _installed() else "python -m evo_robust"


def _door(name: str) -> str:
    program = Path(sys.argv[0] if sys.argv else "")
    behind = _installed() or program.parts[-2:] == ("evo_robust", "__main__.py") or name == "list"  # it has no module
    return f"{door()} {name}" if behind else f"python -m evo_robust.{name}"


def _installed() -> bool:
    return os.path.basename(sys.argv[0] if sys.argv else "") in INSTALLED


def runs_no_command() -> bool:
    """Whether this process was started as ``evo_robust`` without a command: for its version, usage or an error."""
    # while Python looks for the module of -m, its name is not in sys.argv yet
    module = sys.argv[:1] == ["-m"] and ("-m", "evo_robust") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    return (module or starts_as_installed()) and (len(sys.argv) < 2 or sys.argv[1] not in COMMANDS)
