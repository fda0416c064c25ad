"""What ends a command: Ctrl-C, SIGTERM, SIGHUP, from its first import on, with one line and no traceback.

``evo_robust run`` imports this package, and torch with it, before the command's own code runs. Python's
answer to Ctrl-C is a traceback from the middle of that. So this module comes before everything else, imports nothing
that takes time, and acts when Python is about to run one of this package's modules; where anything else imports the
package, nothing is touched. (Python's own start, some hundredths of a second, is out of reach.)

A worker process ends soon after its parent does, whatever it is at, importing torch included.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

GO_ON = "the same command goes on where it stopped"
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, what ``kill`` and cluster schedulers send, and a terminal that is closed."""

INSTALLED = ("evo_robust", "evo_robust.exe")
"""Names of the installed command."""

PARENT = "EVO_ROBUST_PARENT"
"""Environment variable of a worker process: the number of the process that it ends with."""

# seconds that a command may take to put things away before it ends without
_GRACE = 10.0


class Ended(KeyboardInterrupt):
    """A signal wants the process to end; like Ctrl-C, no ``except Exception`` keeps it."""

    def __init__(self, number: int) -> None:
        super().__init__(line(number))
        self.number = number


def line(number: int) -> str:
    """What a command says when a signal ends it."""
    return f"interrupted; {GO_ON}" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}; {GO_ON}"


def status(number: int) -> int:
    """The exit status of a command that a signal ended: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + number


def leave(number: int, frame: FrameType | None = None) -> None:
    """End the process at once, with one line. The operating system frees its locks, its workers see that it is gone."""
    os.write(2, f"\n{line(number)}\n".encode())
    os._exit(status(number))


def heard() -> list[signal.Signals]:
    """The signals that may end this process: not those that it was told to ignore, as ``nohup`` does."""
    return [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


@contextlib.contextmanager
def raised(*, last: bool) -> Iterator[None]:
    """Inside, a signal raises :class:`Ended`, so that everything is put away; a second one ends the process at once.

    So does the first one when putting away takes longer than ten seconds. In a thread nothing is touched: signals reach
    the main thread alone.

    Args:
        last: nothing but the end of the process follows; it must not take longer either.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _Watch()
    before = {number: signal.signal(number, watch.hear) for number in heard()}
    try:
        yield
    finally:
        if not (last and watch.number):
            watch.dismiss()
            for number, handler in before.items():
                signal.signal(number, handler)


class _Watch:
    """Sees to it that a signal ends the process."""

    def __init__(self) -> None:
        self.number = 0
        self._heard, self._over = threading.Event(), threading.Event()
        threading.Thread(target=self._run, daemon=True, name="end").start()

    def hear(self, number: int, frame: FrameType | None) -> None:
        """What a signal does."""
        if self.number:
            leave(number)
        self.number = number
        self._heard.set()
        raise Ended(number)

    def dismiss(self) -> None:
        """Everything was put away."""
        self._over.set()
        self._heard.set()

    def _run(self) -> None:
        self._heard.wait()
        if not self._over.wait(_GRACE):
            leave(self.number)


def _command_starts() -> bool:
    """Whether Python is on its way to run one of this package's modules as a program."""
    # while Python looks for the module of -m, its name is not in sys.argv yet
    given = zip(sys.orig_argv[1:], sys.orig_argv[2:], strict=False)
    module = next((name for option, name in given if option.startswith("-") and option.endswith("m")), "")
    if os.path.basename("".join(sys.argv[:1])) in INSTALLED:
        return True
    return sys.argv[:1] == ["-m"] and (module == "evo_robust" or module.startswith("evo_robust."))


def _end_with(parent: int) -> None:
    """End this process soon after its parent did: such a parent could tell nobody."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if (_parent := os.environ.pop(PARENT, "")).isdecimal():  # taken out: a process that a worker starts is no worker
    threading.Thread(target=_end_with, args=(int(_parent),), daemon=True, name="parent").start()


def _ignore() -> None:
    """Let what comes in the last tenths of a second find a command that has done everything.

    Python takes its handlers down before it clears its modules away. A signal would then end it without a word, and
    with a status that says that something was left.
    """
    for number in heard():
        signal.signal(number, signal.SIG_IGN)


if _command_starts():
    atexit.register(_ignore)  # the first one: it runs last
    for _number in heard():
        signal.signal(_number, leave)
