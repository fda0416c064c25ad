"""A candidate's time limit, where the system's timer could not hold it."""

from __future__ import annotations

import time

import pytest

from evo_robust.evaluators.time_limit import within


@pytest.mark.parametrize("limit", [1e12, 1e300])
def test_a_limit_beyond_the_systems_clock_is_none_that_is_reached(limit: float) -> None:
    assert within(limit, time.monotonic(), lambda: "done") == "done"
