"""The common part of all clusters' workers: which may work, and which are idle."""

from __future__ import annotations

import abc
import collections
import importlib.metadata
import itertools
import platform
import sys
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

from evo_robust.parts.base import UserError
from evo_robust.progress import Say
from evo_robust.workers import Staff

_SAME = ("evo_robust", "torch", "numpy")

CONNECT = 10.0
"""Seconds to wait for an answer from a scheduler, and then from the first worker."""

_FIRST = 120.0
"""Seconds to wait until the first worker has imported this package."""

_PATIENCE = 600.0
"""Seconds that a search waits for new workers when all are gone."""


def how_to_start(backend: str) -> str:
    """Advice at the end of a message that no cluster answers."""
    command = "dask scheduler --host HOST --port 8786" if backend == "dask" else "ray start --head"
    return f"start a cluster ({command}, and workers: docs/clusters.md)"


def introduction() -> Callable[[], dict[str, Any]]:
    """The function to call on a new worker; a nested one is pickled by value, even where this package is missing."""
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
        # workers that see the same devices of a machine share them
        shares = (socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        return {"versions": versions, "missing": missing, "shares": shares}

    return introduce


def _objection(introduced: dict[str, Any]) -> str:
    """The reason why a worker cannot be used; empty where it can."""
    if introduced["missing"]:
        return f"evo_robust cannot be imported there ({introduced['missing']})"
    mine = {"python": platform.python_version(), **{name: importlib.metadata.version(name) for name in _SAME}}
    differ = [f"{name} {its}, here {mine[name]}" for name, its in introduced["versions"].items() if its != mine[name]]
    return f"figures may differ with its versions: {'; '.join(differ)}" if differ else ""


class ClusterStaff(Staff):
    """Workers of a cluster, which may come and go.

    Args:
        label: the setting that asked for the cluster, for messages.
        limit: largest number of tasks at a time; None for no limit.
        say: called with each line of text.
        disconnect: ends the connection; None where the user's program made it.
    """

    retried_together = sys.maxsize  # they do not share memory
    lack = "it has no workers, or none of them answers"

    def __init__(
        self,
        label: str,
        limit: int | None,
        say: Say,
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
        """Admit new workers; remove those that have left without a task."""

    @property
    def size(self) -> int:
        """See :meth:`Staff.size`."""
        return max(1, min(self.limit, len(self.places)))

    def ready(self) -> ClusterStaff:
        """Wait until there is a worker that can be used; returns itself.

        Raises:
            UserError: there is none; the connection is closed.
        """
        began = time.monotonic()
        try:
            while not self.places:
                self.look()
                waited = time.monotonic() - began
                if self.objections and waited > 1 or waited > (_FIRST if self.expects else CONNECT):
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
        """Whether there are workers that have not answered yet."""
        return False

    def admit(self, worker: Hashable, introduced: dict[str, Any]) -> None:
        """Give a worker its place among those that share its devices, if it can be used."""
        if objection := _objection(introduced):
            self.refuse(worker, objection)
            return
        group = self._shares[introduced["shares"]]
        self.places[worker] = place = next(i for i in itertools.count() if i not in group)
        group[place] = worker

    def refuse(self, worker: Hashable, objection: str) -> None:
        """Leave a worker out, and print the reason."""
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
            self.say(f"{self.label}: no worker is left; waiting for one")
        elif time.monotonic() - self._alone_since > _PATIENCE:
            raise UserError(
                f"{self.label}: there was no worker for {_PATIENCE:.0f} s; what is finished is kept: start workers and "
                "run the same command again"
            )
        return [worker for worker in self.places if worker not in busy][: max(0, self.limit - len(busy))]
