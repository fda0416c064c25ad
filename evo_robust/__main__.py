"""The door to all commands: ``evo_robust run …``, ``evo_robust plot …`` and so on, or ``python -m evo_robust …``."""

from __future__ import annotations

import sys
from collections.abc import Callable

from evo_robust.commands.version import version
from evo_robust.parts.base import nearest
from evo_robust.parts.plain import message

COMMANDS = {
    "run": "search a problem",
    "plot": "pictures and tables of a run, or of several runs over each other",
    "export": "chosen networks as genotype file, weights, model.py and ONNX",
    "retrain": "train a found network from scratch, and judge it",
    "analyze": "what a run's record says about which networks withstand attacks",
    "list": "problems, parts and run folders that are at hand",
}
"""Commands by name, with what they do."""

USAGE = """usage: evo_robust COMMAND [key=value …]
       evo_robust COMMAND --help        every key of a command, with its type, default and meaning
       evo_robust --version

commands:"""


def usage() -> str:
    """Usage and one line for each command."""
    width = max(map(len, COMMANDS))
    lines = [USAGE, *(f"  {name:<{width}}  {words}" for name, words in COMMANDS.items())]
    return "\n".join([*lines, "", "begin with: evo_robust run problem=roco"])


def main(argv: list[str] | None = None) -> int:
    """Run the command that the first argument names, with the others; returns the exit status."""
    given = sys.argv[1:] if argv is None else argv
    name, rest = (given[0], given[1:]) if given else ("--help", [])
    if name in ("--help", "-h", "help"):
        return _print(usage())
    if name in ("--version", "-V", "version"):
        return _print(f"evo_robust {version()}")
    if name not in COMMANDS:
        print(f"error: {message(_unknown(name))}", file=sys.stderr)
        return 2
    if argv is not None:
        return _door(name)(rest)
    sys.argv = [sys.argv[0], *rest]
    return _door(name)(None)  # the process ends with it


def _print(text: str) -> int:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `… | head` has read enough
        sys.stderr.close()
    return 0


def _unknown(name: str) -> str:
    """What to say of a word that is no command."""
    if "=" in name:
        return f"expected a command before {name}, such as evo_robust run {name}; commands: {', '.join(COMMANDS)}"
    return f"unknown command {name!r}: {nearest(name, COMMANDS)}"


def _door(name: str) -> Callable[[list[str] | None], int]:
    """What runs a command; each is imported when it is asked for, since some take their time."""
    if name == "run":
        from evo_robust.run import main as door
    elif name == "plot":
        from evo_robust.plot import main as door
    elif name == "export":
        from evo_robust.export import main as door
    elif name == "retrain":
        from evo_robust.retrain import main as door
    elif name == "analyze":
        from evo_robust.analyze import main as door
    else:
        from evo_robust.commands.listing import main as door
    return door


if __name__ == "__main__":
    sys.exit(main())
