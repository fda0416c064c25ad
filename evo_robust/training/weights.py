"""Initial weights that follow from a seed."""

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
