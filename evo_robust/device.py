"""The choice of device, of the number of candidates at a time, and of threads."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Iterator

import joblib
import torch

from evo_robust.parts.base import UserError

MOST_THREADS = 1024
"""Largest number of CPU threads of a process; if torch's library cannot start them, it ends the process."""

MOST_WORKERS = 1024
"""Largest number of candidates that a machine evaluates at a time; each has a process of its own, with torch."""


def choose_device(name: str) -> str:
    """The device for a name: ``auto`` is CUDA where there is one, else the CPU; other names are checked.

    Raises:
        UserError: this machine has no such device.
    """
    if not isinstance(name, str):
        raise UserError(f"device={name!r}: expected text, such as auto, cpu, cuda or cuda:INDEX")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError):  # numbers beyond an index too
        raise UserError(f"device={name}: expected auto, cpu, cuda or cuda:INDEX") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name}: expected auto, cpu, cuda or cuda:INDEX")
    if device.type == "cpu" and device.index is not None:
        raise UserError(f"device={name}: the CPU is one device: expected device=cpu; workers=N uses N of its cores")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise UserError(f"device={name}: no CUDA device is at hand; use device=cpu")
        if device.index is not None and device.index >= count:
            raise UserError(f"device={name}: there are {count} CUDA devices, 0 to {count - 1}")
    return name


def choose_workers(workers: int | None, device: str) -> int:
    """The number of candidates evaluated at a time; all cores, or one per CUDA device, when not given.

    Raises:
        UserError: it is below one, or too large.
    """
    if workers is None:
        if device == "cuda":
            return torch.cuda.device_count()
        return 1 if device.startswith("cuda") else joblib.cpu_count()
    if not isinstance(workers, numbers.Integral) or isinstance(workers, bool):
        raise UserError(f"expected workers to be a whole number, got {workers!r}")
    if workers < 1:
        raise UserError(f"expected workers >= 1, got {workers}")
    if workers > MOST_WORKERS:
        raise UserError(
            f"expected workers <= {MOST_WORKERS}, got {workers}; this machine has {joblib.cpu_count()} cores"
        )
    return int(workers)


@contextlib.contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Inside, use exactly ``threads`` CPU threads; another order of sums would change the last bits of figures."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
