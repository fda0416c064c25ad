"""A candidate's time limit: its work is interrupted when the time is up."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from evo_robust.training.steps import TimeLimit

T = TypeVar("T")

# seconds after which work that did not stop (it caught the exception) is interrupted again
_AGAIN = 5.0

# seconds of the longest alarm, more than three years: the system's clock knows no more than some billions
_LONGEST = 1e8


class _TimeUp(BaseException):
    """The time is up. It is not an ``Exception``, so that no ``except Exception`` on the way catches it."""


def can_cut() -> bool:
    """Whether work in this thread can be interrupted. A timer's signal needs the main thread, and not Windows."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


def over(limit: float) -> TimeLimit:
    """The failure of a candidate that took longer than ``limit`` seconds."""
    return TimeLimit(f"took longer than evaluator.time_limit={limit} s")


def within(limit: float | None, started: float, work: Callable[[], T]) -> T:
    """The result of ``work``, which is interrupted ``limit`` seconds after ``started``.

    A call into native code (such as a backward pass) ends first. Where work cannot be interrupted (see ``can_cut``), it
    goes on, and checks its deadline itself: between training steps and after each objective.

    Args:
        limit: seconds, > 0; None for no limit.
        started: ``time.monotonic()`` at the start.
        work: called in this thread.

    Raises:
        TimeLimit: ``work`` took longer.
    """
    if limit is None or not can_cut():
        return work()
    under_way = True

    def ring(*_: Any) -> None:
        if under_way:
            raise _TimeUp

    entered = time.monotonic()
    handler = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, min(max(1e-3, started + limit - entered), _LONGEST), _AGAIN)
    try:
        try:
            return work()
        finally:
            under_way = False
    except _TimeUp:
        raise over(limit) from None
    finally:
        # a timer that was set before goes on as if nothing had happened
        left = max(1e-3, left - (time.monotonic() - entered)) if left else 0.0
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        signal.setitimer(signal.ITIMER_REAL, left, interval)
