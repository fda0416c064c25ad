"""Commands as they are typed: their names, and whether one was started as installed or as a Python module."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

from evo_robust.signals import INSTALLED

COMMANDS = {
    "run": "search a problem",
    "plot": "pictures and tables of a run, or of several runs over each other",
    "export": "chosen networks as genotype file, weights, model.py and ONNX",
    "retrain": "train a found network from scratch, and judge it",
    "analyze": "what a run's record says about which networks withstand attacks",
    "list": "problems, parts and run folders that are at hand",
}
"""Commands by name, with what they do."""


def line(name: str, *arguments: str) -> str:
    """A command as it can be pasted, quoted where it has to be, through the door that the user came by."""
    return f"{_door(name)} {shlex.join(arguments)}".strip()


def as_typed(text: str) -> str:
    """A text with its commands, such as ``evo_robust run …``, as :func:`line` writes them."""
    return re.sub(rf"\bevo_robust ({'|'.join(COMMANDS)})\b", lambda found: _door(found[1]), text)


def door() -> str:
    """How the door to all commands is typed."""
    return "evo_robust" if _installed() else "python -m evo_robust"


def _door(name: str) -> str:
    program = Path(sys.argv[0] if sys.argv else "")
    behind = _installed() or program.parts[-2:] == ("evo_robust", "__main__.py") or name == "list"  # it has no module
    return f"{door()} {name}" if behind else f"python -m evo_robust.{name}"


def _installed() -> bool:
    return os.path.basename(sys.argv[0] if sys.argv else "") in INSTALLED


def runs_no_command() -> bool:
    """Whether this process was started as ``evo_robust`` without a command: it says its version, usage or an error."""
    # while Python looks for the module of -m, its name is not in sys.argv yet
    module = sys.argv[:1] == ["-m"] and ("-m", "evo_robust") in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)
    if not module and not _installed():
        return False
    return sys.argv[1:2] == [] or sys.argv[1] not in COMMANDS
