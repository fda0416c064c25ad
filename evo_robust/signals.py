"""Ends commands on Ctrl-C, SIGTERM and SIGHUP, from the first import on, with one line and no traceback.

``evo_robust run`` imports this package, and torch with it, before the command's own code runs. On Ctrl-C, Python would
print a traceback from the middle of that. So this module is imported first and quickly. It acts only if Python is about
to run one of this package's modules, and changes nothing if another program imports the package. (It cannot act during
Python's own start, some hundredths of a second.)

A worker process ends soon after its parent, whatever it is doing, even while it imports torch.
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
"""Environment variable of a worker process: the id of its parent, with which it ends."""

# seconds that a command may take to clean up before it is ended
_GRACE = 10.0


class Ended(KeyboardInterrupt):
    """A signal to end the process; as for Ctrl-C, no ``except Exception`` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(line(number))
        self.number = number


def line(number: int) -> str:
    """The line that a command prints when a signal ends it."""
    return f"interrupted; {GO_ON}" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}; {GO_ON}"


def status(number: int) -> int:
    """The exit status of a command that a signal ended: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return 128 + number


def leave(number: int, frame: FrameType | None = None) -> None:
    """End the process at once, with one line. The operating system frees its locks, and its workers notice the end."""
    os.write(2, f"\n{line(number)}\n".encode())
    os._exit(status(number))


def heard() -> list[signal.Signals]:
    """The signals that may end this process, without those that it ignores, as under ``nohup``."""
    return [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]


@contextlib.contextmanager
def raised(*, last: bool) -> Iterator[None]:
    """Inside, a signal raises :class:`Ended`, so that the process can clean up; a second one ends it at once.

    The process also ends if cleaning up takes longer than ten seconds. In other threads than the main one nothing is
    changed, since only that receives signals.

    Args:
        last: whether only the end of the process follows, which has the same time limit.
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
    """Makes sure that a signal ends the process."""

    def __init__(self) -> None:
        self.number = 0
        self._heard, self._over = threading.Event(), threading.Event()
        threading.Thread(target=self._run, daemon=True, name="end").start()

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self.number:
            leave(number)
        self.number = number
        self._heard.set()
        raise Ended(number)

    def dismiss(self) -> None:
        """Stop watching: cleaning up is over."""
        self._over.set()
        self._heard.set()

    def _run(self) -> None:
        self._heard.wait()
        if not self._over.wait(_GRACE):
            leave(self.number)


def starts_as_installed() -> bool:
    """Whether this process was started as the installed command; a worker process only has its parent's arguments."""
    return os.path.basename("".join(sys.argv[:1])) in INSTALLED and sys.orig_argv[-len(sys.argv) :] == sys.argv


def _command_starts() -> bool:
    """Whether Python is about to run one of this package's modules as a program."""
    # while Python looks for the module of -m, its name is not in sys.argv yet
    given = zip(sys.orig_argv[1:], sys.orig_argv[2:], strict=False)
    module = next((name for option, name in given if option.startswith("-") and option.endswith("m")), "")
    if starts_as_installed():
        return True
    return sys.argv[:1] == ["-m"] and (module == "evo_robust" or module.startswith("evo_robust."))


def _end_with(parent: int) -> None:
    """End this process soon after its parent has ended, even if the parent could not send a message."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if (_parent := os.environ.pop(PARENT, "")).isdecimal():  # taken out: a process that a worker starts is no worker
    threading.Thread(target=_end_with, args=(int(_parent),), daemon=True, name="parent").start()


def _ignore() -> None:
    """Ignore signals in the last tenths of a second, when the command has done everything.

    Python removes its handlers before it clears its modules. A signal would then end it silently, with an exit status
    that means that work was left.
    """
    for number in heard():
        signal.signal(number, signal.SIG_IGN)


if _command_starts():
    atexit.register(_ignore)  # the first one: it runs last
    for _number in heard():
        signal.signal(_number, leave)
