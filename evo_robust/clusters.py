"""Workers of a dask or a ray cluster; docs/clusters.md has the commands that start one.

The pool hands every worker its tasks by name, one at a time, and sends them as bytes. Left to joblib's dask backend, a
search of a problem file with classes of its own hangs: dask pickles by reference what can be, the worker fails to
import a file that was loaded by path, drops its connection and is started anew, for ever; and joblib waits for ever for
a task that ends in an error of dask's own.
"""

from __future__ import annotations

import abc
import collections
import importlib
import importlib.metadata
import itertools
import math
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from types import ModuleType
from typing import Any

from evo_robust.device import choose_workers
from evo_robust.parts import UserError
from evo_robust.workers import Died, Staff, perform

_LIBRARIES = {"dask": "distributed", "ray": "ray"}
_SAME = ("evo_robust", "torch", "numpy")

_CONNECT = 10.0
"""Seconds that a scheduler, and then the first worker, has to answer."""

_ATTEMPTS = 3
"""How often a head of ray that answers is asked for the server that it starts for every client."""

_FIRST = 120.0
"""Seconds that the first worker has to import this package."""

_PATIENCE = 600.0
"""Seconds that a search waits for workers when all are gone."""


def hire(
    evaluator: object, cluster: str | None, workers: int | None, device: str, say: Callable[[str], None]
) -> ClusterStaff | None:
    """The workers of the cluster that a search is to use; None where it stays on this machine.

    Args:
        evaluator: its ``backend``, where it has one, may ask for a cluster that is connected already.
        cluster: where to connect to, ``dask://HOST:PORT`` or ``ray://HOST:PORT``.
        workers: tasks under way at most; as many as the cluster has workers when not given.
        device: torch device of the candidates.
        say: takes one line of text.

    Raises:
        UserError: the library is missing, nobody answers, or the settings contradict each other.
    """
    backend = getattr(evaluator, "backend", None)
    if cluster is None and backend in (None, "loky"):
        return None
    if device.startswith("cuda:"):
        raise UserError(f"device={device} says which device of this machine: on a cluster, expected cuda or cpu")
    if cluster is None:
        return _joined(str(backend), workers, device, say)
    scheme, _, address = cluster.partition("://")
    host, _, port = address.rpartition(":")
    if scheme not in _LIBRARIES or not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UserError(f"cluster={cluster}: expected dask://HOST:PORT or ray://HOST:PORT")
    if backend is None:
        raise UserError(f"cluster={cluster} has no effect: {type(evaluator).__name__} evaluates in this process")
    if backend not in ("loky", scheme):
        raise UserError(f"cluster={cluster} contradicts evaluator.backend={backend}: leave the latter out")
    library = _library(scheme, f"cluster={cluster}")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT) as greeted:
            if scheme == "dask":
                greeted.recv(1)  # a scheduler speaks first; dask's client would wait for ever for one that does not
    except OSError as error:
        raise UserError(f"cluster={cluster}: no scheduler answers there ({error}); {_how_to_start(scheme)}") from None
    connect = _connect_dask if scheme == "dask" else _connect_ray
    return connect(library, cluster, address, workers, device, say)


def choose_staff(
    evaluator: object,
    cluster: str | None,
    workers: int | None,
    device: str,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[int, ClusterStaff | None]:
    """How many candidates at a time this machine evaluates, and the workers of a cluster that do so instead.

    With a cluster, this machine builds what candidates share, on all its cores. Arguments and errors: see :func:`hire`.
    """
    here = choose_workers(workers, device)
    staff = hire(evaluator, cluster, workers, device, say)
    return here if staff is None else choose_workers(None, device), staff


def _library(backend: str, label: str) -> ModuleType:
    try:
        return importlib.import_module(_LIBRARIES[backend])
    except ImportError as error:
        raise UserError(
            f"{label}: {backend} cannot be used here ({error}): pip install 'evo_robust[cluster]'"
        ) from None


def _how_to_start(backend: str) -> str:
    command = "dask scheduler --host HOST --port 8786" if backend == "dask" else "ray start --head"
    return f"start a cluster ({command}, and workers: docs/clusters.md)"


def _joined(backend: str, workers: int | None, device: str, say: Callable[[str], None]) -> ClusterStaff:
    """Workers of the cluster that this process is connected with already."""
    label = f"evaluator.backend={backend}"
    library = _library(backend, label)
    advice = f"{label}: this process is connected with no cluster: say cluster={backend}://HOST:PORT"
    staff: ClusterStaff
    if backend == "ray":
        if not library.is_initialized():
            raise UserError(f"{advice}, or call ray.init(…) before")
        staff = RayStaff(library, label, workers, device, say)
    else:
        try:
            client = library.default_client()
        except ValueError:
            raise UserError(f"{advice}, or make a distributed.Client(…) before") from None
        staff = DaskStaff(client, label, workers, say)
    return staff.ready()


def _connect_dask(
    library: ModuleType, cluster: str, address: str, workers: int | None, device: str, say: Callable[[str], None]
) -> ClusterStaff:
    try:
        client = library.Client(f"tcp://{address}", timeout=_CONNECT, set_as_default=False, name="evo_robust")
    except (OSError, TimeoutError, ValueError) as error:
        reason = f"no scheduler answers there ({type(error).__name__})"
        raise UserError(f"cluster={cluster}: {reason}; {_how_to_start('dask')}") from None
    return DaskStaff(client, f"cluster={cluster}", workers, say, client.close).ready()


def _connect_ray(
    library: ModuleType, cluster: str, address: str, workers: int | None, device: str, say: Callable[[str], None]
) -> ClusterStaff:
    if library.is_initialized():
        raise UserError(f"cluster={cluster}: this process is connected with a ray cluster: say evaluator.backend=ray")
    _initialise_ray(library, cluster, address, say)
    return RayStaff(library, f"cluster={cluster}", workers, device, say, library.shutdown).ready()


def _initialise_ray(library: ModuleType, cluster: str, address: str, say: Callable[[str], None]) -> None:
    """Connect with the head at ``address``.

    A head starts a server of its own for every client. On a busy machine that server may be too slow, or be lost to a
    race of gRPC with ``fork``; the next one comes up. Attempts are counted, not seconds: ray's client takes minutes to
    give up one that failed.

    Raises:
        UserError: it cannot be reached, or failed :data:`_ATTEMPTS` times.
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
    raise UserError(f"cluster={cluster}: ray cannot connect ({reason}); {_how_to_start('ray')}")


def _introduction() -> Callable[[], dict[str, Any]]:
    """What a new worker is asked: a function inside a function, which travels by value to where this package is not."""
    libraries = _SAME

    def introduce() -> dict[str, Any]:
        import importlib.metadata
        import os
        import platform
        import socket

        versions = {"python": platform.python_version()}
        missing = ""
        try:
            import evo_robust.workers  # noqa: F401 (may be missing, or older)

            versions.update({name: importlib.metadata.version(name) for name in libraries})
        except ImportError as error:
            missing = str(error)
        # workers that see the same devices of a machine share them out
        shares = (socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        return {"versions": versions, "missing": missing, "shares": shares}

    return introduce


def _objection(introduced: dict[str, Any]) -> str:
    """Why a worker cannot be used; empty where it can."""
    if introduced["missing"]:
        return f"evo_robust cannot be imported there ({introduced['missing']})"
    mine = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _SAME}}
    differ = [f"{name} {its}, here {mine[name]}" for name, its in introduced["versions"].items() if its != mine[name]]
    return f"figures may differ with its versions: {'; '.join(differ)}" if differ else ""


class ClusterStaff(Staff):
    """Workers of a cluster, which may come and go.

    Args:
        label: the setting that asked for the cluster, for messages.
        limit: tasks under way at most; no limit when None.
        say: takes one line of text.
        disconnect: ends the connection; None where others made it.
    """

    retried_together = sys.maxsize  # they do not share memory
    lack = "it has no workers, or none that answers"

    def __init__(
        self,
        label: str,
        limit: int | None,
        say: Callable[[str], None],
        disconnect: Callable[[], None] | None,
    ) -> None:
        self.label, self.say, self.disconnect = label, say, disconnect
        self.limit = sys.maxsize if limit is None else limit
        self.places: dict[Hashable, int] = {}
        self.objections: dict[Hashable, str] = {}
        self._shares: dict[Any, dict[int, Hashable]] = collections.defaultdict(dict)
        self._alone_since: float | None = None

    @abc.abstractmethod
    def look(self) -> None:
        """Admit who is new; let go who has left without a task."""

    @property
    def size(self) -> int:
        """See :meth:`Staff.size`."""
        return max(1, min(self.limit, len(self.places)))

    def ready(self) -> ClusterStaff:
        """Itself, once there is a worker that can be used.

        Raises:
            UserError: there is none; the connection is closed then.
        """
        began = time.monotonic()
        try:
            while not self.places:
                self.look()
                waited = time.monotonic() - began
                if self.objections and waited > 1 or waited > (_FIRST if self.expects else _CONNECT):
                    reasons = list(dict.fromkeys(self.objections.values()))
                    reason = reasons[0] if reasons else self.lack
                    raise UserError(f"{self.label}: no worker can be used: {reason} (docs/clusters.md)")
                time.sleep(0.05)
        except BaseException:
            self.close()
            raise
        return self

    @property
    def expects(self) -> bool:
        """Whether some worker is there that did not answer yet."""
        return False

    def admit(self, worker: Hashable, introduced: dict[str, Any]) -> None:
        """Give a worker its place among those that share its devices, unless it is of no use."""
        if objection := _objection(introduced):
            self.refuse(worker, objection)
            return
        group = self._shares[introduced["shares"]]
        self.places[worker] = place = next(i for i in itertools.count() if i not in group)
        group[place] = worker

    def refuse(self, worker: Hashable, objection: str) -> None:
        """Do not use a worker, and say so."""
        self.objections[worker] = objection
        self.say(f"warning: {self.label}: a worker is not used: {objection}")

    def leave(self, worker: Hashable) -> None:
        """Forget a worker."""
        place = self.places.pop(worker, None)
        for group in self._shares.values():
            if place is not None and group.get(place) == worker:
                del group[place]

    def idle(self, busy: Collection[Hashable]) -> Sequence[Hashable]:
        """See :meth:`Staff.idle`.

        Raises:
            UserError: there was no worker for ten minutes.
        """
        self.look()
        if self.places:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = time.monotonic()
            self.say(f"{self.label}: no worker is left: waiting for one")
        elif time.monotonic() - self._alone_since > _PATIENCE:
            raise UserError(
                f"{self.label}: there was no worker for {_PATIENCE:.0f} s; what is finished is kept: start workers and "
                "run the same command again"
            )
        return [worker for worker in self.places if worker not in busy][: max(0, self.limit - len(busy))]


class DaskStaff(ClusterStaff):
    """Workers of a dask cluster: those that the scheduler knows, by address and folder (an address may come again).

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
            # asked at first hand: ``scheduler_info`` keeps its last answer where the scheduler is gone
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
            self.introductions[worker] = self._submit(worker, _introduction())
        for worker, future in list(self.introductions.items()):
            if future.status == "finished":
                self.admit(worker, future.result(timeout=_CONNECT))
                del self.introductions[worker]

    def _of_my_python(self, workers: set[tuple[str, str]]) -> list[tuple[str, str]]:
        """Those that can read functions of this Python, which they drop their connection over otherwise."""
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
        """A future of ``function`` on this worker and no other."""
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
        """What a task came to; its worker is gone where it is not done."""
        if future.status == "finished":
            try:
                return future.result(timeout=_CONNECT)
            except Exception as error:  # the result was still with a worker that died
                future.cancel()
                return Died(f"its result was lost: {type(error).__name__}")
        reason = "its worker left the cluster"
        if future.status == "error":  # ``perform`` raises nothing: it is dask's own
            fault = future.exception(timeout=_CONNECT)
            reason = f"{type(fault).__name__}: {fault}"
        future.cancel()
        return Died(reason)

    def dismiss(self, busy: Collection[Hashable]) -> None:
        """See :meth:`Staff.dismiss`; dask lets what is under way come to its end."""
        self.client.cancel([self.futures.pop(worker) for worker in busy if worker in self.futures])

    def close(self) -> None:
        """See :meth:`Staff.close`."""
        self.futures.clear()
        self.introductions.clear()
        if self.disconnect is not None:
            self.disconnect()
            self.disconnect = None


class RayStaff(ClusterStaff):
    """Actors of a ray cluster, one CPU each, and a device each where candidates want one.

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
        say: Callable[[str], None],
        disconnect: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(label, limit, say, disconnect)
        self.ray = ray
        self.options: dict[str, Any] = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0}
        resources = ray.cluster_resources()
        devices, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        if device != "cpu":
            wanted = devices if limit is None else limit
            # several share a device where there are more of them
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
            self.introductions[new] = new.introduce.remote(_introduction())
        by_ref = {ref: worker for worker, ref in self.introductions.items()}
        for ref in self._done(by_ref, 0):
            del self.introductions[by_ref[ref]]
            try:
                self.admit(by_ref[ref], self.ray.get(ref))
            except self.ray.exceptions.RayError as error:
                self.objections[by_ref[ref]] = str(error).strip().rpartition("\n")[2]

    def _done(self, refs: Collection[Any], timeout: float) -> list[Any]:
        """Those of ``refs`` that are there, after ``timeout`` seconds at most."""
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
            except self.ray.exceptions.RayError as error:  # ``perform`` raises nothing: it is ray's own
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
    """What lives in a worker process of ray."""

    def introduce(self, ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Tell who it is."""
        return ask()

    def perform(self, payload: bytes, place: int) -> bytes:
        """See :func:`evo_robust.workers.perform`."""
        return perform(payload, place)
