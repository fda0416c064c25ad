"""The door to all commands: ``evo_robust run …``, ``evo_robust plot …`` and so on, or ``python -m evo_robust …``."""

from __future__ import annotations

import sys
from collections.abc import Callable

from evo_robust.commands.version import version
from evo_robust.parts.plain import message, nearest
from evo_robust.parts.streams import silence, take_everything
from evo_robust.parts.typed import COMMANDS, as_typed, door, line

USAGE = """usage: {door} COMMAND [key=value …]
       {door} COMMAND --help        every key of a command, with its type, default and meaning
       {door} --version

commands:"""


def usage() -> str:
    """Usage and one line for each command."""
    width = max(map(len, COMMANDS))
    lines = [USAGE.format(door=door()), *(f"  {name:<{width}}  {words}" for name, words in COMMANDS.items())]
    return "\n".join([*lines, "", as_typed("begin with: evo_robust run problem=roco")])


def main(argv: list[str] | None = None) -> int:
    """Run the command that the first argument names, with the others; returns the exit status."""
    given = sys.argv[1:] if argv is None else argv
    if argv is None:
        take_everything()
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
        silence()
    except OSError as error:
        silence()
        print(f"error: standard output: {error.strerror}", file=sys.stderr)
        return 2
    return 0


def _unknown(name: str) -> str:
    """What to say of a word that is no command."""
    if "=" in name:
        example = line("run", name)
        return f"expected a command before {name}, such as {example}; commands: {', '.join(COMMANDS)}"
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
    elif name == "judge":
        from evo_robust.judge import main as door
    elif name == "analyze":
        from evo_robust.analyze import main as door
    else:
        from evo_robust.commands.listing import main as door
    return door


if __name__ == "__main__":
    sys.exit(main())
