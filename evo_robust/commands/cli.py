"""What all commands share: reading ``key=value`` arguments, one clear message, exit statuses."""

from __future__ import annotations

import errno
import functools
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from evo_robust import signals
from evo_robust.commands.helping import help_text
from evo_robust.files import FULL, cache_folder
from evo_robust.parts.base import UserError
from evo_robust.parts.making import HelpRequested
from evo_robust.parts.paths import LONGEST_PATH
from evo_robust.parts.plain import message, shortened
from evo_robust.parts.stand_ins import MODULE
from evo_robust.parts.streams import silence, take_everything

Main = Callable[[list[str] | None], int]

TRUST = (
    "yes runs the Python file that defines the run's own parts, wherever it lies; without it only one that is shipped, "
    "or that lies in the present folder's problems/, is run"
)
"""What the key ``trust`` of commands that read runs means."""


def command(main: Main) -> Main:
    """Wrap a command: 0 on success, 2 and one message on a user's mistake or a disk that takes nothing.

    Ctrl-C, SIGTERM and SIGHUP end it with one line and the statuses 130, 143 and 129.
    """

    @functools.wraps(main)
    def wrapped(argv: list[str] | None = None) -> int:
        if argv is None:  # the process is this command's
            take_everything()
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
        except HelpRequested as asked:
            print(help_text(asked))
            status = 0
        sys.stdout.flush()  # a reader that is gone shows here at the latest
        return status
    except UserError as error:
        print(f"error: {message(without_long(str(error), argv))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # `… | head` has read enough
        silence()
        return 0
    except OSError as error:
        if error.errno not in _DISK:
            raise
        if error.filename is None:  # files say their names
            silence()
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
