"""Tests neither read nor fill a user's cache, and they find the development data where it lies."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache folder for the whole session: what one test builds, the next one finds."""
    # networks here are tiny: a second thread costs more than it brings
    torch.set_num_threads(1)
    before = os.environ.get("EVO_ROBUST_CACHE")
    os.environ["EVO_ROBUST_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["EVO_ROBUST_CACHE"]
    else:
        os.environ["EVO_ROBUST_CACHE"] = before
