"""Worker processes: one pool for all parallel work, on this machine or on a cluster.

A worker does only one task at a time, so the pool knows which task a dead process was doing. That task is tried once
more, and the work of other processes goes on.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import dataclasses
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing import util as multiprocessing_util
from typing import Any, Generic, TypeVar

import cloudpickle
import joblib
from joblib.externals.loky.backend import get_context, resource_tracker

from evo_robust import signals
from evo_robust.progress import Say, silent

K = TypeVar("K")
T = TypeVar("T")

_HEARTBEAT = 1.0
"""Seconds between two checks that workers are alive."""

_GRACE = 5.0
"""Seconds that an idle worker has to end by itself."""

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclasses.dataclass(frozen=True)
class Died:
    """Takes the place of a result where the worker process died twice.

    Attributes:
        reason: how it died the second time, in words.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class _Task(Generic[K]):
    key: K
    payload: bytes
    tried: bool = False


class Staff(abc.ABC):
    """Workers of one kind: processes of this machine, or of a cluster. A worker's name is any hashable value."""

    retried_together: int = 1
    """Largest number of running tasks while one is tried again after its worker died."""

    @property
    @abc.abstractmethod
    def size(self) -> int:
        """Number of workers."""

    @abc.abstractmethod
    def idle(self, busy: Collection[Hashable]) -> Sequence[Hashable]:
        """Workers that can take a task now, without those in ``busy``."""

    @abc.abstractmethod
    def start(self, worker: Hashable, payload: bytes) -> None:
        """Let an idle worker :func:`perform` a task."""

    @abc.abstractmethod
    def wait(self, busy: Collection[Hashable], timeout: float) -> list[tuple[Hashable, bytes | Died]]:
        """Results of ``busy`` workers; empty if none came within ``timeout`` seconds."""

    @abc.abstractmethod
    def dismiss(self, busy: Collection[Hashable]) -> None:
        """Abandon the tasks of ``busy`` workers."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release all workers."""


class Pool:
    """Runs tasks on workers, in any order.

    Args:
        workers: number of tasks at a time, >= 1.
        staff: the workers; by default processes of this machine, or this process where ``workers`` is 1.
        say: called with a line of text when a worker has died.
    """

    def __init__(self, workers: int, staff: Staff | None = None, say: Say = silent) -> None:
        self.staff = LocalStaff(workers) if staff is None and workers > 1 else staff
        self.say = say

    @property
    def size(self) -> int:
        """Number of tasks that can run at present."""
        return 1 if self.staff is None else self.staff.size

    def run(self, tasks: Iterable[tuple[K, Callable[[], T]]]) -> Iterator[tuple[K, T | Died]]:
        """Results of all tasks with their keys, as they arrive.

        Args:
            tasks: keys and functions without arguments (``functools.partial``), sent by cloudpickle. The next task is
                requested only when a worker is free.

        Raises:
            Exception: a task raised it; running tasks are abandoned.
        """
        if self.staff is None:
            for key, work in tasks:
                yield key, work()
            return
        waiting = _Waiting(tasks)
        busy: dict[Hashable, _Task[K]] = {}
        try:
            while True:
                self._hand_out(waiting, busy)
                if not busy and waiting.empty:
                    return
                results, errors = self._arrivals(waiting, busy)
                if not errors:
                    self._hand_out(waiting, busy)  # before yielding results, so that no worker waits for the caller
                yield from results
                if errors:
                    raise errors[0]
        finally:
            if busy:
                self.staff.dismiss(list(busy))

    def _hand_out(self, waiting: _Waiting[K], busy: dict[Hashable, _Task[K]]) -> None:
        assert self.staff is not None
        for worker in self.staff.idle(busy):
            task = waiting.take(len(busy), self.staff.retried_together)
            if task is None:
                return
            self.staff.start(worker, task.payload)
            busy[worker] = task

    def _arrivals(
        self, waiting: _Waiting[K], busy: dict[Hashable, _Task[K]]
    ) -> tuple[list[tuple[K, Any]], list[BaseException]]:
        """Results of tasks; raises the exceptions of tasks."""
        assert self.staff is not None
        results: list[tuple[K, Any]] = []
        errors: list[BaseException] = []
        for worker, outcome in self.staff.wait(list(busy), _HEARTBEAT):
            task = busy.pop(worker)
            if isinstance(outcome, bytes):
                result, error = cloudpickle.loads(outcome)
                if error is None:
                    results.append((task.key, result))
                else:
                    errors.append(error)
            elif task.tried:
                results.append((task.key, outcome))
            else:
                self.say(f"a worker process died ({outcome.reason}): its task is tried again")
                waiting.again.append(dataclasses.replace(task, tried=True))
        return results, errors

    def close(self) -> None:
        """Release the workers; the next ``run`` starts new ones."""
        if self.staff is not None:
            self.staff.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Waiting(Generic[K]):
    """Tasks that wait for a worker."""

    def __init__(self, tasks: Iterable[tuple[K, Callable[[], Any]]]) -> None:
        self.fresh = iter(tasks)
        self.exhausted = False
        self.again: collections.deque[_Task[K]] = collections.deque()

    @property
    def empty(self) -> bool:
        return self.exhausted and not self.again

    def take(self, under_way: int, retried_together: int) -> _Task[K] | None:
        """The next task; tasks to be tried again come last, and only while few others are ``under_way``."""
        if not self.exhausted:
            for key, work in self.fresh:
                return _Task(key, cloudpickle.dumps(work))
            self.exhausted = True
        return self.again.popleft() if self.again and under_way < retried_together else None


# --- in the worker process

_alone = threading.Lock()
_position = 0


def position() -> int:
    """Number of this process among the workers that share its devices; 0 where it is no worker."""
    return _position


def perform(payload: bytes, place: int) -> bytes:
    """Do a task in a worker process, and catch everything that it raises.

    Args:
        payload: a pickled function without arguments. We pickle it ourselves, since classes of problem files, which are
            loaded by path, must be pickled by value.
        place: becomes :func:`position`.

    Returns:
        The pickled pair of its result and None, or of None and its exception.
    """
    global _position
    with _alone:  # workers of a cluster may have threads, which would share torch's random numbers
        _position = place
        try:
            return cloudpickle.dumps((cloudpickle.loads(payload)(), None))
        except BaseException as error:  # signals do not reach workers, so a KeyboardInterrupt is the task's own error
            error.add_note(f"in a worker process: {traceback.format_exc()}")
            error.__cause__ = error.__context__ = None  # may hold what cannot be pickled
            try:
                return cloudpickle.dumps((None, error))
            except Exception:
                return cloudpickle.dumps((None, RuntimeError(f"{type(error).__name__}: {error}")))


def _serve(tasks: connection.Connection, place: int, parent: int) -> None:
    """The main loop of a process of :class:`LocalStaff`: do tasks until there are no more."""
    begin_local_worker()
    try:
        while True:
            tasks.send_bytes(perform(tasks.recv_bytes(), place))
    except (EOFError, OSError):  # the parent closed it, or is gone
        if os.getppid() != parent:
            os._exit(1)


def begin_local_worker() -> None:
    """Runs first in every worker process of this machine."""
    # they were blocked when the process was started, but a library that starts a process itself may unblock them
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


# --- processes of this machine


@dataclasses.dataclass(frozen=True)
class _Process:
    process: Any
    tasks: connection.Connection

    def ended(self) -> Died:
        """The reason of its end; waits until it has ended."""
        self.process.join(_GRACE)
        code = self.process.exitcode
        if code is not None and code < 0:
            memory = ", most likely out of memory" if code == -signal.SIGKILL else ""
            return Died(f"killed by {signal.Signals(-code).name}{memory}")
        return Died(f"it ended with exit status {code}")

    def end(self, grace: float) -> None:
        """Make it end: by itself within ``grace`` seconds, or by force."""
        self.process.join(grace)
        if self.process.is_alive():
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()


class LocalStaff(Staff):
    """Processes of this machine, each started when it is first needed.

    They are loky's processes, which need neither ``fork``, which CUDA forbids, nor ``if __name__ == "__main__"`` in
    scripts. Loky's pool is not used, since it fails as a whole when one of its processes dies.

    Args:
        count: number of processes.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.processes: dict[int, _Process] = {}
        # if it is never closed: end them before the interpreter waits for its child processes
        multiprocessing_util.Finalize(self, _send_home, args=(self.processes,), exitpriority=10)

    @property
    def size(self) -> int:
        """See :attr:`Staff.size`."""
        return self.count

    def idle(self, busy: Collection[Hashable]) -> Sequence[Hashable]:
        """See :meth:`Staff.idle`."""
        return [place for place in range(self.count) if place not in busy]

    def start(self, worker: Any, payload: bytes) -> None:
        """See :meth:`Staff.start`."""
        found = self.processes.get(worker)
        if found is None or not found.process.is_alive():  # it died while it was idle
            self._forget(worker)
            found = self.processes[worker] = self._hire(worker)
        with contextlib.suppress(OSError):  # it has just died, which ``wait`` will report
            found.tasks.send_bytes(payload)

    def _hire(self, place: int) -> _Process:
        mine, its = connection.Pipe()
        threads = str(max(1, joblib.cpu_count() // self.count))
        given = {name: os.environ.get(name, threads) for name in _THREADS} | {signals.PARENT: str(os.getpid())}
        process = get_context("loky").Process(
            target=_serve, args=(its, place, os.getpid()), name=f"worker-{place}", env=given
        )
        # Ctrl-C and a closed terminal reach all processes of the group; only the parent must handle them
        resource_tracker.ensure_running()  # starts a process too, and unblocks signals
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        its.close()
        return _Process(process, mine)

    def wait(self, busy: Collection[Any], timeout: float) -> list[tuple[Hashable, bytes | Died]]:
        """See :meth:`Staff.wait`."""
        found = {place: self.processes[place] for place in busy}
        signs = [sign for one in found.values() for sign in (one.tasks, one.process.sentinel)]
        ready = set(connection.wait(signs, timeout))
        return [
            (place, self._outcome(place, one))
            for place, one in found.items()
            if one.tasks in ready or one.process.sentinel in ready
        ]

    def _outcome(self, place: int, one: _Process) -> bytes | Died:
        with contextlib.suppress(EOFError, OSError):
            if one.tasks.poll():  # there may be a result, even if the process has died since
                return one.tasks.recv_bytes()
        died = one.ended()
        self._forget(place)
        return died

    def _forget(self, place: int) -> None:
        if found := self.processes.pop(place, None):
            found.tasks.close()
            found.end(0.0)

    def dismiss(self, busy: Collection[Any]) -> None:
        """See :meth:`Staff.dismiss`."""
        for place in busy:
            self._forget(place)

    def close(self) -> None:
        """See :meth:`Staff.close`."""
        _send_home(self.processes)


def _send_home(processes: dict[int, _Process]) -> None:
    """End processes: idle ones end by themselves, others by force."""
    for one in processes.values():
        one.tasks.close()
    until = time.monotonic() + _GRACE
    for one in processes.values():
        one.end(max(0.0, until - time.monotonic()))
    processes.clear()
