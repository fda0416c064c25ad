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
    given = {
        "EVO_ROBUST_CACHE": str(tmp_path_factory.mktemp("cache")),
        # who wants workers says how many: by default there is one per core, and each of them imports torch
        "LOKY_MAX_CPU_COUNT": "1",
    }
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    yield
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


LONG = (
    *(
        "readme",
        "clusters",
        "hybrid",
        "confidence",
        "problems",
        "analyze",
        "one_shot",
        "retrain",
        "kills",
        "run",
        "signals",
    ),
    *("strangers", "darts_supernet", "adversarial_set", "candidates", "from_scratch", "workers", "supernet", "darts"),
    *("journey", "damaged", "estimated", "sources", "export", "search", "plot", "plot_groups", "lipschitz"),
    *("zoo", "retrain_front", "train", "signs", "together", "counts", "level", "attacks", "denoising", "chosen"),
)
"""Files that take longest, longest first: ``make test`` hands files out in this order, so that none comes last."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long files first; the order within a file stays."""
    place = {f"test_{name}": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))
