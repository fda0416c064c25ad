"""Files of strangers: what they hold is read, and none of it is run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evo_robust import analyze, export, plot, retrain, run
from evo_robust.networks.genotype import load_genotype
from evo_robust.parts.base import UserError
from evo_robust.record.reading import load_run

OWN = '''"""A problem with parts of its own."""

from pathlib import Path

import chz

from evo_robust import NSGA2, Digits, FromScratch, NSGAPhases, Objective, Params, Problem, Standard

(Path(__file__).parent / "RAN").touch()


@chz.chz
class Length(Objective):
    """Letters of the notation."""

    factor: float = 1.0
    recipe: Standard = chz.field(default_factory=Standard)

    needs_weights = False

    @property
    def unit(self):
        return "letters"

    def measure(self, candidate):
        return self.factor * len(candidate.text)


@chz.chz
class OwnSpace(NSGAPhases):
    """A space of one's own."""


demo = Problem(
    space=SPACE(phases=2, nodes=3, channels=2),
    data=Digits(train_limit=40),
    objectives=(Params(), Length(factor=2.0, recipe=Standard(lr=0.5))),
    evaluator=FromScratch(epochs=1, recipe=Standard(lr=0.1, batch_size=16)),
    algorithm=NSGA2(pop_size=4, n_gen=1),
)
'''


# one import of torch, and a copy of that process for every search: none knows what another one read
MAKE = """
import os, sys
from evo_robust import run

for path in sys.argv[1:]:
    folder, name = os.path.split(path)
    if not os.fork():
        os.chdir(folder)
        status = run.main([f"problem=./{name}.py", f"out={name}", "workers=1", "plot=false"])
        sys.stdout.flush()
        os._exit(status)
    if os.wait()[1]:
        sys.exit(f"no run of {name}")
"""
SPACES = {"spaced": "OwnSpace"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of problem files, each in a folder of its own, made where no class of theirs comes to this process."""
    runs = {name: tmp_path_factory.mktemp(name) / name for name in ("theirs", "spaced", "trusted", "gone")}
    runs["mine"] = tmp_path_factory.mktemp("own") / "problems" / "mine"
    runs["mine"].parent.mkdir()
    for name, run_folder in runs.items():
        space = SPACES.get(name, "NSGAPhases")
        run_folder.with_suffix(".py").write_text(OWN.replace("SPACE(", f"{space}("))
    subprocess.run([sys.executable, "-c", MAKE, *map(str, runs.values())], check=True, capture_output=True)
    for run_folder in runs.values():
        (run_folder.parent / "RAN").unlink()
    return runs


@pytest.fixture(scope="module")
def elsewhere(made: dict[str, Path]) -> Path:
    return made["theirs"].parent


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_of_somebodys_own_parts_is_drawn_without_running_their_file(
    elsewhere: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(elsewhere / "theirs", "copy")
    assert plot.main(["run=copy", "out=pictures"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        f"note: Length: defined in {elsewhere / 'theirs.py'}, which is not run without your consent: trust=yes"
        in printed
    )
    assert "length (letters)" in printed or "(letters)" in printed
    assert (here / "pictures/front.png").is_file() and (here / "pictures/networks.png").is_file()
    assert load_run("copy").problem.objectives[1].factor == 2.0  # its values are there, as data
    assert not (elsewhere / "RAN").exists()


def test_what_needs_their_file_says_so(elsewhere: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([f"run={elsewhere / 'theirs'}", "weights=false", "out=taken"]) == 2
    assert "trust=yes" in capsys.readouterr().err and not (here / "taken").exists()
    assert not (elsewhere / "RAN").exists()


def test_a_space_that_is_not_at_hand_draws_no_networks(
    made: dict[str, Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made["spaced"]
    assert plot.main([f"run={folder}", "out=pictures"]) == 0
    assert "OwnSpace, Length: defined in" in " ".join(capsys.readouterr().out.split())
    assert (here / "pictures/front.png").is_file() and not (here / "pictures/networks.png").exists()
    assert analyze.main([f"run={folder}", "objective=params"]) == 2
    assert not (folder.parent / "RAN").exists()


def test_trust_runs_the_file(made: dict[str, Path], here: Path) -> None:
    folder = made["trusted"]
    done = subprocess.run(
        [sys.executable, "-m", "evo_robust.export", f"run={folder}", "weights=false", "out=taken", "trust=yes"],
        cwd=here,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (folder.parent / "RAN").exists() and load_genotype(here / "taken").units["length"] == "letters"


def test_a_file_in_the_present_folders_problems_is_ones_own(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(made["mine"].parents[1])
    assert export.main(["run=problems/mine", "weights=false", "out=taken"]) == 0
    assert Path("problems/RAN").exists()


def test_a_file_that_is_gone_is_named(made: dict[str, Path], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made["gone"]
    file = folder.with_suffix(".py")
    file.unlink()
    for trust in ("trust=yes", "trust=no"):
        assert export.main([f"run={folder}", "weights=false", trust]) == 2
        assert f"Length: defined in {file}, which is missing" in capsys.readouterr().err
    assert plot.main([f"run={folder}", "out=pictures"]) == 0


def _edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    path = folder / "problem.json"
    info = json.loads(path.read_text())
    edit(info)
    path.write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize(
    "values",
    [
        {"seed": "os:system", "seed.command": "touch PWNED"},
        {"algorithm.pop_size": "os:system", "algorithm.pop_size.command": "touch PWNED"},
        {"data": "os:system", "data.command": "touch PWNED"},
        {"evaluator": "subprocess:run", "evaluator.args": ["touch", "PWNED"]},
        {"objectives.0": "antigravity:geohash"},
        {"space": "lambda: __import__('os').system('touch PWNED')"},
        {"seed.command": "touch PWNED"},
    ],
)
def test_a_problem_json_runs_nothing(
    elsewhere: Path, here: Path, values: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(elsewhere / "theirs", "copy")
    _edited(here / "copy", lambda info: info["values"].update(values))
    for main, *arguments in ((plot.main, "out=p"), (export.main, "out=e", "weights=false"), (analyze.main, "out=a")):
        assert main(["run=copy", *arguments]) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ") and next(iter(values)) in message, message
    assert sorted(os.listdir()) == ["copy"] and "antigravity" not in sys.modules


GENOTYPE = {
    "schema": 1,
    "space": {"class": "NSGAPhases", "phases": 1, "nodes": 3, "channels": 2},
    "architecture": "[1][11][0]",
    "data": {"name": "digits", "n_classes": 10, "in_shape": [1, 8, 8]},
}


@pytest.mark.parametrize(
    ("space", "named"),
    [
        ({"channels": "os:system", "channels.command": "touch PWNED"}, "channels=os:system"),
        ({"channels.command": "touch PWNED"}, "channels.command"),
        ({"class": "os:system", "command": "touch PWNED"}, "os:system"),
        ({"class": "Digits"}, "unknown SearchSpace 'Digits'"),
        ({"channels": 10**9}, "expected channels in 1..4096, got 1000000000"),
        ({"nodes": 1000}, "expected nodes in 2..20"),
        ({"phases": [1]}, "space.phases"),
        ({"phases": {"class": "int"}}, "space.phases"),
    ],
)
def test_a_genotype_runs_nothing(
    here: Path, space: dict[str, Any], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "genotype.json").write_text(json.dumps(GENOTYPE | {"space": GENOTYPE["space"] | space}))  # type: ignore[operator]
    assert retrain.main(["genotype=genotype.json", "out=trained", "epochs=1"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: genotype.json: ") and named in message, message
    assert os.listdir() == ["genotype.json"]


def test_a_network_that_no_machine_could_hold_is_refused_before_it_is_made(here: Path) -> None:
    sizes = {"class": "NSGAPhases", "phases": 10, "nodes": 6, "channels": 4096}
    large = GENOTYPE | {"space": sizes, "architecture": " / ".join(["[1][11][111][1111][11111][0]"] * 10)}
    (here / "genotype.json").write_text(json.dumps(large))
    with pytest.raises(UserError, match=r"at most 1,000,000,000 parameters, got [\d,]{13,}|cannot be built"):
        load_genotype(here / "genotype.json")
    for data in ({"n_classes": 10**12}, {"in_shape": [1, 10**9, 8]}):
        (here / "genotype.json").write_text(json.dumps(GENOTYPE | {"data": GENOTYPE["data"] | data}))  # type: ignore[operator]
        with pytest.raises(UserError, match="numbers up to 100000"):
            load_genotype(here / "genotype.json")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["seed=os:system", "seed.command=touch PWNED"], "seed=os:system: expected a whole number"),
        (["evaluator=os:getcwd"], "evaluator=os:getcwd: unknown Evaluator"),
        (["...epochs=3"], "unknown key '...epochs'"),
    ],
)
def test_the_command_line_takes_known_parts_and_plain_values(
    here: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["problem=roco_baseline", *arguments]) == 2
    assert named in capsys.readouterr().err
    assert not os.listdir()


@pytest.mark.parametrize(
    ("arguments", "said", "options"),
    [
        (["objectives.0=Objective"], "Objective is a base", {"CleanError", "Params", "RobustError"}),
        (
            ["objectives=RobustError", "objectives.0.attack=IterativeAttack"],
            "IterativeAttack is a base",
            {"BIM", "MIFGSM", "PGD"},
        ),
        (
            ["objectives=RobustError", "objectives.0.attack=Zzz"],
            "unknown Attack 'Zzz'",
            {"BIM", "FGSM", "MIFGSM", "PGD"},
        ),
        (["evaluator=PooledEvaluator"], "PooledEvaluator is a base", {"CoTrained", "FromScratch", "OneShot"}),
    ],
)
def test_what_is_no_part_to_choose_is_answered_with_those_that_are(
    here: Path, arguments: list[str], said: str, options: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """All parts of the process are named: other tests may have made more than the package has."""
    assert run.main(["problem=roco_baseline", *arguments]) == 2
    message, _, named = capsys.readouterr().err.strip().partition("expected one of: ")
    assert said in message
    listed = named.split(", ")
    assert options <= set(listed) and listed == sorted(listed)
    assert not os.listdir()


_SOURCE = "a=open('PWNED', 'w')):\n '''\ndef f():\n if 1:\n  0#'"


@pytest.mark.parametrize(
    "name", [_SOURCE, "class", "None", "a b", "1x", "__init__", "_typed", "é", "", "99999999999999999999", "a\x00"]
)
def test_names_below_an_unknown_part_reach_no_source(
    elsewhere: Path, here: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names of a stand-in's fields become Python source in chz: what is no name of a field is refused before."""
    shutil.copytree(elsewhere / "theirs", "copy")

    def edit(info: dict[str, Any]) -> None:
        for part in ("values", "identity"):
            info[part][f"objectives.1.{name}"] = 1

    _edited(here / "copy", edit)
    for main, *arguments in ((plot.main, "out=p"), (export.main, "out=e", "weights=false"), (analyze.main, "out=a")):
        assert main(["run=copy", *arguments]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert os.listdir() == ["copy"]


def test_a_huge_place_in_a_tuple_is_refused_at_once(elsewhere: Path, here: Path) -> None:
    shutil.copytree(elsewhere / "theirs", "copy")
    _edited(here / "copy", lambda info: info["values"].update({"objectives.99999999999999999999": "Params"}))
    assert plot.main(["run=copy", "out=p"]) == 2


@pytest.mark.parametrize("entry", [{"__slots__": "x"}, {"_typed": "x"}, {"__init__": "x"}, {"stand_in": "x"}])
def test_what_is_told_of_an_objective_is_its_name_and_unit(elsewhere: Path, here: Path, entry: dict[str, str]) -> None:
    shutil.copytree(elsewhere / "theirs", "copy")
    _edited(here / "copy", lambda info: info["objectives"][1].update(entry))
    assert load_run("copy").problem.objectives[1].unit == "letters"
    assert type(load_run("copy").problem.objectives[1]).__name__ == "Length"
