"""Whatever one candidate does, the search goes on: odd figures, exits, and what takes too long."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
import torch
from toys import Integers, Total, Toy

from evo_robust.algorithms.random import RandomSearch
from evo_robust.attacks.gradient import PGD
from evo_robust.data.sets import Digits
from evo_robust.evaluators.base import Evaluation
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.evaluators.time_limit import within
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.objectives.combined import WeightedSum
from evo_robust.objectives.constraints import Constraint
from evo_robust.objectives.cost import Flops
from evo_robust.objectives.errors import RobustError
from evo_robust.objectives.figures import as_json
from evo_robust.problem.value import Problem
from evo_robust.search import search
from evo_robust.spaces import NSGAPhases
from evo_robust.training.steps import TimeLimit

TINY = Problem(
    space=NSGAPhases(phases=2, nodes=3, channels=4),
    data=Digits(train_limit=240, test_limit=40),
    objectives=(Flops(),),
    evaluator=FromScratch(epochs=0),
    algorithm=RandomSearch(pop_size=4, n_gen=1),
)


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Aborted(BaseException):
    """As test frameworks and event loops have them."""


def _raise(error: BaseException) -> float:
    raise error


def _loop() -> float:
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            continue


ODD: dict[str, Callable[[Candidate], Any]] = {
    "NaN": lambda c: c.figures.update(odd={"ratio": float("nan"), "all": [float("inf"), 1.5]}),
    "NumPy": lambda c: c.figures.update(odd=[np.float32(0.5), np.int64(3), np.bool_(True), np.arange(2)]),
    "tensor": lambda c: c.figures.update(odd=torch.tensor([1.0, 2.0])),
    "set": lambda c: c.figures.update(odd={"b", "a"}),
    "path and tuple": lambda c: c.figures.update(odd=(Path("a/b"), 1)),
    "keys": lambda c: c.figures.update(odd={np.float64(0.05): 1, 2: 3, None: 4, True: 5}),
    "surrogate": lambda c: c.figures.update({"odd\udcff": "text \ud800"}),
}
BROKEN: dict[str, tuple[Callable[[Candidate], Any], str]] = {
    "object": (lambda c: c.figures.update(odd=object()), "TypeError: the figure odd is a object"),
    "function": (lambda c: c.figures.update(odd={"f": [len]}), "TypeError: the figure odd.f.0 is a builtin"),
    "long": (lambda c: c.figures.update(odd=10**5000), "ValueError: the figure odd is a whole number of"),
    "twice": (lambda c: c.figures.update(odd={1: 0, "1": 0}), "keys that JSON writes alike"),
    "itself": (lambda c: c.figures.update(odd=c.figures), "ValueError: the figure odd is nested too deep"),
    "key": (lambda c: c.figures.update(odd={(1, 2): 0}), "has the key"),
    "exit": (lambda c: _raise(SystemExit(3)), "SystemExit: 3"),
    "exit without": (lambda c: _raise(SystemExit()), "SystemExit"),
    "base": (lambda c: _raise(Aborted("enough")), "Aborted: enough"),
    "generator exit": (lambda c: _raise(GeneratorExit()), "GeneratorExit"),
    "stop": (lambda c: _raise(StopIteration()), "StopIteration"),
    "memory": (lambda c: _raise(MemoryError()), "MemoryError"),
    "unspeakable": (lambda c: _raise(Unspeakable()), "Unspeakable: its message cannot be read"),
    "surrogates": (lambda c: _raise(ValueError("bad \udc80 file")), r"ValueError: bad \udc80 file"),
    "hangs": (lambda c: _loop(), "took longer than evaluator.time_limit=4 s"),
}


@chz.chz
class Odd(Objective):
    """Does what its name says to one of the candidates."""

    kind: str
    victim: str

    def measure(self, candidate: Candidate) -> float:
        if candidate.text == self.victim:
            (ODD.get(self.kind) or BROKEN[self.kind][0])(candidate)
        return 0.5


@chz.chz
class Deadly(Objective):
    """Kills the worker process of one architecture, as the kernel does when memory runs out."""

    victim: str = ""

    def measure(self, candidate: Candidate) -> float:
        if candidate.text == self.victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return 0.5


def distinct(problem: Problem, n: int) -> list[Any]:
    rng = np.random.default_rng(0)
    found = {problem.space.decode(problem.space.sample(rng)): None for _ in range(20 * n)}
    return list(found)[:n]


def evaluate(problem: Problem, architectures: list[Any], workers: int = 1) -> list[Evaluation]:
    session = problem.start("cpu", workers)
    try:
        arrived = dict(session.evaluate(architectures))
    finally:
        session.close()
    return [arrived[i] for i in range(len(architectures))]


def first_of(problem: Problem) -> str:
    """The architecture that a search asks for first."""
    adapted = problem.to_pymoo(device="cpu", workers=1)
    algorithm = problem.algorithm.build(adapted)
    algorithm.next()
    return next(text for text, _ in adapted.evaluations)


@pytest.mark.parametrize("kind", ODD)
def test_odd_figures_are_kept_as_json(kind: str, tmp_path: Path) -> None:
    problem = chz.replace(TINY, objectives=(Flops(), Odd(kind=kind, victim=first_of(TINY))))
    run = search(problem, tmp_path / "run", device="cpu", workers=1)
    assert [row["status"] for row in run.evaluations] == ["ok"] * 4
    lines = (tmp_path / "run/evaluations.jsonl").read_text(encoding="utf-8").splitlines()
    for line in lines:
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    # the replay takes what was kept
    assert search(problem, tmp_path / "run", device="cpu", workers=1).evaluations == run.evaluations


@pytest.mark.parametrize("kind", BROKEN)
def test_a_candidate_that_cannot_be_kept_fails_alone(kind: str, tmp_path: Path) -> None:
    evaluator = FromScratch(epochs=0, time_limit=4) if kind == "hangs" else TINY.evaluator
    problem = chz.replace(TINY, evaluator=evaluator, objectives=(Flops(), Odd(kind=kind, victim=first_of(TINY))))
    run = search(problem, tmp_path / "run", device="cpu", workers=1)
    assert [row["status"] for row in run.evaluations] == ["failed", "ok", "ok", "ok"]
    assert BROKEN[kind][1] in run.evaluations[0]["error"]
    assert search(problem, tmp_path / "run", device="cpu", workers=1).evaluations == run.evaluations


ANSWERS: dict[str, tuple[Any, float | str]] = {
    "text": ("1", "TypeError: answer: expected a number, got '1' (str)"),
    "nothing": (None, "TypeError: answer: expected a number, got None (NoneType)"),
    "truth": (True, "TypeError: answer: expected a number, got True (bool); write float(…) if 0 and 1 are meant"),
    "NumPy's truth": (np.bool_(False), "TypeError: answer: expected a number, got"),
    "tensor of truth": (torch.tensor(True), "TypeError: answer: expected a number, got"),
    "complex": (1j, "TypeError: answer: expected a number, got 1j (complex)"),
    "vector": (torch.ones(3), "TypeError: answer: expected a number, got tensor([1., 1., 1.]) (Tensor)"),
    "empty": (np.ones(0), "TypeError: answer: expected a number, got"),
    "NumPy's text": (np.array("1"), "TypeError: answer: expected a number, got"),
    "NaN": (torch.tensor(float("nan")), "ValueError: answer is nan"),
    "huge": (10**400, "ValueError: answer is 1000000000"),
    "whole": (3, 3.0),
    "NumPy's": (np.float32(0.5), 0.5),
    "tensor": (torch.tensor([2.0], requires_grad=True), 2.0),
    "array": (np.array([[4]]), 4.0),
    "fraction": (Fraction(1, 4), 0.25),
}


@chz.chz
class Answer(Objective):
    """Returns what its kind says."""

    kind: str

    def measure(self, candidate: Candidate) -> float:
        return ANSWERS[self.kind][0]  # type: ignore[no-any-return]


@chz.chz
class Answered(Constraint):
    """Whose violation is what the objective's kind says."""

    def violation(self, value: float) -> float:
        return ANSWERS[self.of.label or ""][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ANSWERS)
def test_what_is_measured_is_a_number(kind: str) -> None:
    expected = ANSWERS[kind][1]
    answer = Answer(kind=kind, label="answer")
    measured = evaluate(chz.replace(TINY, objectives=(answer,)), distinct(TINY, 1))[0]
    summed = evaluate(chz.replace(TINY, objectives=(WeightedSum(of=(answer,)),)), distinct(TINY, 1))[0]
    limited = chz.replace(TINY, constraints=(Answered(of=chz.replace(Flops(), label=kind), at_most=1),))
    violation = evaluate(limited, distinct(TINY, 1))[0]
    other = Evaluation(architecture="a", status="ok", objectives={"answer": ANSWERS[kind][0]}).sound()
    if isinstance(expected, str):
        assert {e.status for e in (measured, summed, violation, other)} == {"failed"}
        for found in (measured, summed, other):
            assert (found.error or "").startswith(expected)
        assert (violation.error or "").startswith(expected.replace("answer", f"{kind}_at_most"))
    else:
        for found, name in ((measured, "answer"), (summed, "weighted_sum"), (other, "answer")):
            assert (found.status, found.objectives[name], type(found.objectives[name])) == ("ok", expected, float)
        assert (violation.status, violation.constraints) == ("rejected", {f"{kind}_at_most": expected})


def test_workers_keep_and_fail_alike_and_a_dead_one_costs_only_its_candidate() -> None:
    architectures = distinct(TINY, 4)
    function, exits, dies, _ = map(TINY.space.to_text, architectures)
    odd = [Odd(kind=kind, victim=text, label=kind) for kind, text in (("function", function), ("exit", exits))]
    problem = chz.replace(TINY, objectives=(Flops(), *odd, Deadly(victim=dies)))
    evaluations = evaluate(problem, architectures, workers=2)
    assert [e.status for e in evaluations] == ["failed", "failed", "failed", "ok"]
    reasons = ("the figure odd.f.0", "SystemExit: 3", "worker process died")
    for evaluation, reason in zip(evaluations, reasons, strict=False):
        assert reason in (evaluation.error or "")
    hangs = chz.replace(TINY, objectives=(Odd(kind="hangs", victim=function),), evaluator=FromScratch(time_limit=2))
    evaluation = evaluate(hangs, architectures[:1], workers=2)[0]
    assert evaluation.error == "took longer than evaluator.time_limit=2 s"


def test_figures_of_any_evaluator_are_made_sound(tmp_path: Path) -> None:
    @chz.chz
    class Wild(Total):
        def measure(self, candidate: Any) -> float:
            return float("nan") if candidate[0] == 0 else super().measure(candidate)

    problem = Problem(
        space=Integers(),
        data=TINY.data,
        objectives=(Wild(),),
        evaluator=Toy(),
        algorithm=RandomSearch(pop_size=20, n_gen=1),
    )
    run = search(problem, tmp_path / "run", device="cpu", workers=1)
    assert {row["status"] for row in run.evaluations} == {"ok", "failed"}
    assert {row["error"] for row in run.evaluations if row["status"] == "failed"} == {"ValueError: wild is nan"}


def test_a_violation_that_is_no_number_fails(tmp_path: Path) -> None:
    problem = chz.replace(TINY, constraints=(Constraint(of=Flops(), at_most=1e-307),))
    evaluation = evaluate(problem, distinct(TINY, 1))[0]
    assert (evaluation.status, evaluation.error) == ("failed", "ValueError: flops_at_most is inf")


# ---- the time limit


def test_an_attack_under_way_is_cut() -> None:
    endless = RobustError(attack=PGD(steps=10**7))
    problem = chz.replace(TINY, objectives=(Flops(), endless), evaluator=FromScratch(epochs=0, time_limit=1))
    handler, threads = signal.getsignal(signal.SIGALRM), torch.get_num_threads()
    state = torch.get_rng_state()
    evaluation = evaluate(problem, distinct(TINY, 1))[0]
    assert evaluation.status == "failed" and "evaluator.time_limit=1" in (evaluation.error or "")
    assert evaluation.seconds < 60  # by itself it would take hours
    assert signal.getsignal(signal.SIGALRM) is handler and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    # nothing of it disturbs the next candidate
    assert evaluate(TINY, distinct(TINY, 2)[1:])[0].status == "ok"


def test_work_in_time_is_left_alone() -> None:
    assert within(60.0, time.monotonic(), lambda: 7) == 7
    assert within(None, time.monotonic(), lambda: 8) == 8
    with pytest.raises(ZeroDivisionError):
        within(60.0, time.monotonic(), lambda: 1 // 0)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_another_timer_goes_on() -> None:
    rang = []
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(TimeLimit):
            within(0.01, time.monotonic(), _loop)
        end = time.monotonic() + 30
        while not rang and time.monotonic() < end:
            time.sleep(0.01)
        assert rang
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_work_that_swallows_everything_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo_robust.evaluators.time_limit._AGAIN", 0.1)
    caught = []

    def stubborn() -> None:
        while len(caught) < 2:
            try:
                time.sleep(60)
            except BaseException as error:
                caught.append(error)
        time.sleep(60)

    with pytest.raises(TimeLimit):
        within(0.1, time.monotonic(), stubborn)
    assert len(caught) == 2


def test_in_a_thread_the_deadline_is_looked_at_between_steps() -> None:
    problem = chz.replace(TINY, evaluator=FromScratch(epochs=10**6, time_limit=0.3))
    found: list[Evaluation] = []
    thread = threading.Thread(target=lambda: found.extend(evaluate(problem, distinct(TINY, 1))))
    thread.start()
    thread.join(120)
    assert [e.status for e in found] == ["failed"] and "time limit reached in epoch" in (found[0].error or "")


def test_numbers_stay_what_they_are() -> None:
    value = {"a": [1, 2.5, "x", None, True, {"b": []}]}
    assert as_json("same", value) == value
