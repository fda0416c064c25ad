"""Problem values: overrides, round trips, finding files, and the one-way import graph."""

from __future__ import annotations

from pathlib import Path

import chz
import pytest
from toys import Distance, Integers, Total, Toy

from evo_robust.algorithms.evolution import NSGA2
from evo_robust.algorithms.random import RandomSearch
from evo_robust.attacks.gradient import FGSM, MIFGSM, PGD
from evo_robust.data.sets import Digits
from evo_robust.objectives.combined import WeightedSum
from evo_robust.objectives.constraints import Gate
from evo_robust.objectives.cost import Flops, Params
from evo_robust.objectives.errors import CleanError, RobustError
from evo_robust.objectives.fsp import FSPDistance
from evo_robust.parts.base import LATER, Fraction, Part, UserError, digest, dotted, nearest
from evo_robust.parts.resolve import from_dotted
from evo_robust.problem.files import find, load, problem_files, problem_from_dict, problem_to_dict, summary
from evo_robust.problem.overrides import override
from evo_robust.problem.value import Problem


@chz.chz
class Inner(Part):
    depth: int = 3


BASE = Problem(
    space=Integers(),
    data=Digits(),
    objectives=(Total(), Distance(choices=7)),
    evaluator=Toy(),
    algorithm=NSGA2(pop_size=12, n_gen=6),
)


def changed(**given: str) -> Problem:
    return override(BASE, {k.replace("__", "."): v for k, v in given.items()}, "test")


def test_overrides_reach_every_depth() -> None:
    problem = changed(seed="3", algorithm__pop_size="9", objectives__1__choices="5", data__val_share="0.1")
    assert (problem.seed, problem.algorithm.pop_size, problem.data.val_share) == (3, 9, 0.1)
    assert problem.objectives == (Total(), Distance(choices=5))


def test_a_replaced_part_keeps_what_both_have_from_their_base() -> None:
    # a random search of equal budget is one override
    assert changed(algorithm="RandomSearch").algorithm == RandomSearch(pop_size=12, n_gen=6)
    assert changed(algorithm="RandomSearch", algorithm__pop_size="5").algorithm == RandomSearch(pop_size=5, n_gen=6)
    assert changed(algorithm="NSGA2").algorithm == BASE.algorithm


def test_objectives_are_replaced_by_names_and_keep_their_settings() -> None:
    assert changed(objectives="Distance,Flops").objectives == (Distance(choices=7), Flops())
    assert changed(objectives="Flops,Params", objectives__0__rule="macs").objectives == (Flops(rule="macs"), Params())
    assert changed(objectives__2="Params").objectives == (*BASE.objectives, Params())


def test_an_objective_named_elsewhere_keeps_its_settings() -> None:
    given = {"objectives": "WeightedSum,Flops", "objectives.0.of.0": "CleanError", "objectives.0.of.1": "TransferError"}
    by_hand, shipped = load("roco", "demo", given), load("roco", "summed")
    assert by_hand.objectives[0].of == shipped.objectives[0].of
    moved = load("roco", "demo", {"objectives": "CleanError,Flops", "recorded": "TransferError"})
    assert moved == load("roco_baseline", "demo")


def test_different_objectives_of_one_name_are_refused_wherever_they_are() -> None:
    gate = Gate(of=FSPDistance(cells="deep"))
    problem = chz.replace(load("robnet"), recorded=(CleanError(), FSPDistance(cells="deep")), constraints=(gate,))
    assert problem.constraints == (gate,)  # equal ones are measured once
    labelled = (CleanError(), FSPDistance(cells="all", label="fsp_all"))
    assert chz.replace(problem, recorded=labelled).recorded == labelled
    said = r"two that are called 'fsp_distance' \(cells: all and deep\): give one of them a label"
    with pytest.raises(ValueError, match=said):
        chz.replace(problem, recorded=(FSPDistance(cells="all"),))
    with pytest.raises(ValueError, match=r"two that are called 'clean_error' \(limit: 9 and None\)"):
        chz.replace(problem, recorded=(WeightedSum(of=(CleanError(limit=9),)), CleanError()), constraints=())


def test_levels_that_the_images_cannot_hold_are_refused() -> None:
    with pytest.raises(UserError, match="expected l0_levels of at most 64 pixels on digits, got 100"):
        load("roco", "demo", {"objectives.1.adversarial_set.l0_levels": "1,100"})


def test_constraints_can_be_added() -> None:
    problem = changed(constraints__0="Constraint", constraints__0__of="Params", constraints__0__at_most="5e6")
    assert problem.constraints[0].name == "params_at_most"
    assert problem.constraints[0].violation(6e6) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"algorithm__popsize": "3"}, r"unknown key 'algorithm.popsize': did you mean 'algorithm.pop_size'"),
        ({"algorithm__popsiz": "3"}, r"unknown key 'algorithm.popsiz': did you mean 'algorithm.pop_size'"),
        ({"algoritm__pop_size": "3"}, r"unknown key 'algoritm.pop_size': did you mean 'algorithm.pop_size'"),
        ({"algorithm__foo": "3"}, r"unknown key 'algorithm.foo': algorithm takes crossover, .*pop_size"),
        ({"popsize": "3"}, r"unknown key 'popsize': did you mean 'algorithm.pop_size'"),
        ({"objectives__1__foo": "3"}, r"unknown key 'objectives.1.foo': objectives.1 takes "),
        (
            {"algorithm__label": "x"},
            r"unknown key 'algorithm.label': did you mean 'objectives.0.label' or 'objectives.1.label'",
        ),
        (
            {"constraints": "LogConstraint", "constraints__0__at_most": "0"},
            "missing: constraints.0.of, one of: .*Params",
        ),
        ({"foo": "3"}, "unknown key 'foo': expected one of: algorithm, constraints, data, evaluator, objectives"),
        ({"algorithm": "NSGA"}, r"algorithm=NSGA: unknown Algorithm 'NSGA': did you mean 'NSGA[23]'"),
        ({"objectives__0": "Flop"}, r"unknown Objective 'Flop': did you mean 'Flops'"),
        ({"seed": "one"}, "seed=one: expected a whole number"),
        ({"algorithm__crossover": "uniform"}, "expected 'blocks' or 'two_point'"),
        ({"objectives": ""}, "expected at least one objective, got none"),
        ({"objectives": "Flops,Flops"}, "got 'flops' twice"),
        ({"algorithm__pop_size": "0"}, "expected algorithm.pop_size >= 1, got 0"),
        ({"seed": "-1"}, "expected seed >= 0, got -1"),
        ({"algorithm": "Genetic"}, "Genetic is a base class, expected one of: "),
        ({"data": "ImageFolders"}, "ImageFolders is a base class, expected one of: .*TinyImageNet"),
        ({"objectives.5": "Params"}, r"objectives.5: expected objectives.2, the first place that is free"),
        ({"algorithm": "NSGA3", "algorithm__partitions": "0"}, "expected algorithm.partitions >= 1, got 0"),
    ],
)
def test_mistakes_are_named(given: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed(**given)


@pytest.mark.parametrize("name", sorted(problem_files()))
def test_shipped_problems_survive_their_own_json(name: str) -> None:
    for scale in ("demo", "paper"):
        problem = load(name, scale)
        assert problem_from_dict({"problem": name, **problem_to_dict(problem)}) == problem


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UserError, match="unknown problem 'rocco': did you mean 'roco'"):
        load("rocco")
    with pytest.raises(UserError, match="unknown scale 'papier'.*did you mean 'paper'"):
        load("roco", "papier")
    with pytest.raises(UserError, match="no problem file"):
        find("nowhere/mine.py")


def test_own_problem_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "problems").mkdir()
    source = (
        '"""Mine: a test."""\nimport chz\nfrom evo_robust import *\n'
        "@chz.chz\nclass Letters(Objective):\n    needs_weights = False\n"
        "    def measure(self, candidate):\n        return float(len(candidate.text))\n"
        "demo = chz.replace(load('roco'), objectives=(CleanError(), Letters()))\n"
    )
    (tmp_path / "problems" / "mine.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    assert [o.name for o in load("mine").objectives] == ["clean_error", "letters"]
    # the current folder's problems come first
    (tmp_path / "problems" / "roco.py").write_text(source.replace("Letters", "Other").replace("load('roco')", "None"))
    assert find("roco") == Path("problems/roco.py")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("from evo_robust import Nonsense\n", "broken.py: ImportError: cannot import name 'Nonsense'"),
        ("demo = nonsense\n", "broken.py: NameError: name 'nonsense'"),
        ("demo = (\n", "broken.py: SyntaxError"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("", "holds no problem: expected one, such as demo = Problem"),
        ("demo = 3", "holds no problem"),
    ],
)
def test_a_broken_problem_file_is_a_users_mistake(source: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text(source)
    with pytest.raises(UserError, match=message):
        load(str(path))
    assert summary(path) == "" or summary(path).startswith("(cannot be read")


def test_what_is_no_file_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "problems" / "folder.py").mkdir(parents=True)
    (tmp_path / "problems" / "gone.py").symlink_to("nowhere.py")
    monkeypatch.chdir(tmp_path)
    assert not {"folder", "gone"} & problem_files().keys()
    with pytest.raises(UserError, match="unknown problem 'folder'"):
        load("folder")


def test_digest_ignores_where_but_not_what() -> None:
    assert digest(Digits()) == digest(Digits(root="/elsewhere", download=False))
    assert digest(Digits()) != digest(Digits(split_seed=1))
    assert digest(BASE) == digest(override(BASE, {"algorithm.n_gen": "99"}, "test"))
    assert digest(BASE) != digest(override(BASE, {"seed": "1"}, "test"))


def test_dotted_values_rebuild_their_part() -> None:
    assert from_dotted(Problem, dotted(BASE)) == BASE
    with pytest.raises(ValueError, match="unknown SearchSpace 'Integer': did you mean 'Integers'"):
        from_dotted(type(BASE.space).__mro__[1], {}, "Integer")


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("0.03", 0.03), ("1e-3", 1e-3)])
def test_fractions_are_numbers(text: str, value: float) -> None:
    assert Fraction.read(text) == value
    with pytest.raises(ValueError, match="such as 0.03 or 8/255"):
        Fraction.read(text + "/0")


def test_nearest_lists_everything_when_nothing_is_close() -> None:
    assert nearest("xyz", ["roco", "racl"]) == "expected one of: racl, roco"


def test_a_field_that_came_later_is_no_part_of_a_digest_while_it_has_its_default() -> None:
    @chz.chz
    class Old(Part):
        name: str = "x"

    old = digest(Old(), [Old()])

    @chz.chz
    class Old(Part):  # type: ignore[no-redef] # noqa: F811 (the same class, a version later)
        name: str = "x"
        step: int = chz.field(default=1, metadata=LATER)
        inner: Inner = chz.field(default_factory=Inner, metadata=LATER)

    assert digest(Old(), [Old()]) == old
    assert len({old, digest(Old(step=2)), digest(Old(inner=Inner(depth=4))), digest([Old(step=2)])}) == 4
    assert dotted(Old(), identity=True)["step"] == 1  # where settings are compared, defaults are filled in


@pytest.mark.parametrize("name", ["objectives", "objectives.1"])
def test_what_was_reported_may_become_an_objective(name: str) -> None:
    found = load("roco", "demo", {name: "RobustError" if name[-1] == "1" else "CleanError,RobustError,Flops"})
    (reported,) = load("roco").reported
    assert found.objectives[1] == chz.replace(reported, label=None) and found.reported == ()
    beside = load("roco", "demo", {name: "RobustError", "objectives.1.label": "x"} if name[-1] == "1" else
                  {"objectives": "CleanError,RobustError", "objectives.1.label": "x"})  # fmt: skip
    assert beside.objectives[1].name == "x" and beside.reported == (reported,)


def test_what_is_reported_stays_beside_an_objective_with_another_attack() -> None:
    given = {"objectives.1": "RobustError", "objectives.1.attack": "FGSM"}
    found = load("roco", "demo", given)
    assert found.objectives[1].name == "robust_error" and found.reported == load("roco").reported


def test_settings_come_along_but_not_those_of_an_attack_that_is_another() -> None:
    def attack(**more: str) -> object:
        given = {"objectives.1": "RobustError", **{k.replace("__", "."): v for k, v in more.items()}}
        found = load("roco", "demo", given).objectives[1]
        assert isinstance(found, RobustError) and [float(e) for e in found.eps] == [0.05, 0.1, 0.2]
        return found.attack

    assert attack() == PGD(steps=20)
    assert attack(objectives__1__attack="FGSM") == FGSM()
    # what both have from a common base stays
    assert attack(objectives__1__attack="MIFGSM") == MIFGSM(steps=20, random_start=True)
    robust = chz.replace(load("roco").reported[0], label=None)
    inside = load("roco", "demo", {"objectives.0": "WeightedSum", "objectives.0.of.0": "TransferError",
                                   "objectives.0.of.1": "RobustError", "objectives": "WeightedSum,Flops"})  # fmt: skip
    assert inside.objectives[0].of == (load("roco").objectives[1], robust)  # type: ignore[attr-defined]


def test_what_was_recorded_may_become_an_objective() -> None:
    (_, transfer) = load("roco", "summed").recorded
    found = load("roco", "summed", {"objectives.0": "CleanError"})
    assert found.recorded == (transfer,)
    found = load("roco_baseline", "demo", {"objectives": "CleanError,TransferError,Flops"})
    assert [o.name for o in found.objectives] == ["clean_error", "transfer_error", "flops"]
    assert found.recorded == ()


def test_what_is_reported_is_chosen_like_what_is_recorded() -> None:
    plain = load("roco", "demo", {"reported": ""})
    assert load("roco").reported and plain.reported == ()
    assert [o.name for o in load("roco", "demo", {"reported": "Params"}).reported] == ["params"]
    assert digest(plain) == digest(load("roco")), "it is measured after the search, and is no part of it"
