"""Networks with initial weights: those that follow from a seed, and those that are only looked at."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def fresh_weights(seed: int) -> Iterator[None]:
    """Inside, networks that are built on the CPU get the initial weights of ``seed``; nothing else is left changed.

    Modules draw their weights from torch's global generator, which is put back on leaving.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def untrained() -> Iterator[None]:
    """Inside, networks are built on the CPU for a look at them; torch's random state stays as it was."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        yield
