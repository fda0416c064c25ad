"""One spelling of names everywhere, settings run again, paths with ``~``, and what is told before a search begins."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import chz
import pytest
from places import ROOT

from evo_robust import (
    DARTS,
    MNIST,
    NSGA2,
    TRADES,
    CleanError,
    Digits,
    FromScratch,
    MultiStrengthTraining,
    NSGAPhases,
    Params,
    PGDTraining,
    RandomSearch,
    Standard,
    analyze,
    export,
    load,
    plot,
    run,
)
from evo_robust.parts.base import Part, UserError, classes_called, digest, subclass_named
from evo_robust.parts.making import parse
from evo_robust.problem.files import problem_from_dict, problem_to_dict
from evo_robust.record.budget import parse_budget
from evo_robust.record.reading import load_run
from evo_robust.retrain import RetrainOptions, settings_from

EARLIER = ROOT / "tests" / "data" / "earlier"
SMALL = {
    "objectives": "params,cleanerror",
    "data": "digits",
    "data.train_limit": "200",
    "algorithm": "randomsearch",
    "algorithm.pop_size": "3",
    "algorithm.n_gen": "1",
    "evaluator": "fromscratch",
    "evaluator.epochs": "1",
    "evaluator.recipe": "standard",
}
LINE = [*(f"{key}={value}" for key, value in SMALL.items()), "workers=1", "device=cpu", "plot=false"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "at home"))
    return tmp_path


# ---- names


@pytest.mark.parametrize("spelling", ["mnist", "MNIST", "Mnist"])
def test_data_by_any_spelling(spelling: str) -> None:
    assert type(load("roco", "demo", {"data": spelling}).data) is MNIST
    settings, _ = settings_from(RetrainOptions(network="LeNet"), {"data": spelling})
    assert type(settings.data) is MNIST and settings.network == "lenet"


def test_every_kind_of_part_by_any_spelling() -> None:
    given = {
        "space": "nsgaphases", "algorithm": "nsga2", "evaluator": "FROMSCRATCH", "evaluator.recipe": "pgd",
        "evaluator.recipe.attack": "pgd", "objectives": "cleanerror,Params", "recorded": "params",
        "recorded.0.label": "size", "constraints.0": "constraint", "constraints.0.of": "flops",
        "constraints.0.at_most": "5e6",
    }  # fmt: skip
    exact = given | {
        "space": "NSGAPhases", "algorithm": "NSGA2", "evaluator": "FromScratch", "evaluator.recipe": "PGDTraining",
        "evaluator.recipe.attack": "PGD", "objectives": "CleanError,Params", "recorded": "Params",
        "constraints.0": "Constraint", "constraints.0.of": "Flops",
    }  # fmt: skip
    made, same = load("roco", "demo", given), load("roco", "demo", exact)
    assert made == same and digest(made) == digest(same)
    assert (type(made.space), type(made.algorithm), type(made.evaluator)) == (NSGAPhases, NSGA2, FromScratch)
    assert [type(o) for o in made.objectives] == [CleanError, Params]
    assert type(load("racl", "demo", {"space": "darts"}).space) is DARTS


def test_a_part_of_another_spelling_keeps_what_both_have() -> None:
    made = load("roco", "demo", {"algorithm": "randomsearch"}).algorithm
    before = load("roco").algorithm
    assert isinstance(made, RandomSearch) and (made.pop_size, made.n_gen) == (before.pop_size, before.n_gen)
    # and an objective those settings under which the problem has it
    exact, spelt = (
        load("roco", "demo", {"objectives": f"{name},Flops"}) for name in ("TransferError", "transfererror")
    )
    assert exact == spelt and exact.objectives[0] == load("roco").objectives[1]
    plus, same = (load("wsr", "demo", {"objectives.0.strengths": name}) for name in ("plus", "PLUS"))
    assert plus == same


@pytest.mark.parametrize(
    ("spellings", "kind"),
    [
        (("pgd", "PGD", "PGDTraining", "pgdtraining"), PGDTraining),
        (("trades", "TRADES", "Trades"), TRADES),
        (("multi", "MultiStrengthTraining"), MultiStrengthTraining),
        (("standard", "Standard"), Standard),
    ],
)
def test_recipes_of_a_retraining(spellings: tuple[str, ...], kind: type) -> None:
    given = {"data": "digits", "recipe.lr": "0.05"}
    if kind in (PGDTraining, TRADES):
        given["recipe.attack.steps"] = "3"  # what else the recipe's own attack has stays
    found = [settings_from(RetrainOptions(network="lenet"), {**given, "recipe": name})[0] for name in spellings]
    assert all(type(settings.recipe) is kind and settings == found[0] for settings in found)
    if kind is TRADES:
        assert found[0].recipe.attack.loss == "kl"


class Spelling(Part):
    pass


@chz.chz
class Twin(Spelling):
    pass


@chz.chz
class TWIN(Spelling):
    pass


@chz.chz
class Named(Spelling):
    short_name = "short"


@chz.chz
class Derived(Named):
    pass


def test_an_exact_name_comes_first_and_an_ambiguous_one_is_refused() -> None:
    assert subclass_named(Spelling, "Twin") is Twin and subclass_named(Spelling, "TWIN") is TWIN
    with pytest.raises(ValueError, match=r"several classes are called twin: TWIN in .*, Twin in .*different names"):
        subclass_named(Spelling, "twin")
    # a short name is its own class's alone
    assert classes_called(Spelling, "SHORT") == [Named] and subclass_named(Spelling, "derived") is Derived
    with pytest.raises(ValueError, match="unknown Spelling 'shrt': did you mean 'short'"):
        subclass_named(Spelling, "shrt")


def test_misspelt_names_are_told_by_their_nearest() -> None:
    with pytest.raises(UserError, match=r"data=mnst: unknown DataSet 'mnst': did you mean 'MNIST'\?"):
        load("roco", "demo", {"data": "mnst"})
    with pytest.raises(UserError, match=r"recipe=trade: unknown Recipe 'trade': did you mean 'TRADES'\?"):
        settings_from(RetrainOptions(network="lenet"), {"data": "digits", "recipe": "trade"})


def test_problems_scales_picks_and_figures_by_any_spelling(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load("RoCo") == load("roco") and load("ROCO", "Paper") == load("roco", "paper")
    searched(capsys, "problem=RoCo", "scale=DEMO", *LINE)
    found = load_run("runs/roco-demo")  # the folder and the record have the names as they are
    assert (found.info["problem"], found.info["scale"]) == ("roco", "demo")
    assert found.chosen("Knee") == found.chosen() and found.chosen("Best:PARAMS") == found.chosen("best:params")
    call = ["run=runs/roco-demo", "weights=false"]
    assert export.main([*call, "pick=KNEE,Best:Params"]) == 0
    assert export.main([*call, "pick=knee", "budget=PARAMS<1e9"]) == 0
    assert export.main([*call, "pick=knee,Knee"]) == 2 and "expected different picks" in capsys.readouterr().err
    written = sorted(path.name for path in Path("runs/roco-demo/export").iterdir())
    assert written == ["best-params", "knee", "knee-PARAMS-below-1e9"]
    assert parse_budget("Small").size == "small"
    # an exact name comes first, and none is chosen among several
    Path("problems").mkdir()
    Path("problems/RoCo.py").write_text('"""Mine."""\nfrom evo_robust import load\nMine = load("wsr")\n')
    assert load("RoCo", "mine") == load("wsr") and load("roco").objectives != load("wsr").objectives
    with pytest.raises(UserError, match="unknown problem 'ROCO': did you mean"):
        load("ROCO")
    with pytest.raises(UserError, match="unknown scale 'demo' of problem 'RoCo'"):
        load("RoCo")


# ---- settings run again


def searched(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run.main([*arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_settings_of_a_run_are_run_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    searched(capsys, "problem=roco", *LINE, "out=runs/first")
    printed = searched(capsys, "problem=runs/first/problem.json", "workers=1", "device=cpu", "plot=false")
    assert "searching the settings of runs/first/problem.json into runs/first-again" in printed
    first, again = load_run("runs/first"), load_run("runs/first-again")
    assert again.problem == first.problem
    assert [(r["architecture"], r["objectives"]) for r in again.evaluations] == [
        (r["architecture"], r["objectives"]) for r in first.evaluations
    ]
    told = ("problem", "scale", "source")
    assert [again.info[key] for key in told] == [first.info[key] for key in told] == ["roco", "demo", None]
    # overrides lie on top, and another scale means nothing
    other = load("runs/first/problem.json", overrides={"seed": "7", "space": "darts", "data": "mnist"})
    assert other.seed == 7 and type(other.space) is DARTS and type(other.data) is MNIST
    assert other.algorithm == first.problem.algorithm
    assert run.main(["problem=runs/first/problem.json", "scale=paper", "out=x"]) == 2
    assert "scale=paper: runs/first/problem.json has the settings of one scale only" in capsys.readouterr().err
    assert run.main(["problem=roco", "trust=yes", "out=x"]) == 2
    assert "trust=yes goes with the problem.json of a run" in capsys.readouterr().err
    assert run.main(["problem=runs/first", "out=x"]) == 2
    assert "problem=runs/first/problem.json to run its settings again" in capsys.readouterr().err
    assert run.main(["problem=runs/first/problem.json", "algorithm.popsize=3", "out=x"]) == 2
    assert "did you mean 'algorithm.pop_size'" in capsys.readouterr().err
    assert run.main(["problem=runs/first/problem.json", "--help"]) == 0
    assert "algorithm.pop_size = 3" in capsys.readouterr().out and not Path("x").exists()


def test_a_run_folder_of_a_problems_name_hides_no_problem(here: Path) -> None:
    shutil.copytree(EARLIER / "roco", "roco")
    assert load("roco").seed == 0


def test_other_data_is_not_held_against_the_images_of_the_run(here: Path) -> None:
    problem = load("roco", "demo", {"data": "digits"})
    pinned = chz.replace(problem, data=chz.replace(problem.data, content="0123456789abcdef"))
    Path("problem.json").write_text(json.dumps({"schema": 1, **problem_to_dict(pinned)}))
    assert load("problem.json").data.content == "0123456789abcdef"
    assert load("problem.json", overrides={"seed": "1"}).data.content == "0123456789abcdef"
    assert load("problem.json", overrides={"data": "mnist"}).data.content is None
    assert load("problem.json", overrides={"data.train_limit": "99"}).data.content is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda info: "nonsense", "is damaged"),
        (lambda info: json.dumps({k: v for k, v in info.items() if k != "values"}), "it has no 'values'"),
        (lambda info: json.dumps({**info, "values": {**info["values"], "space": "Spac"}}), "Spac"),
        (lambda info: json.dumps({**info, "values": {**info["values"], "seed": "os:system"}}), "seed"),
        (lambda info: json.dumps({**info, "problem": 3}), "expected a name or null as 'problem'"),
    ],
)
def test_damaged_settings_are_one_message(
    change: Any, said: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = json.loads((EARLIER / "roco" / "problem.json").read_text())
    Path("problem.json").write_text(change(info))
    assert run.main(["problem=problem.json", "out=x"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and said in error and "Traceback" not in error and not Path("x").exists()


def test_a_strangers_file_is_run_for_its_parts_only_when_it_is_trusted(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs = here / "theirs"
    theirs.mkdir()
    (theirs / "odd.py").write_text(
        '"""Odd."""\nimport pathlib\nimport chz\nfrom evo_robust import *\n'
        "pathlib.Path('it-was-run').write_text('')\n"
        "@chz.chz\nclass OddLength(Objective):\n    needs_weights = False\n"
        "    def measure(self, candidate):\n        return float(len(candidate.text))\n"
        "demo = chz.replace(load('roco'), objectives=(CleanError(), OddLength()))\n"
    )
    info = {"schema": 1, **problem_to_dict(load("roco")), "source": str(theirs / "odd.py")}
    info["values"] = {k: v for k, v in info["values"].items() if not k.startswith("objectives.")}
    info["values"] |= {"objectives.0": "CleanError", "objectives.1": "OddLength"}
    info["objectives"] = [{"name": "clean_error", "unit": ""}, {"name": "odd_length", "unit": ""}]
    (theirs / "problem.json").write_text(json.dumps(info))
    given = ["problem=theirs/problem.json", *LINE[1:]]
    assert run.main([*given, "out=x"]) == 2
    error = capsys.readouterr().err
    assert "OddLength" in error and "trust=yes runs it" in error
    assert not Path("it-was-run").exists() and not Path("x").exists()
    searched(capsys, *given, "out=x", "trust=yes")
    assert Path("it-was-run").exists() and load_run("x").objectives == ["clean_error", "odd_length"]
    assert problem_from_dict(load_run("x").info).objectives[1].name == "odd_length"


# ---- paths


def test_paths_take_the_home_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = here / "at home"
    (home / "problems").mkdir(parents=True)
    shutil.copy(ROOT / "problems" / "roco.py", home / "problems" / "home_roco.py")
    printed = searched(capsys, "problem=~/problems/home_roco.py", *LINE, "out=~/my runs/x")
    folder = home / "my runs" / "x"
    assert (folder / "front.csv").is_file() and f"into {folder}" in printed
    # what it says next can be pasted, blank and all
    following = next(text for text in printed.splitlines() if text.startswith("next: "))
    arguments = shlex.split(following)[4:]
    assert arguments == [f"run={folder}", "pick=knee"]
    assert export.main([*arguments, "weights=false"]) == 0
    following = next(text for text in capsys.readouterr().out.splitlines() if text.startswith("next: "))
    genotype = shlex.split(following)[4]
    assert genotype == f"genotype={folder / 'export' / 'knee' / 'genotype.json'}"
    assert export.main(["run=~/my runs/x", "weights=false", "out=~/out"]) == 0 and (home / "out").is_dir()
    assert plot.main(["run=~/my runs/x", "out=~/drawn"]) == 0 and (home / "drawn" / "front.png").is_file()
    settings, _ = settings_from(parse(RetrainOptions, ["genotype=~/out"], "retrain"), {})
    assert settings.architecture
    assert not [name for name in os.listdir(here) if name.startswith("~")]


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (plot.PlotCommand, "run"), (plot.PlotCommand, "baseline"), (plot.PlotCommand, "out"),
        (analyze.AnalyzeCommand, "run"), (analyze.AnalyzeCommand, "truth"), (analyze.AnalyzeCommand, "out"),
        (export.Export, "run"), (export.Export, "out"), (run.RunOptions, "problem"), (run.RunOptions, "out"),
        (RetrainOptions, "genotype"), (RetrainOptions, "out"),
    ],
)  # fmt: skip
def test_every_key_that_is_a_path(command: type, key: str, here: Path) -> None:
    needed = {"run": "run=a", "problem": "problem=a"}
    others = [text for name, text in needed.items() if name in chz.chz_fields(command) and name != key]
    made: Any = parse(command, [*others, f"{key}=~/a/b"], "test")
    value = getattr(made, key)
    assert value in (str(here / "at home" / "a" / "b"), (str(here / "at home" / "a" / "b"),))
    if isinstance(value, tuple):
        truth = ["truth=a"] if (command, key) == (analyze.AnalyzeCommand, "run") else []
        made = parse(command, [*others, *truth, f"{key}=~/a,~/b"], "test")
        assert getattr(made, key) == (str(here / "at home" / "a"), str(here / "at home" / "b"))


# ---- what is told before


def test_a_search_that_is_enlarged_says_so_before_it_begins(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["problem=roco", *(a for a in LINE if "n_gen" not in a), "out=runs/x"]
    assert "this search" not in searched(capsys, *line, "algorithm.n_gen=1")
    assert "this search" not in searched(capsys, *line, "algorithm.n_gen=1")
    printed = searched(capsys, *line, "algorithm.n_gen=3")
    said = "runs/x holds this search, 1 of 1 generations done: it is enlarged from 1 to 3 generations"
    assert said in printed and printed.index(said) < printed.index("generation   1/3")
    assert "3 of 3 generations done: the first 2 are asked for" in searched(capsys, *line, "algorithm.n_gen=2")
    # of another search nothing of the kind is said
    assert run.main([*line, "algorithm.n_gen=5", "seed=1"]) == 2
    captured = capsys.readouterr()
    assert "holds this search" not in captured.out and "holds another search" in captured.err


def test_digits_is_meant_by_its_name_alone() -> None:
    assert classes_called(type(Digits()).__mro__[1], "digits") == [Digits]
