"""What all commands share: reading ``key=value`` arguments, one clear message, exit statuses."""

from __future__ import annotations

import difflib
import errno
import functools
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import chz
from chz.blueprint import _entrypoint

from evo_robust import signals
from evo_robust.files import FULL, cache_folder
from evo_robust.parts.base import UserError, nearest
from evo_robust.parts.paths import LONGEST_PATH
from evo_robust.parts.plain import message, read, shortened
from evo_robust.parts.resolve import Unfit, missing_part, resolved
from evo_robust.parts.stand_ins import MODULE

T = TypeVar("T")
Main = Callable[[list[str] | None], int]

TRUST = (
    "yes runs the Python file that defines the run's own parts, wherever it lies; without it only one that is shipped, "
    "or that lies in the present folder's problems/, is run"
)
"""What the key ``trust`` of commands that read runs means."""


class HelpRequested(Exception):
    """The user asked for help; the text is the message."""


def command(main: Main) -> Main:
    """Wrap a command: 0 on success, 2 and one message on a user's mistake or a disk that takes nothing.

    Ctrl-C, SIGTERM and SIGHUP end it with one line and the statuses 130, 143 and 129.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        try:
            with signals.raised(last=argv is None):
                return _answered(main, sys.argv[1:] if argv is None else argv)
        except KeyboardInterrupt as end:
            number = end.number if isinstance(end, signals.Ended) else signal.SIGINT
            print(f"\n{signals.line(number)}", file=sys.stderr)
            return signals.status(number)

    return wrapped


def _answered(main: Main, argv: list[str]) -> int:
    """The command's exit status; what a user can mend is said in one message."""
    try:
        try:
            status = main(argv)
        except HelpRequested as text:
            print(text)
            status = 0
        sys.stdout.flush()  # a reader that is gone shows here at the latest
        return status
    except UserError as error:
        print(f"error: {message(without_long(str(error), argv))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # `… | head` has read enough
        _silence()
        return 0
    except OSError as error:
        if error.errno not in _DISK:
            raise
        if error.filename is None:  # files say their names
            _silence()
        print(f"error: {message(_on_disk(error))}", file=sys.stderr)
        return 2
    except Exception as error:
        place = _own_place(error)
        if place is None:
            raise
        print(f"error: {message(f'{place}: {type(error).__name__}: {error}')}", file=sys.stderr)
        return 1


def _own_place(error: Exception) -> str | None:
    """The line of a problem file that raised, or called what did; None where none was under way."""
    lines = [
        f"{frame.f_code.co_filename}, line {line}, in {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).startswith(MODULE)
    ]
    return lines[-1] if lines else None


def without_long(text: str, argv: Sequence[str]) -> str:
    """A message in which of a command's long arguments only the beginning is repeated."""
    for argument in argv:
        key, _, value = argument.partition("=")
        for given in sorted((argument, key, value), key=len, reverse=True):
            if len(given) > LONGEST_PATH // 8:  # paths that exist are said in full as a rule
                text = text.replace(given, shortened(given))
    return text


# what files and folders answer, not what a mistake in the program does
_DISK = (
    *FULL,
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP),
)


def _on_disk(error: OSError) -> str:
    """The message where a file or folder cannot be written or read."""
    place = "standard output" if error.filename is None else str(error.filename)
    more = f"; make room there: {signals.GO_ON}" if error.errno in FULL else ""
    if error.filename is not None and Path(place).absolute().is_relative_to(cache_folder()):
        more += " (the cache; EVO_ROBUST_CACHE names another folder for it)"
    return f"{place}: {error.strerror}{more}"


def _silence() -> None:
    """Write no more to standard output: the interpreter's last flush must not complain either."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def split(argv: list[str]) -> dict[str, str]:
    """Arguments ``key=value`` as a dictionary; ``--help`` becomes the key ``--help``.

    Raises:
        UserError: an argument without ``=`` or a key given twice.
    """
    found: dict[str, str] = {}
    for argument in argv:
        if argument in ("--help", "-h", "help"):
            found["--help"] = ""
            continue
        key, equals, value = argument.partition("=")
        if not equals or not key:
            raise UserError(f"expected key=value, got {argument!r}")
        if key in found:
            raise UserError(f"{key} is given twice: {key}={found[key]} and {key}={value}")
        found[key] = value
    return found


def parse(cls: Callable[..., T], argv: list[str], name: str) -> T:
    """An instance of the chz class ``cls`` from ``key=value`` arguments.

    Raises:
        UserError: unknown key, unreadable or refused value, with the nearest right thing.
        HelpRequested: ``--help`` was given.
    """
    given = split(argv)
    refuse_nothing(given)
    return make(cls, given, {}, name)


def refuse_nothing(given: Mapping[str, str]) -> None:
    """Refuse ``key=`` without a value: it may be a variable of a script that was not set.

    Raises:
        UserError: naming the key.
    """
    for key, value in given.items():
        if not value.strip() and key != "--help":
            raise UserError(f"{key}={value}: expected a value, got nothing; leave {key} out for what it is by default")


def make(cls: Callable[..., T], given: Mapping[str, str], base: Mapping[str, Any], name: str) -> T:
    """Like :func:`parse`, over ``base`` values that the arguments override."""
    given = dict(given)
    asked_help = given.pop("--help", None) is not None
    blueprint = chz.Blueprint(cls).apply(base, layer_name=name)
    try:
        values = resolved(cls, given, base, read)  # type: ignore[arg-type] # mypy knows no classes that are callables
    except Unfit as error:
        raise UserError(str(error)) from None
    blueprint = blueprint.apply(values, layer_name="command line")
    try:
        if asked_help:
            raise HelpRequested(blueprint.get_help())
        return blueprint.make()
    except _entrypoint.EntrypointException as error:
        raise UserError(_readable(str(error), given, _known_keys(blueprint))) from error
    except TypeError as error:  # an abstract class is wanted of which no part was named
        missing = missing_part(cls, {**base, **values})  # type: ignore[arg-type]
        raise UserError(missing or str(error)) from error
    except ValueError as error:
        raise UserError(str(error)) from error


def _known_keys(blueprint: chz.Blueprint[Any]) -> list[str]:
    """Keys that the blueprint takes, read off its help (the one public place that lists them)."""
    try:
        text = blueprint.get_help()
    except Exception:  # chz cannot always render help for a broken blueprint; then no key is suggested
        return []
    return re.findall(r"^  ([\w.]+)  ", text.partition("Arguments:")[2], flags=re.M)


def _readable(message: str, given: Mapping[str, str], known: list[str]) -> str:
    """One sentence for chz's explanation of what was wrong."""
    first = message.strip().splitlines()[0]
    if match := re.match(r"Extraneous argument '([^']+)'", first):
        return f"unknown key {match[1]!r}: {_nearest_key(match[1], known)}"
    if match := re.match(r"Missing required arguments? for parameter\(s\): (.*)", first):
        return f"missing: {match[1]} (give it as KEY=VALUE)"
    return message.strip()


def _nearest_key(key: str, known: list[str]) -> str:
    """Sentence that names the nearest key: of the same part, else where that name stands below it or elsewhere."""
    part, _, name = key.rpartition(".")
    names = {k: k.rpartition(".")[2] for k in known}
    beside = [k for k in known if k.rpartition(".")[0] == part]
    if part and not beside:  # the part itself is misspelt
        return nearest(key, known)
    places = beside if part else known
    close = difflib.get_close_matches(name, dict.fromkeys(names[k] for k in places), n=1, cutoff=0.6)
    same = [k for k in known if names[k] == name]
    found = [k for k in places if names[k] in close] or [k for k in same if k.startswith(f"{part}.")] or same
    if found:
        return f"did you mean {' or '.join(map(repr, found))}?"
    return f"{part} takes {', '.join(sorted(names[k] for k in beside))}" if part else nearest(key, beside)
