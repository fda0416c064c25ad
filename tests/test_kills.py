"""A few kills of a small search; ``tests/benchmarks/kills.py`` does sixty of all four methods."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

import pytest
from benchmarks import kills

from evo_robust import run

SEARCH = [
    *("space.nodes=3", "space.channels=4", "evaluator.epochs=1", "recorded=", "recorded.0=Params"),
    *("algorithm.pop_size=5", "algorithm.n_gen=2"),
]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc for processes that are left")
def test_killed_in_the_middle_of_evaluations_it_ends_with_the_same_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def soon(process: object, folder: Path, rng: random.Random) -> None:
        class Always(random.Random):
            def random(self) -> float:
                return 0.0

            def randint(self, a: int, b: int) -> int:
                return 1

        await_moment(process, folder, Always())  # type: ignore[arg-type]

    def run_here(method: str, workers: int, folder: Path) -> dict[str, Any]:
        """What nobody kills: no process of its own, and no worker either."""
        assert run.main(kills.arguments(method, 1, folder)) == 0
        return kills.record(folder)

    await_moment = kills.await_moment
    monkeypatch.setattr(kills, "await_moment", soon)
    monkeypatch.setattr(kills, "run_through", run_here)
    monkeypatch.setattr(kills, "SIGNALS", (signal.SIGKILL, signal.SIGTERM, signal.SIGINT))  # the two that differ most
    monkeypatch.setitem(kills.METHODS, "roco_baseline", SEARCH)
    done, same = kills.series("roco_baseline", 2, 2, tmp_path)
    assert same and {kill.signal for kill in done} == {"SIGINT", "SIGKILL"}
    assert all(kill.status and kill.quiet and kill.left == 0 for kill in done)
    assert any(kill.inside for kill in done)
