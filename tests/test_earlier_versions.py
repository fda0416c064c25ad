"""What version 0.1.0 wrote is read and continued: run folders, a supernet, an adversarial set, names and fingerprints.

``tests/data/earlier`` was made by that version, by the commands that ``problem.json`` of each run tells; pictures, lock
files and the set's victims are left out. It is never made again: a change that needs other files breaks old runs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chz
import pytest

import evo_robust
from evo_robust import Context, Problem, export, run
from evo_robust.networks.genotype import load_genotype
from evo_robust.parts.base import FORMER_NAMES, Part, digest, dotted, is_base, subclass_named
from evo_robust.parts.resolve import from_dotted
from evo_robust.problem.files import problem_files, scales
from evo_robust.record.reading import load_run
from evo_robust.record.view import view_of

EARLIER = Path(__file__).parent / "data" / "earlier"
RUNS = ("robnet", "roco", "racl")

# what classes without defaults of their own are made of
NEEDED: dict[str, dict[str, Any]] = {
    "Constraint": {"of": evo_robust.Params(), "at_most": 1.0},
    "Gate": {"of": evo_robust.CleanError()},
    "LogConstraint": {"of": evo_robust.LipschitzConfidence(), "at_most": 1.0},
    "LogGate": {"of": evo_robust.LipschitzConfidence()},
    "WeightedSum": {"of": (evo_robust.CleanError(), evo_robust.Params())},
}


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of everything; its cache is the cache, and its folder the present one."""
    folder = tmp_path / "earlier"
    shutil.copytree(EARLIER, folder)
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    return folder


def _files(folder: Path) -> dict[str, tuple[str, int]]:
    """Digest and time of every file but locks, which say nothing."""
    return {
        str(file.relative_to(folder)): (hashlib.sha256(file.read_bytes()).hexdigest(), file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file() and file.name != ".lock"
    }


def _go_on(folder: Path, n_gen: int) -> None:
    """The command that made the run, with another number of generations."""
    told = json.loads((folder / "problem.json").read_text())["command"].split()
    command = [argument for argument in told[3:] if not argument.startswith("algorithm.n_gen=")]
    assert run.main([*command, f"algorithm.n_gen={n_gen}"]) == 0


def _keys(rows: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(row["architecture"], row["fingerprint"]) for row in rows}


def _volumes(folder: Path) -> list[str]:
    return [line.split(",")[2] for line in (folder / "progress.csv").read_text().splitlines()[1:]]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_read_as_it_was(earlier: Path, name: str) -> None:
    found = load_run(earlier / name)
    lines = (EARLIER / name / "evaluations.jsonl").read_text().splitlines()
    assert found.missing is None
    assert found.evaluations == [json.loads(line) for line in lines]
    front = json.loads((EARLIER / name / "front.json").read_text())["front"]
    assert [row["id"] for row in found.front] == [row["id"] for row in front] != []
    told = json.loads((EARLIER / name / "problem.json").read_text())
    assert type(found.problem.evaluator).__name__ == told["values"]["evaluator"]


@pytest.mark.parametrize("name", RUNS)
def test_a_hypervolume_is_what_it_was(earlier: Path, name: str) -> None:
    last = (EARLIER / name / "progress.csv").read_text().splitlines()[-1].split(",")
    assert view_of(load_run(earlier / name)).hypervolume == pytest.approx(float(last[2]), rel=1e-5)


@pytest.mark.parametrize("name", ["robnet", "roco"])
def test_a_run_goes_on_with_what_it_had(earlier: Path, name: str) -> None:
    cache = _files(earlier / "cache")
    ledger = earlier / name / "evaluations.jsonl"
    old_bytes, old = ledger.read_bytes(), load_run(earlier / name).evaluations
    _go_on(earlier / name, 2)  # nothing is left to do
    assert ledger.read_bytes() == old_bytes
    _go_on(earlier / name, 3)
    assert ledger.read_bytes().startswith(old_bytes)
    assert (earlier / name / "hypervolume.json").is_file()
    assert _volumes(earlier / name)[:2] == _volumes(EARLIER / name)
    new = load_run(earlier / name).evaluations[len(old) :]
    assert {row["generation"] for row in new} == {3}
    assert not _keys(new) & _keys(old), "evaluated again"
    assert {row["fingerprint"] for row in new} == {row["fingerprint"] for row in old}
    assert _files(earlier / "cache") == cache, "built again"


def test_a_co_trained_run_goes_on_with_its_weights(earlier: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = earlier / "racl"
    ledger, past = folder / "evaluations.jsonl", folder / "co_training.csv"
    old_bytes, old_past, old = ledger.read_bytes(), past.read_bytes(), load_run(folder).evaluations
    learned = _files(folder / "co_training")
    _go_on(folder, 3)
    trained = [line for line in capsys.readouterr().out.splitlines() if line.startswith("supernet epoch ")]
    assert [line.split(":")[0] for line in trained] == ["supernet epoch 3/4"]
    assert ledger.read_bytes().startswith(old_bytes)
    assert past.read_bytes().startswith(old_past)
    new = load_run(folder).evaluations[len(old) :]
    # survivors are measured anew, with the weights of their generation
    assert {row["generation"] for row in new} == {3}
    assert not _keys(new) & _keys(old)
    # of the last generation what only going on needs is dropped once there is a later one; older ones stay
    first = "generation-0001.safetensors"
    assert _files(folder / "co_training")[first] == learned[first]


def test_a_network_is_exported_with_inherited_weights(earlier: Path) -> None:
    cache = _files(earlier / "cache")
    arguments = ["run=robnet", "pick=knee", "out=exported", "device=cpu", "onnx=false"]
    assert export.main(arguments) == 0
    before, now = load_genotype(earlier / "genotype.json"), load_genotype(earlier / "exported" / "genotype.json")
    assert (now.space, now.architecture, now.objectives) == (before.space, before.architecture, before.objectives)
    assert (earlier / "exported" / "model.safetensors").is_file()
    assert _files(earlier / "cache") == cache, "built again"


def _builds(problem: Problem) -> list[str]:
    """Files of the cache that a search of the problem makes, or finds there."""
    cache = Path("cache")
    # of published files the content is checked when they are read, and is no part of names
    data = chz.replace(problem.data, content="")
    context = Context(problem.space, data, problem.seed, "cpu", 1, cache, problem.recorded)
    measured = (*problem.objectives, *problem.recorded, *(constraint.of for constraint in problem.constraints))
    files = [*problem.evaluator.builds(context), *(file for part in measured for file in part.builds(context))]
    return sorted({file.relative_to(cache).as_posix() for file in files})


def _shipped() -> Iterator[tuple[str, Problem]]:
    for name, path in sorted(problem_files().items()):
        for scale, problem in sorted(scales(str(path)).items()):
            yield f"{name}:{scale}", problem


def identities() -> dict[str, Any]:
    """Digests of all shipped problems and public parts, and names in the cache, as the present code has them."""
    public = {name: getattr(evo_robust, name) for name in [*evo_robust.__all__, *FORMER_NAMES.values()]}
    parts = {name: cls for name, cls in public.items() if isinstance(cls, type) and issubclass(cls, Part)}
    made = {name: cls(**NEEDED.get(name, {})) for name, cls in parts.items() if not is_base(cls) and cls is not Problem}
    return {
        "problems": {key: {"digest": digest(problem), "builds": _builds(problem)} for key, problem in _shipped()},
        "parts": {name: digest(part) for name, part in sorted(made.items())},
    }


def test_identities_are_what_they_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # no problems/ of one's own here
    was = json.loads((EARLIER / "identities.json").read_text())
    now = identities()
    for kind in ("problems", "parts"):  # there may be more of them today
        assert {key: now[kind].get(key) for key in was[kind]} == was[kind]


@pytest.mark.parametrize(("present", "former"), FORMER_NAMES.items())
def test_former_names_are_understood_and_recorded(present: str, former: str) -> None:
    cls = getattr(evo_robust, present)
    assert getattr(evo_robust, former) is cls and present in evo_robust.__all__ and former not in evo_robust.__all__
    assert subclass_named(Part, former) is cls is subclass_named(Part, present)
    objective = evo_robust.RobustError(eps=(0.05, 0.1), n_real=1, estimator=cls())
    assert dotted(objective)["estimator"] == former
    assert from_dotted(evo_robust.RobustError, dotted(objective)) == objective
