"""What steps, starts, caches and resumed folders are refused for, before anything is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chz
import pytest
import torch
from toys import Distance, Integers, Total, Toy

from evo_robust import (
    PGD,
    Digits,
    FromScratch,
    NSGAPhases,
    PGDTraining,
    Problem,
    RandomSearch,
    RobustError,
    Threat,
    __main__,
    export,
    load,
    retrain,
    zoo,
)
from evo_robust import analyze as analyze_command
from evo_robust.adversarial_set.making import AdversarialSet
from evo_robust.analyze import _other_images
from evo_robust.final_training.settings import Retraining
from evo_robust.parts.base import UserError
from evo_robust.parts.paths import folders_of
from evo_robust.record.reading import Run, load_run
from evo_robust.record.writing import Record
from evo_robust.search import search


def problem(objective: Any, **recipe: Any) -> Problem:
    return Problem(
        space=NSGAPhases(phases=1, nodes=2, channels=2),
        data=Digits(train_limit=40),
        objectives=(objective,),
        evaluator=FromScratch(epochs=1, recipe=PGDTraining(**recipe)),
        algorithm=RandomSearch(pop_size=2, n_gen=1),
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run", "problem="], "problem=: expected a value, got nothing\n"),
        (["export", "run= "], "run= : expected a value, got nothing\n"),
        (["run", "problem=roco", "out="], "out=: expected a value, got nothing; without out= its default is used\n"),
    ],
)
def test_a_key_without_a_value_has_a_default_only_where_there_is_one(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert __main__.main(argv) == 2
    assert capsys.readouterr().err == f"error: {said}"


def test_a_step_beyond_the_ball_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected objectives.0.attack.step .* 0.2, .*got 2: did you mean 2/255\?"):
        problem(RobustError(attack=PGD(step=2.0), eps=(0.05, 0.1)))
    with pytest.raises(ValueError, match=r"expected evaluator.recipe.attack.step at most 0.2, .*got 0.3$"):
        problem(RobustError(), attack=PGD(step=0.3), threat=Threat(eps=0.1))
    with pytest.raises(ValueError, match=r"expected attack.step at most 0.5, .*got 8: did you mean 8/255\?"):
        Retraining(network="lenet", data=Digits(), attack=PGD(step=8.0), recipe=PGDTraining())
    problem(RobustError(attack=PGD(step=0.15), eps=(0.05, 0.1)), attack=PGD(step=0.2), threat=Threat(eps=0.1))
    problem(RobustError(attack=PGD(step=2.0), eps=(1.0,), norm="l2"))  # of a ball of diameter 2


def test_a_default_step_that_a_small_ball_cannot_hold_says_what_to_set() -> None:
    said = r"evaluator.recipe.attack.step at most 0.0039\d*, .* or None, which follows eps"
    with pytest.raises(ValueError, match=said):
        problem(RobustError(), threat=Threat(eps=0.5 / 255))
    small = {"evaluator.recipe": "PGDTraining", "evaluator.recipe.threat.eps": "0.5/255"}
    with pytest.raises(UserError, match=said):
        load("roco_baseline", overrides=small)
    attack = load("roco_baseline", overrides={**small, "evaluator.recipe.attack.step": "None"}).evaluator.recipe.attack
    assert (attack.step, attack.steps) == (None, 7)


def test_a_step_beyond_all_images_and_odd_starts_are_refused() -> None:
    model, x = zoo.build("lenet", 10, (1, 8, 8)), torch.full((2, 1, 8, 8), 0.5)
    y, generator = torch.tensor([1, 2]), torch.Generator().manual_seed(0)

    def perturb(attack: PGD, start: Any) -> torch.Tensor:
        return attack.perturb(model, x, y, Threat(), generator, keep_going=True, start=start)

    with pytest.raises(ValueError, match=r"step at most 1, .*got 2: did you mean 2/255\?"):
        perturb(PGD(step=2.0), None)
    for start, said in (
        (torch.full_like(x, torch.nan), "finite numbers"),
        (torch.full_like(x, torch.inf), "finite numbers"),
        (torch.zeros(2, 1, 8, 9), r"start \(2, 1, 8, 8\)"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.int64), "got torch.int64"),
        ([0.0], "got list"),
    ):
        with pytest.raises(ValueError, match=said):
            perturb(PGD(steps=1), start)
    assert perturb(PGD(steps=1), torch.zeros_like(x)).shape == x.shape


def test_an_unwritable_cache_is_said_before_the_folder_of_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(tmp_path / "file" / "cache"))
    made = AdversarialSet(victims=("lenet",), norms=("linf",), linf_levels=(16,), sources=10, epochs=1)
    settings = Retraining(network="lenet", data=Digits(train_limit=40), adversarial_set=made)
    with pytest.raises(UserError, match="cannot be written to .*EVO_ROBUST_CACHE"):
        retrain.retrain(settings, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def toy(folder: Path, n_gen: int = 1, command: str | None = "first") -> Run:
    declared = Problem(
        space=Integers(),
        data=Digits(),
        objectives=(Total(), Distance()),
        evaluator=Toy(),
        algorithm=RandomSearch(pop_size=6, n_gen=n_gen),
    )
    return search(declared, folder, device="cpu", workers=1, info={"command": command} if command else None)


def test_a_refused_resume_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    toy(folder)
    with (folder / "evaluations.jsonl").open("ab") as file:
        file.write(b'{"id": 6, "torn')
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def refuse(*_: object) -> None:
        raise UserError("other weights")

    with monkeypatch.context() as patched, pytest.raises(UserError, match="other weights"):
        patched.setattr(Record, "check_goes_on", refuse)
        toy(folder, 2, "second")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(toy(folder, 2, "second").evaluations) == 12
    sessions = json.loads((folder / "problem.json").read_text())["sessions"]
    assert [session["command"] for session in sessions] == ["second"]


@pytest.mark.parametrize("first", ["a command", None])
def test_a_second_search_from_python_leaves_what_the_first_said(first: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    toy(folder, command=first)
    before = (folder / "problem.json").read_bytes()
    assert (b'"command"' in before) == (first is not None)
    toy(folder, command=None)
    assert (folder / "problem.json").read_bytes() == before


def test_other_images_of_a_truth_are_said(tmp_path: Path) -> None:
    run = toy(tmp_path / "run")
    other = chz.replace(run.problem, data=Digits(train_limit=100))
    truth = search(other, tmp_path / "truth", device="cpu", workers=1)
    (line,) = _other_images([run], [truth])
    assert "read other images: data.train_limit: None → 100" in line and str(truth.folder) in line
    assert _other_images([run], [load_run(run.folder)]) == ()
    digests = [Run(**{**vars(run), "info": {"identity": {"data.content": name, "data.root": name}}}) for name in "ab"]
    (line,) = _other_images(digests[:1], digests[1:])
    assert "data.content: a → b" in line


def test_long_values_are_never_repeated_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long, many = "x" * 5000, ",".join(map(str, range(1_000_000)))
    for command, argv in (
        (export, [f"{long}=1"]),
        (export, [f"run={tmp_path}", f"onnx={long}"]),
        (retrain, [f"network={long}", "data=digits"]),
        (retrain, ["network=lenet", f"data={long}"]),
        (retrain, ["network=lenet", "data=digits", f"recipe={long}"]),
        (retrain, ["network=lenet", "data=digits", f"recipe.milestones={many}"]),
        (retrain, ["network=lenet", "data=digits", f"device={long}", f"out={tmp_path / 'new'}"]),
        (analyze_command, [f"run={many}"]),
        (analyze_command, [long]),
    ):
        assert command.main(argv) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and len(error) < 1500 and error.count("\n") == 1, error[:200]
    with pytest.raises(ValueError, match="at most 256 folders"):
        folders_of(["a"] * 257)
