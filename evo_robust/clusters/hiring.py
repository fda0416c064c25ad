"""From the settings of a search to the workers that evaluate its candidates."""

from __future__ import annotations

import importlib
import socket
from types import ModuleType
from typing import Protocol

from evo_robust.clusters import dask, ray
from evo_robust.clusters.staff import CONNECT, ClusterStaff, how_to_start
from evo_robust.device import choose_workers
from evo_robust.parts.base import UserError
from evo_robust.progress import Say, silent

_LIBRARIES = {"dask": "distributed", "ray": "ray"}


class Evaluated(Protocol):
    """What hiring needs of an evaluator; see :class:`evo_robust.evaluators.base.Evaluator`."""

    @property
    def cluster(self) -> str | None:
        """Where its candidates are evaluated."""


def hire(evaluator: Evaluated, cluster: str | None, workers: int | None, device: str, say: Say) -> ClusterStaff | None:
    """The workers of the cluster that a search uses; None where it stays on this machine.

    Args:
        evaluator: the evaluator; its ``cluster`` may ask for a cluster that is connected already.
        cluster: address to connect to, ``dask://HOST:PORT`` or ``ray://HOST:PORT``.
        workers: largest number of tasks at a time; as many as the cluster has workers when not given.
        device: torch device of the candidates.
        say: called with each line of text.

    Raises:
        UserError: the library is missing, nobody answers, or the settings contradict each other.
    """
    backend = evaluator.cluster
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
        with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT) as greeted:
            if scheme == "dask":
                greeted.recv(1)  # a scheduler sends first; dask's client would wait for ever for one that does not
    except OSError as error:
        raise UserError(f"cluster={cluster}: no scheduler answers there ({error}); {how_to_start(scheme)}") from None
    connect = dask.connect if scheme == "dask" else ray.connect
    return connect(library, cluster, address, workers, device, say)


def choose_staff(
    evaluator: Evaluated,
    cluster: str | None,
    workers: int | None,
    device: str,
    say: Say = silent,
) -> tuple[int, ClusterStaff | None]:
    """The number of candidates that this machine evaluates at a time, and the cluster's workers, if there are any.

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


def _joined(backend: str, workers: int | None, device: str, say: Say) -> ClusterStaff:
    """Workers of the cluster that this process is already connected to."""
    label = f"evaluator.backend={backend}"
    library = _library(backend, label)
    advice = f"{label}: this process is connected with no cluster: say cluster={backend}://HOST:PORT"
    staff: ClusterStaff
    if backend == "ray":
        if not library.is_initialized():
            raise UserError(f"{advice}, or call ray.init(…) before")
        staff = ray.RayStaff(library, label, workers, device, say)
    else:
        try:
            client = library.default_client()
        except ValueError:
            raise UserError(f"{advice}, or make a distributed.Client(…) before") from None
        staff = dask.DaskStaff(client, label, workers, say)
    return staff.ready()
