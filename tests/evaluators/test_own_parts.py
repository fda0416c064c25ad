"""Parts of one's own that break their contract: one message or a failed candidate, never figures that look good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import Integers, Total, Toy, ToySession

from evo_robust import run
from evo_robust.algorithms.random import RandomSearch
from evo_robust.attacks.base import Attack
from evo_robust.data.sets import Digits
from evo_robust.evaluators.base import Evaluation
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.objectives.base import Candidate, Objective
from evo_robust.objectives.cost import Params
from evo_robust.objectives.errors import CleanError, RobustError
from evo_robust.parts.base import UserError
from evo_robust.problem.value import Problem
from evo_robust.search import search
from evo_robust.spaces import NSGAPhases
from evo_robust.training.recipes import Standard

SPACE = NSGAPhases(phases=2, nodes=3, channels=4)
TINY = Problem(
    space=SPACE,
    data=Digits(train_limit=120, test_limit=40),
    objectives=(CleanError(),),
    evaluator=FromScratch(epochs=0),
    algorithm=RandomSearch(pop_size=2, n_gen=1),
)


def evaluated(problem: Problem) -> list[Evaluation]:
    """Two architectures, one after the other in this process."""
    architectures = [SPACE.from_text(text) for text in ("[1][01][0] / [0][00][0]", "[1][11][0] / [0][00][0]")]
    session = problem.start("cpu", 1)
    try:
        return [evaluation for _, evaluation in session.evaluate(architectures)]
    finally:
        session.close()


# ---- objectives and attacks leave network and images as they are

MEDDLES: dict[str, tuple[Callable[[Candidate], object], str]] = {
    "weights": (lambda c: [p.data.zero_() for p in c.network().parameters()], "changed the network's weights"),
    "statistics": (lambda c: [b.zero_() for b in c.network().buffers()], "changed the network's weights"),
    "mode": (lambda c: c.network().train(), "changed the network's mode"),
    "images": (lambda c: c.validation().x.zero_(), "changed the images"),
    "labels": (lambda c: c.splits.train.y.fill_(3), "changed the images"),
}


@chz.chz
class Meddling(Objective):
    """Does what its kind says, to every candidate or to the first one."""

    kind: str

    def measure(self, candidate: Candidate) -> float:
        MEDDLES[self.kind][0](candidate)
        return 1.0


@pytest.mark.parametrize("kind", MEDDLES)
def test_what_an_objective_does_to_others_is_its_failure(kind: str) -> None:
    good = [e.objectives["clean_error"] for e in evaluated(TINY)]
    found = evaluated(chz.replace(TINY, objectives=(Meddling(kind=kind), CleanError())))
    assert [e.status for e in found] == ["failed"] * 2
    assert all(MEDDLES[kind][1] in (e.error or "") for e in found)
    # the images are those of the data set again
    assert [e.objectives["clean_error"] for e in evaluated(TINY)] == good


@chz.chz
class Settings(Objective):
    """Changes torch's settings of the process."""

    def measure(self, candidate: Candidate) -> float:
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        return 1.0


def test_settings_of_a_process_come_back() -> None:
    good = [e.objectives["clean_error"] for e in evaluated(TINY)]
    found = evaluated(chz.replace(TINY, objectives=(CleanError(), Settings())))
    assert (torch.get_default_dtype(), torch.is_grad_enabled()) == (torch.float32, True)
    assert [e.objectives["clean_error"] for e in found] == good


def _far(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return x.add_(0.5).clamp_(0, 1)


def _train(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    model.train()
    return x


def _labels(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    y.add_(1)
    return x


ATTACKS: dict[str, tuple[Callable[[nn.Module, Tensor, Tensor], Any], str]] = {
    "none": (lambda m, x, y: None, "to give torch.float32 images"),
    "NaN": (lambda m, x, y: x * float("nan"), "to stay in [0,1]"),
    "in place": (_far, "to stay in [0,1] and within"),
    "train": (_train, "Bad left the network in train mode"),
    "labels": (_labels, ""),
}


@chz.chz
class Bad(Attack):
    """Finds what its kind says."""

    kind: str

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: Any, generator: torch.Generator) -> Tensor:
        return ATTACKS[self.kind][0](model, x, y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ATTACKS)
def test_an_attack_that_breaks_its_contract_gives_no_error(kind: str) -> None:
    found = evaluated(chz.replace(TINY, objectives=(RobustError(attack=Bad(kind=kind)), CleanError())))
    if reason := ATTACKS[kind][1]:
        assert [e.status for e in found] == ["failed"] * 2
        assert all(reason in (e.error or "") for e in found)
    else:  # images that are not moved break nothing, whatever became of the labels that it was given
        assert all(e.objectives["robust_error"] == e.objectives["clean_error"] for e in found)


# ---- recipes


def _eval(model: nn.Module, loss: Tensor, logits: Tensor) -> Any:
    model.eval()
    return loss, logits


LOSSES: dict[str, tuple[Callable[[nn.Module, Tensor, Tensor], Any], str]] = {
    "nothing": (lambda m, loss, logits: None, "expected Odd.loss to return (loss, logits), got NoneType"),
    "loss alone": (lambda m, loss, logits: loss, "expected Odd.loss to return (loss, logits), got Tensor"),
    "number": (lambda m, loss, logits: (1.0, logits), "a single number, got float"),
    "per image": (lambda m, loss, logits: (logits.sum(1), logits), "a single number, got a tensor of shape"),
    "cut off": (lambda m, loss, logits: (loss.detach(), logits), "without a gradient"),
    "logits": (lambda m, loss, logits: (loss, logits[:, :1]), "expected a network that gives logits"),
    "eval": (_eval, "Odd.loss left the network in eval mode"),
}


@chz.chz
class Odd(Standard):
    """Whose loss is what its kind says."""

    kind: str

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Any:
        return LOSSES[self.kind][0](model, *super().loss(model, x, y, generator))


@pytest.mark.parametrize("kind", LOSSES)
def test_a_recipe_whose_loss_is_none_is_named(kind: str) -> None:
    found = evaluated(chz.replace(TINY, evaluator=FromScratch(epochs=1, recipe=Odd(kind=kind))))
    assert [e.status for e in found] == ["failed"] * 2
    assert all(LOSSES[kind][1] in (e.error or "") for e in found)


# ---- spaces

SPACES: dict[str, tuple[dict[str, Any], str]] = {
    "no choice": ({"n_choices": property(lambda s: [2, 0])}, "n_choices of Spoilt to be whole numbers >= 1"),
    "halves": ({"n_choices": property(lambda s: [2.5, 2.5])}, "n_choices of Spoilt to be whole numbers >= 1"),
    "blocks": ({"blocks": property(lambda s: (slice(0, 1),))}, "blocks of Spoilt to be slices that cover all"),
    "text": ({"to_text": lambda s, a: None}, "to_text of Spoilt to give the notation"),
    "raises": ({"decode": lambda s, g: {}["a"]}, "genomes of Spoilt to be networks, got none: KeyError: 'a'"),
    "other text": ({"to_text": lambda s, a, c=[]: c.append(0) or str(len(c))}, "got one for"),  # noqa: B006
}


@pytest.mark.parametrize("kind", SPACES)
def test_a_space_that_breaks_its_contract_is_named(kind: str, tmp_path: Path) -> None:
    spoilt = chz.chz(type("Spoilt", (Integers,), {"__module__": __name__, **SPACES[kind][0]}))
    problem = Problem(
        space=spoilt(),
        data=TINY.data,
        objectives=(Total(),),
        evaluator=Toy(),
        algorithm=chz.replace(TINY.algorithm, pop_size=4),
    )
    with pytest.raises(UserError) as error:
        search(problem, tmp_path / "run", device="cpu", workers=1)
    assert SPACES[kind][1] in str(error.value)


# ---- evaluators


def _ok(session: ToySession, architectures: Any) -> Iterator[Any]:
    for index, architecture in enumerate(architectures):
        text = session.context.space.to_text(architecture)
        yield index, Evaluation(architecture=text, status="ok", objectives={"total": 1.0})


ANSWERS: dict[str, tuple[Callable[..., Any], str]] = {
    "nothing": (lambda s, a: None, "to give pairs (index, Evaluation), got None"),
    "no pairs": (lambda s, a: iter([3]), "to give pairs (index, Evaluation), got 3"),
    "no evaluation": (lambda s, a: iter([(0, None)]), "to give pairs (index, Evaluation), got (0, None)"),
    "index": (lambda s, a: ((i + 9, e) for i, e in _ok(s, a)), "to answer each of 4 architectures once"),
    "another": (lambda s, a: ((3 - i, e) for i, e in _ok(s, a)), "to answer each of 4 architectures once"),
    "some": (lambda s, a: list(_ok(s, a))[:3], "to answer each of 4 architectures, 1 are left"),
}


def toy(evaluate: Callable[..., Any]) -> Problem:
    session = type("Own", (ToySession,), {"evaluate": evaluate})

    @chz.chz
    class OwnEvaluator(Toy):
        def start(self, context: Any, objectives: Any, constraints: Any) -> ToySession:
            return session(self, context, objectives, constraints)  # type: ignore[no-any-return]

    return Problem(
        space=Integers(),
        data=TINY.data,
        objectives=(Total(),),
        evaluator=OwnEvaluator(),
        algorithm=chz.replace(TINY.algorithm, pop_size=4),
    )


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_evaluator_that_answers_something_else_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        search(toy(ANSWERS[kind][0]), tmp_path / "run", device="cpu", workers=1)
    assert f"Own.evaluate {ANSWERS[kind][1]}" in str(error.value)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"objectives": {}}, "the evaluator gave no total"),
        ({"objectives": {"total": "1"}}, "TypeError: total: expected a number, got '1' (str)"),
        ({"objectives": None}, "AttributeError"),
        ({"status": "great"}, "the evaluator gave the status 'great'"),
    ],
)
def test_an_evaluation_without_figures_is_a_failure(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    def evaluate(session: ToySession, architectures: Any) -> Iterator[Any]:
        for index, evaluation in _ok(session, architectures):
            yield index, with_changes(evaluation, changes) if index == 0 else evaluation

    rows = search(toy(evaluate), tmp_path / "run", device="cpu", workers=1).evaluations
    assert [row["status"] for row in rows] == ["failed", "ok", "ok", "ok"]
    assert reason in rows[0]["error"]


def with_changes(evaluation: Evaluation, changes: dict[str, Any]) -> Evaluation:
    return Evaluation(**{**vars(evaluation), **changes})


def test_what_a_problem_file_raises_names_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "problems").mkdir()
    (tmp_path / "problems/raises_at_start.py").write_text(
        '"""Raises."""\nimport chz\nfrom evo_robust import *\n@chz.chz\nclass Own(FromScratch):\n    """Own."""\n'
        '    def prepare(self, context):\n        raise RuntimeError("boom")\n'
        "demo = Problem(space=NSGAPhases(), data=Digits(train_limit=120), objectives=(Params(),), "
        "evaluator=Own(), algorithm=NSGA2())\n"
    )
    monkeypatch.chdir(tmp_path)
    assert run.main(["problem=raises_at_start", "out=o", "workers=1"]) == 1
    said = capsys.readouterr().err
    assert "raises_at_start.py, line 8, in prepare: RuntimeError: boom" in said and "Traceback" not in said


def test_a_name_is_some_text() -> None:
    with pytest.raises(ValueError, match="expected the name of Params to be text"):
        chz.replace(TINY, objectives=(Params(label=" "),))


def test_a_reader_that_raises_is_a_users_mistake() -> None:
    @chz.chz
    class Own(Digits):
        def _read(self, root: Path) -> Any:
            raise RuntimeError(f"boom {np.int64(1)}")

    with pytest.raises(UserError, match="data=own cannot be used: its _read raised RuntimeError: boom 1"):
        Own().load()
