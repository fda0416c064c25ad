"""Networks with initial weights: reproducible ones from a seed, or any, where only the structure matters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def fresh_weights(seed: int) -> Iterator[None]:
    """Inside, networks built on the CPU get initial weights from ``seed``.

    Modules draw their weights from torch's global generator, which is restored on leaving.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def untrained() -> Iterator[None]:
    """Inside, build networks on the CPU only to inspect them; torch's random state does not change."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        yield
