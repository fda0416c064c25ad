"""Workers of a ray cluster."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Hashable
from types import ModuleType
from typing import Any

from evo_robust.clusters.staff import ClusterStaff, how_to_start, introduction
from evo_robust.parts.base import UserError
from evo_robust.progress import Say
from evo_robust.workers import Died, perform

_ATTEMPTS = 3
"""Number of attempts to connect to a head of ray, which starts a server for every client."""


def connect(
    library: ModuleType, cluster: str, address: str, workers: int | None, device: str, say: Say
) -> ClusterStaff:
    """The workers of the ray cluster at ``address``; errors as in ``hire``.

    Args:
        library: the imported library.
        cluster: the setting, for messages.
        address: HOST:PORT.
        workers: largest number of tasks at a time.
        device: torch device of the candidates.
        say: called with each line of text.
    """
    if library.is_initialized():
        raise UserError(f"cluster={cluster}: this process is connected with a ray cluster: say evaluator.backend=ray")
    _initialise(library, cluster, address, say)
    return RayStaff(library, f"cluster={cluster}", workers, device, say, library.shutdown).ready()


def _initialise(library: ModuleType, cluster: str, address: str, say: Say) -> None:
    """Connect to the head at ``address``.

    A head starts a new server for every client. On a busy machine that server may be too slow, or may hang in a race
    between gRPC and ``fork``; the next one usually works. We count attempts, not seconds, since ray's client needs
    minutes to give up a failed one.

    Raises:
        UserError: the head cannot be reached, or connecting failed :data:`_ATTEMPTS` times.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            library.init(f"ray://{address}", log_to_driver=False, logging_level="ERROR")
            return
        except ConnectionAbortedError as error:  # the head's own answer; its last line says what went wrong there
            reason, again = str(error).strip().rpartition("\n")[2], attempt < _ATTEMPTS
        except (ConnectionError, RuntimeError, ImportError, ValueError) as error:
            reason, again = str(error).strip().partition("\n")[0], False
        if not again:
            break
        say(f"cluster={cluster}: ray could not begin ({reason}): trying again")
        time.sleep(1)
    raise UserError(f"cluster={cluster}: ray cannot connect ({reason}); {how_to_start('ray')}")


class RayStaff(ClusterStaff):
    """Actors of a ray cluster: each has one CPU, and a device if candidates need one.

    Args:
        ray: the library, connected.
        device: torch device of the candidates.
        label, limit, say, disconnect: see :class:`ClusterStaff`.
    """

    def __init__(
        self,
        ray: ModuleType,
        label: str,
        limit: int | None,
        device: str,
        say: Say,
        disconnect: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(label, limit, say, disconnect)
        self.ray = ray
        self.options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
        resources = ray.cluster_resources()
        devices, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        if device != "cpu":
            wanted = devices if limit is None else limit
            # several actors share a device if there are more actors than devices
            self.options["num_gpus"] = 1 / max(1, math.ceil(wanted / max(1, devices)))
        else:
            wanted = cores if limit is None else limit
        self.wanted = wanted
        if device != "cpu" and not devices:
            self.wanted, self.lack = 0, "ray knows of no device (GPU) there"
        self.introductions: dict[Any, Any] = {}
        self.refs: dict[Any, Any] = {}

    @property
    def expects(self) -> bool:
        """See :attr:`ClusterStaff.expects`."""
        return bool(self.introductions)

    def look(self) -> None:
        """See :meth:`ClusterStaff.look`: an actor answers as soon as the cluster has room for it."""
        actor = self.ray.remote(**self.options)(_Actor)
        while len(self.places) + len(self.introductions) + len(self.objections) < self.wanted:
            new = actor.remote()
            self.introductions[new] = new.introduce.remote(introduction())
        by_ref = {ref: worker for worker, ref in self.introductions.items()}
        for ref in self._done(by_ref, 0):
            del self.introductions[by_ref[ref]]
            try:
                self.admit(by_ref[ref], self.ray.get(ref))
            except self.ray.exceptions.RayError as error:
                self.objections[by_ref[ref]] = str(error).strip().rpartition("\n")[2]

    def _done(self, refs: Collection[Any], timeout: float) -> list[Any]:
        """Those of ``refs`` that are ready, after at most ``timeout`` seconds."""
        if not refs:
            return []
        try:
            self.ray.wait(list(refs), num_returns=1, timeout=timeout)
            return self.ray.wait(list(refs), num_returns=len(refs), timeout=0)[0]
        except ConnectionError as error:
            raise UserError(
                f"{self.label}: the connection is lost ({error}); what is finished is kept: run the same command again"
            ) from None

    def start(self, worker: Any, payload: bytes) -> None:
        """See :meth:`Staff.start`."""
        self.refs[worker] = worker.perform.remote(payload, self.places[worker])

    def wait(self, busy: Collection[Hashable], timeout: float) -> list[tuple[Hashable, bytes | Died]]:
        """See :meth:`Staff.wait`."""
        if not busy:
            time.sleep(timeout)
            return []
        by_ref = {self.refs[worker]: worker for worker in busy}
        found: list[tuple[Hashable, bytes | Died]] = []
        for ref in self._done(by_ref, timeout):
            worker = by_ref[ref]
            del self.refs[worker]
            try:
                found.append((worker, self.ray.get(ref)))
            except self.ray.exceptions.RayError as error:  # an error of ray's own, since ``perform`` raises none
                self.leave(worker)
                found.append((worker, Died(type(error).__name__)))
        return found

    def dismiss(self, busy: Collection[Hashable]) -> None:
        """See :meth:`Staff.dismiss`."""
        for worker in busy:
            self.refs.pop(worker, None)
            self.leave(worker)
            self.ray.kill(worker)

    def close(self) -> None:
        """See :meth:`Staff.close`."""
        if self.ray.is_initialized():
            for worker in [*self.places, *self.introductions, *self.objections]:
                self.ray.kill(worker)
        for kept in (self.places, self.introductions, self.objections, self.refs, self._shares):
            kept.clear()
        if self.disconnect is not None:
            self.disconnect()
            self.disconnect = None


class _Actor:
    """The actor in a worker process of ray."""

    def introduce(self, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Information about this worker."""
        return ask()

    def perform(self, payload: bytes, place: int) -> bytes:
        """See :func:`evo_robust.workers.perform`."""
        return perform(payload, place)
