"""Workers of a dask cluster."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable, Collection, Hashable
from types import ModuleType
from typing import Any

from evo_robust.clusters.staff import CONNECT, ClusterStaff, how_to_start, introduction
from evo_robust.parts.base import UserError
from evo_robust.workers import Died, perform


def connect(
    library: ModuleType, cluster: str, address: str, workers: int | None, device: str, say: Callable[[str], None]
) -> ClusterStaff:
    """The workers of the dask cluster at ``address``; errors as in ``hire``.

    Args:
        library: the imported library.
        cluster: the setting, for messages.
        address: HOST:PORT.
        workers: largest number of tasks at a time.
        device: torch device of the candidates.
        say: called with each line of text.
    """
    try:
        client = library.Client(f"tcp://{address}", timeout=CONNECT, set_as_default=False, name="evo_robust")
    except (OSError, TimeoutError, ValueError) as error:
        reason = f"no scheduler answers there ({type(error).__name__})"
        raise UserError(f"cluster={cluster}: {reason}; {how_to_start('dask')}") from None
    return DaskStaff(client, f"cluster={cluster}", workers, say, client.close).ready()


class DaskStaff(ClusterStaff):
    """Workers of a dask cluster that the scheduler knows, by address and folder (an address may be used again).

    Args:
        client: a ``distributed.Client``.
        label, limit, say, disconnect: see :class:`ClusterStaff`.
    """

    def __init__(
        self,
        client: Any,
        label: str,
        limit: int | None,
        say: Callable[[str], None],
        disconnect: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(label, limit, say, disconnect)
        self.client = client
        self.introductions: dict[Hashable, Any] = {}
        self.futures: dict[Hashable, Any] = {}
        self._looked = 0.0
        self._news = threading.Event()

    def _present(self) -> dict[tuple[str, str], bool]:
        """The workers that the scheduler knows, and whether each takes tasks: dask pauses those with much memory."""
        try:
            # ask the scheduler itself: ``scheduler_info`` keeps its last answer when the scheduler is gone
            workers = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
        except (OSError, TimeoutError, RuntimeError) as error:
            raise UserError(
                f"{self.label}: the scheduler is gone ({type(error).__name__}); what is finished is kept: start it "
                "and run the same command again"
            ) from None
        return {
            (address, str(worker.get("local_directory"))): worker.get("status", "running") == "running"
            for address, worker in workers.items()
        }

    @property
    def expects(self) -> bool:
        """See :attr:`ClusterStaff.expects`."""
        return bool(self.introductions)

    def look(self) -> None:
        """See :meth:`ClusterStaff.look`."""
        if time.monotonic() - self._looked < 0.5:
            return
        present = {worker for worker, takes_tasks in self._present().items() if takes_tasks}
        self._looked = time.monotonic()
        known = self.places.keys() | self.introductions.keys() | self.objections.keys()
        for worker in known - present - self.futures.keys():
            self.leave(worker)
            self.introductions.pop(worker, None)
            self.objections.pop(worker, None)
        for worker in self._of_my_python(present - known):
            self.introductions[worker] = self._submit(worker, introduction())
        for worker, future in list(self.introductions.items()):
            if future.status == "finished":
                self.admit(worker, future.result(timeout=CONNECT))
                del self.introductions[worker]

    def _of_my_python(self, workers: set[tuple[str, str]]) -> list[tuple[str, str]]:
        """Workers with this version of Python; others could not read its functions, and would drop the connection."""
        if not workers:
            return []
        told = self.client.get_versions()["workers"]
        mine = ".".join(platform.python_version_tuple()[:2])
        for worker in sorted(workers):
            its = str((told.get(worker[0]) or {}).get("host", {}).get("python", mine))
            if its.split(".")[:2] != mine.split("."):
                self.refuse(worker, f"it has Python {its}, here is {mine}")
        return sorted(workers - self.objections.keys())

    def _submit(self, worker: Any, function: Callable, *arguments: object) -> Any:
        """A future of ``function`` on this worker only."""
        where = {"workers": [worker[0]], "allow_other_workers": False}
        return self.client.submit(function, *arguments, pure=False, **where)

    def start(self, worker: Hashable, payload: bytes) -> None:
        """See :meth:`Staff.start`."""
        self.futures[worker] = self._submit(worker, perform, payload, self.places[worker])
        self.futures[worker].add_done_callback(lambda _: self._news.set())

    def wait(self, busy: Collection[Hashable], timeout: float) -> list[tuple[Hashable, bytes | Died]]:
        """See :meth:`Staff.wait`."""
        self._news.wait(timeout)
        self._news.clear()
        pending = [self.futures[worker] for worker in busy]
        gone = set(busy) - self._present().keys() if any(not future.done() for future in pending) else set()
        found: list[tuple[Hashable, bytes | Died]] = []
        for worker in busy:
            if self.futures[worker].done() or worker in gone:
                outcome = self._outcome(self.futures.pop(worker))
                if isinstance(outcome, Died):
                    self.leave(worker)
                found.append((worker, outcome))
        return found

    def _outcome(self, future: Any) -> bytes | Died:
        """A task's result; where it is not done, its worker is gone."""
        if future.status == "finished":
            try:
                return future.result(timeout=CONNECT)
            except Exception as error:  # the result was still with a worker that died
                future.cancel()
                return Died(f"its result was lost: {type(error).__name__}")
        reason = "its worker left the cluster"
        if future.status == "error":  # an error of dask's own, since ``perform`` raises none
            fault = future.exception(timeout=CONNECT)
            reason = f"{type(fault).__name__}: {fault}"
        future.cancel()
        return Died(reason)

    def dismiss(self, busy: Collection[Hashable]) -> None:
        """See :meth:`Staff.dismiss`; dask lets running tasks finish."""
        self.client.cancel([self.futures.pop(worker) for worker in busy if worker in self.futures])

    def close(self) -> None:
        """See :meth:`Staff.close`."""
        self.futures.clear()
        self.introductions.clear()
        if self.disconnect is not None:
            self.disconnect()
            self.disconnect = None
