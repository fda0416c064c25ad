"""How far a search has come, while it runs and afterwards, also where weights are trained with it."""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any

import chz
import numpy as np
import pytest
from rich.console import Console
from small import small_supernet

from evo_robust import DARTS, CleanError, Digits, Params, Problem, progress, search
from evo_robust.algorithms.hybrid import GradientHybrid
from evo_robust.evaluators.one_shot import OneShot
from evo_robust.gradients import EstimatedLoss, SupernetLoss
from evo_robust.plotting.progress import own_curve
from evo_robust.progress import Printed, Progress
from evo_robust.record.indicators import first_box, hypervolume, nondominated, objective_matrix
from evo_robust.record.reading import Run
from evo_robust.record.view import view_of

CO_TRAINED = Problem(
    space=DARTS(channels=4, layers=2, nodes=2),
    data=Digits(train_limit=200),
    objectives=(CleanError(), Params()),
    evaluator=small_supernet(3, warmup=1),
    # the schedule of three epochs is over after the second generation: the third has the same weights
    algorithm=GradientHybrid(pop_size=4, n_gen=3, gradient=SupernetLoss(lr=0.05, batch_size=50)),
)


@pytest.fixture(scope="module")
def co_trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A small co-trained search, and what it printed."""
    file = io.StringIO()
    reporter = Printed(Console(file=file, width=120))
    return search(CO_TRAINED, tmp_path_factory.mktemp("run") / "run", workers=1, reporter=reporter), file.getvalue()


# --- afterwards


def test_earlier_weights_are_no_failures(co_trained: tuple[Run, str]) -> None:
    run, _ = co_trained
    networks = len({row["architecture"] for row in run.evaluations})
    assert len(run.evaluations) == 16 and networks < 16, "survivors were measured twice"
    algorithm = CO_TRAINED.algorithm
    assert algorithm.budget(CO_TRAINED.evaluator) == 16, "the third generation's survivors keep their weights"
    assert co_trained[1].count("(evaluator.supernet.epochs=3) is over: from generation 3 on") == 1
    # estimators of a loss may change what is measured after the schedule too
    assert chz.replace(algorithm, gradient=EstimatedLoss()).budget(CO_TRAINED.evaluator) == 20
    assert algorithm.budget(OneShot()) == 12
    assert view_of(run).summary() == (
        f"{networks} networks evaluated 16 times, 4 times with earlier weights, {len(run.front)} on the front"
    )


def test_hypervolume_of_each_generation_is_that_of_its_own_weights(co_trained: tuple[Run, str]) -> None:
    run, _ = co_trained
    F = objective_matrix(run.evaluations, run.objectives)
    own = [F[:4], F[4:12], F[4:]]
    expected = [hypervolume(points[nondominated(points)], first_box(F[:4])) for points in own]
    curve = own_curve(view_of(run))
    assert curve.evaluations.tolist() == [4, 12, 16]
    np.testing.assert_allclose(curve.values, expected)


# --- while it runs


def test_a_warm_up_tells_nothing_of_the_time_left(co_trained: tuple[Run, str]) -> None:
    lines = [line for line in co_trained[1].splitlines() if line.startswith("generation")]
    assert lines[0].endswith("left ?")
    assert re.search(r"left \d+:\d\d$", lines[1])
    assert "left" not in lines[2]


def test_what_is_replayed_tells_no_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    told = Printed()
    told.start(total=8, known=4)
    for number in range(1, 5):
        told.evaluated({"status": "ok"}, replayed=number < 3)
        if number % 2 == 0:
            told.generation(Progress(number // 2, number, 0.5, 1, 1.0), n_gen=4)
    first, second = capsys.readouterr().out.splitlines()[1:]
    assert first.endswith("time 0:01") and re.search(r"time 0:01  left \d+:\d\d$", second)


class Clock:
    """Seconds that a test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))


def report(
    clock: Clock, printed: Printed, seconds: list[float], sizes: list[int], *, replayed: int = 0, **more: Any
) -> None:
    """Tell of a search whose generations took so many ``seconds`` and evaluations, the first ones replayed."""
    printed.start(sum(sizes), known=sum(sizes[:replayed]), **more)
    for number, (spent, size) in enumerate(zip(seconds, sizes, strict=True), 1):
        clock.now += spent
        for _ in range(size):
            printed.evaluated({"status": "ok"}, replayed=number <= replayed)
        printed.generation(Progress(number, sum(sizes[:number]), 0.5, 1, clock.now), len(sizes))


@pytest.mark.parametrize(
    ("seconds", "sizes", "more", "left"),
    [
        # workers start in the first generation: 40 candidates at the pace so far, then 30 and 20 at the later one
        ([60, 10, 10, 10, 10], [10] * 5, {}, ["4:00", "0:30", "0:20", "0:10"]),
        # 60 epochs of warm-up, then survivors are measured again
        (
            [278, 60, 60, 66, 60, 60],
            [10, 20, 20, 20, 20, 20],
            {"co_trained": True},
            ["?", "4:00", "3:00", "2:04", "1:02"],
        ),
        ([0, 0, 20, 20], [10] * 4, {"replayed": 2}, ["0:20"]),
        ([0, 60, 60, 60], [10, 20, 20, 20], {"replayed": 1, "co_trained": True}, ["2:00", "1:00"]),
    ],
    ids=["plain", "co-trained", "resumed", "co-trained, resumed"],
)
def test_time_left(
    seconds: list[float], sizes: list[int], more: dict[str, Any], left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    report(Clock(monkeypatch), Printed(Console(file=file, width=120)), seconds, sizes, **more)
    assert re.findall(r"left (\S+)", file.getvalue()) == left


def test_the_bar_counts_down_to_the_same_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    printed = Printed(Console(file=io.StringIO(), width=120, force_terminal=True))
    shown = []

    def look() -> None:
        assert printed._bar is not None and printed._task is not None
        shown.append(str(printed._bar.columns[-1](printed._bar.tasks[0])))

    printed.start(50, known=0, co_trained=True)
    look()
    for number, (size, seconds) in enumerate(((10, 278), (20, 60)), 1):
        clock.now += seconds
        for _ in range(size):
            printed.evaluated({"status": "ok"}, replayed=False)
        look()
        printed.generation(Progress(number, 20 * number - 10, 0.5, 1, clock.now), 3)
        look()
    clock.now += 45
    printed.evaluated({"status": "ok"}, replayed=False)
    look()
    clock.now += 30
    look()
    printed.stop()
    assert shown == ["?", "?", "?", "?", "1:00", "0:15", "0:00"]
