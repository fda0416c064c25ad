"""Searches on a free integer problem whose front is known: algorithms, replay, failures, constraints."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chz
import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2 as PymooNSGA2
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize
from toys import Distance, Integers, Total, Toy

from evo_robust.algorithms.adapter import PENALTY, SearchFailed
from evo_robust.algorithms.base import Algorithm
from evo_robust.algorithms.evolution import NSGA2, NSGA3
from evo_robust.algorithms.random import RandomSearch
from evo_robust.commands.run_folders import standing_of
from evo_robust.data.sets import Digits
from evo_robust.objectives.constraints import Constraint
from evo_robust.parts.base import UserError
from evo_robust.problem.files import load
from evo_robust.problem.value import Problem
from evo_robust.progress import Silent
from evo_robust.record.ending import unfinished
from evo_robust.record.reading import Run, load_run, read_ledger
from evo_robust.record.writing import Record
from evo_robust.search import pymoo_problem, search
from evo_robust.spaces.robnet.space import RobNet
from evo_robust.spaces.structure import Operation, Structure

ALGORITHMS = [NSGA2(pop_size=12, n_gen=6), NSGA3(pop_size=12, n_gen=6), RandomSearch(pop_size=12, n_gen=6)]
named = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)


def toy(algorithm: Algorithm | None = None, **parts: object) -> Problem:
    problem = Problem(
        space=Integers(), data=Digits(), objectives=(Total(), Distance()), evaluator=Toy(), algorithm=ALGORITHMS[0]
    )
    return chz.replace(problem, **({"algorithm": algorithm} if algorithm else {}), **parts)


def true_front() -> set[tuple[float, float]]:
    """For each total the most even tuple is best: 6 genes of 0..3."""
    even = [[total // 6 + (i < total % 6) for i in range(6)] for total in range(19)]
    return {(float(sum(t)), float(sum((3 - g) ** 2 for g in t))) for t in even}


def run(problem: Problem, folder: Path) -> Run:
    return search(problem, folder, device="cpu", workers=1)


def figures(run: Run) -> list[tuple[object, ...]]:
    """What must not depend on interruption, order or clock."""
    keys = ("id", "generation", "genome", "architecture", "objectives", "status", "seed", "error", "fingerprint")
    return [tuple(json.dumps(row[k]) for k in keys) for row in run.evaluations]


@named
def test_finds_the_known_front(algorithm: Algorithm, tmp_path: Path) -> None:
    found = run(toy(chz.replace(algorithm, n_gen=12)), tmp_path / "run")
    points = {(row["objectives"]["total"], row["objectives"]["distance"]) for row in found.front}
    hit = len(points & true_front())
    assert hit == 19 if isinstance(algorithm, RandomSearch) else hit >= 17  # random search exhausts the 84


@named
def test_never_evaluates_an_architecture_twice(algorithm: Algorithm, tmp_path: Path) -> None:
    found = run(toy(algorithm), tmp_path / "run")
    texts = [row["architecture"] for row in found.evaluations]
    assert len(texts) == len(set(texts)) > 40
    assert [row["id"] for row in found.evaluations] == list(range(len(texts)))


def test_genetic_search_beats_random_search_on_a_larger_space(tmp_path: Path) -> None:
    space = Integers(genes=16, choices=6)
    objectives = (Total(), Distance(choices=6))
    volumes = {}
    for algorithm in (NSGA2(pop_size=20, n_gen=15), RandomSearch(pop_size=20, n_gen=15)):
        name = type(algorithm).__name__
        found = run(toy(algorithm, space=space, objectives=objectives), tmp_path / name)
        volumes[name] = {(r["objectives"]["total"], r["objectives"]["distance"]) for r in found.front}
    beaten = [r for r in volumes["RandomSearch"] if any(g[0] <= r[0] and g[1] < r[1] for g in volumes["NSGA2"])]
    assert len(beaten) > len(volumes["RandomSearch"]) / 2


def test_seed_decides_everything(tmp_path: Path) -> None:
    first, again = run(toy(), tmp_path / "a"), run(toy(), tmp_path / "b")
    other = run(toy(seed=1), tmp_path / "c")
    assert figures(first) == figures(again)
    assert [r["architecture"] for r in first.evaluations] != [r["architecture"] for r in other.evaluations]


def test_a_longer_search_goes_on_where_a_shorter_one_ended(tmp_path: Path) -> None:
    short = run(toy(NSGA2(pop_size=12, n_gen=3)), tmp_path / "run")
    longer = run(toy(NSGA2(pop_size=12, n_gen=6)), tmp_path / "run")
    assert figures(longer)[: len(short.evaluations)] == figures(short)
    assert figures(longer) == figures(run(toy(), tmp_path / "straight"))


# one import of torch, and a copy of that process for every search that is asked for
KILLED = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_search import run, toy
from toys import Toy
from pathlib import Path
for line in sys.stdin:
    number = os.fork()
    if not number:
        run(toy(evaluator=Toy(seconds=0.02)), Path(line.strip()))
        os._exit(0)
    print(number, flush=True)
    print(os.waitpid(number, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def searches() -> Iterator[subprocess.Popen[str]]:
    """Searches in the folder of every line that it reads; writes the process's number, and how it ended."""
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


@pytest.mark.parametrize("after", [1, 17, 40])
def test_killed_and_repeated_equals_uninterrupted(searches: subprocess.Popen[str], after: int, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    assert searches.stdin is not None and searches.stdout is not None
    searches.stdin.write(f"{folder}\n")
    searches.stdin.flush()
    number = int(searches.stdout.readline())
    ledger = folder / "evaluations.jsonl"
    until = time.monotonic() + 240
    while not ledger.exists() or ledger.read_bytes().count(b"\n") < after:
        assert time.monotonic() < until, "the search stands still"
        time.sleep(0.005)
    os.kill(number, signal.SIGKILL)
    assert int(searches.stdout.readline()) == signal.SIGKILL, "the search ended before it could be killed"
    with ledger.open("ab") as file:
        file.write(b'{"id": 999, "generation": 3, "geno')  # what a write cut short leaves
    left = read_ledger(ledger)[0]
    assert after <= len(left) < 60
    resumed = run(toy(), folder)
    assert figures(resumed) == figures(run(toy(), tmp_path / "straight"))
    assert (folder / "front.csv").read_text() == (tmp_path / "straight" / "front.csv").read_text()


def test_a_resumed_search_measures_only_what_is_missing(tmp_path: Path) -> None:
    whole = run(toy(), tmp_path / "run")
    ledger = tmp_path / "run" / "evaluations.jsonl"
    lines = ledger.read_bytes().splitlines(keepends=True)
    ledger.write_bytes(b"".join(lines[:30]))
    kept = ledger.read_bytes()
    again = run(toy(), tmp_path / "run")
    assert ledger.read_bytes().startswith(kept)
    assert figures(again) == figures(whole)


def test_failed_candidates_are_recorded_and_kept_off_the_front(tmp_path: Path) -> None:
    found = run(toy(evaluator=Toy(fails=(0,))), tmp_path / "run")
    failed = [row for row in found.evaluations if row["status"] == "failed"]
    assert failed and all(row["error"] == "holds 0" and not row["objectives"] for row in failed)
    assert all("0" not in row["architecture"] for row in found.front)
    assert (6.0, 24.0) in {(r["objectives"]["total"], r["objectives"]["distance"]) for r in found.front}


def test_search_stops_when_the_whole_first_generation_fails(tmp_path: Path) -> None:
    with pytest.raises(SearchFailed, match=r"holds 0|holds 1"):
        run(toy(evaluator=Toy(fails=(0, 1)), space=Integers(choices=2)), tmp_path / "run")


def test_constraints_hold_on_the_front(tmp_path: Path) -> None:
    limit = Constraint(of=Distance(), at_most=20)
    found = run(toy(constraints=(limit,)), tmp_path / "run")
    assert found.front
    assert all(row["objectives"]["distance"] <= 20 for row in found.front)
    assert any(row["objectives"]["distance"] > 20 for row in found.evaluations)
    assert all(row["constraints"]["distance_at_most"] <= 0 for row in found.front)


def test_genomes_that_are_no_network_are_never_proposed(tmp_path: Path) -> None:
    found = run(toy(space=Integers(genes=2, choices=2, refused=True)), tmp_path / "run")
    assert {row["architecture"] for row in found.evaluations} == {"0 1", "1 1"}


def test_data_without_validation_images_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"validate on, got 1437 and 0 \(data.val_share=0"):
        run(toy(data=Digits(val_share=0.0)), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_exhausted_space_ends_the_search(tmp_path: Path) -> None:
    said: list[str] = []

    class Heard(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    def longer(n_gen: int) -> Run:
        problem = toy(RandomSearch(pop_size=12, n_gen=n_gen))
        return search(problem, tmp_path / "run", device="cpu", workers=1, reporter=Heard())

    longer(2)
    standing = standing_of(tmp_path / "run")
    assert (standing.state, standing.early, said) == ("finished", False, [])
    found = longer(50)
    assert len(found.evaluations) == 84
    sentence = f"{found.folder} is finished after 9 of 50 generations: its algorithm had no new network to propose"
    assert said == [sentence] == [unfinished(found)]
    standing = standing_of(found.folder)
    assert (standing.state, standing.done, standing.total, standing.early) == ("finished", 9, 50, True)
    # what ended is known by the generations that are there: some of them lost, the search is unfinished again
    lines = (found.folder / "progress.csv").read_text().splitlines(keepends=True)
    (found.folder / "progress.csv").write_text("".join(lines[:-1]))
    assert standing_of(found.folder).state == "unfinished" and "Its command resumes it" in str(unfinished(found))
    (found.folder / "ended.json").write_text('{"schema": 1, "generations": "all"}')
    assert standing_of(found.folder).state == "damaged"


def test_plain_pymoo_searches_the_problem() -> None:
    problem = toy().to_pymoo(device="cpu", workers=1)
    algorithm = PymooNSGA2(
        pop_size=20,
        sampling=IntegerRandomSampling(),
        crossover=SBX(repair=RoundingRepair()),
        mutation=PM(repair=RoundingRepair()),
    )
    result = minimize(problem, algorithm, ("n_gen", 15), seed=1)
    points = {tuple(map(float, f)) for f in result.F}
    assert points <= true_front() and len(points) >= 12
    # the same architecture is measured once, however often pymoo asks
    assert len(problem.session.asked) == len(set(problem.session.asked)) <= 84


def test_failures_reach_pymoo_behind_every_real_value() -> None:
    problem = toy(evaluator=Toy(fails=(0,))).to_pymoo(device="cpu", workers=1)
    F = problem.evaluate(np.array([[0, 1, 1, 1, 1, 1], [3, 3, 3, 3, 3, 3]]))
    assert F.tolist() == [[PENALTY, PENALTY], [18.0, 0.0]]


@chz.chz
class Weighted(Integers):
    """Every gene that is not 0 is a convolution: of 84 architectures 20 are small, 15 medium and 49 large."""

    def structure(self, architecture: Any) -> Structure:
        operations = tuple(Operation("conv", 0, i, i + 1, True) for i, gene in enumerate(architecture) if gene)
        return Structure(operations, 1, self.genes, len(operations) / self.genes)


class TestBudgets:
    def classes(self, found: Run) -> list[Counter[str]]:
        """How many architectures of each budget every generation asked for."""
        space = found.problem.space
        counts: dict[int, Counter[str]] = {}
        for row in found.evaluations:
            structure = space.structure(space.from_text(row["architecture"]))
            counts.setdefault(row["generation"], Counter())[structure.budget] += 1
        return [counts[generation] for generation in sorted(counts)]

    def test_share_every_generation_and_the_first_ones_take_the_remainder(self, tmp_path: Path) -> None:
        algorithm = RandomSearch(pop_size=8, n_gen=4, budgets=("large", "small", "medium"))
        found = run(toy(algorithm, space=Weighted()), tmp_path / "run")
        assert self.classes(found) == [Counter(large=3, small=3, medium=2)] * 4
        assert len({row["architecture"] for row in found.evaluations}) == 32

    def test_that_are_exhausted_leave_the_others_their_share(self, tmp_path: Path) -> None:
        algorithm = RandomSearch(pop_size=12, n_gen=50, budgets=("small", "medium"))
        found = run(toy(algorithm, space=Weighted()), tmp_path / "run")
        assert self.classes(found) == [Counter(small=6, medium=6)] * 2 + [Counter(small=6, medium=3), Counter(small=2)]

    def test_draws_of_a_resumed_search_are_those_of_a_straight_one(self, tmp_path: Path) -> None:
        algorithm = RandomSearch(pop_size=6, n_gen=2, budgets=("small", "large"))
        short = run(toy(algorithm, space=Weighted()), tmp_path / "run")
        longer = run(toy(chz.replace(algorithm, n_gen=4), space=Weighted()), tmp_path / "run")
        straight = run(toy(chz.replace(algorithm, n_gen=4), space=Weighted()), tmp_path / "straight")
        assert figures(longer)[: len(short.evaluations)] == figures(short)
        assert figures(longer) == figures(straight)
        other = run(toy(algorithm, space=Weighted(), seed=1), tmp_path / "other")
        assert [row["architecture"] for row in other.evaluations] != [row["architecture"] for row in short.evaluations]

    def test_come_from_the_command_line(self) -> None:
        given = {"space": "RobNet", "algorithm": "RandomSearch", "algorithm.budgets": "small,large"}
        problem = load("roco", overrides=given)
        assert problem.algorithm == RandomSearch(
            pop_size=problem.algorithm.pop_size, n_gen=problem.algorithm.n_gen, budgets=("small", "large")
        )
        with pytest.raises(UserError, match=r"algorithm.budgets=smal: expected .*did you mean 'small'"):
            load("roco", overrides={**given, "algorithm.budgets": "smal"})

    @pytest.mark.parametrize(
        ("parts", "said"),
        [
            ({"budgets": ("small", "lage")}, "RandomSearch.budgets .*'lage'.*did you mean 'large'"),
            ({"budgets": ("small", "small")}, "expected different algorithm.budgets, got small,small"),
            ({"budgets": ("small", "large"), "pop_size": 1}, r"expected algorithm.pop_size >= 2.*got 1"),
        ],
    )
    def test_that_cannot_be_shared_are_refused(self, parts: dict[str, Any], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            RandomSearch(**parts)

    def test_that_the_space_lacks_are_refused_with_the_problem(self) -> None:
        algorithm = RandomSearch(budgets=("medium",))
        with pytest.raises(ValueError, match=r"algorithm.budgets=medium: Integers has no budget classes"):
            toy(algorithm)
        with pytest.raises(ValueError, match=r"algorithm.budgets=medium: .*0 to 2 convolutions are never a medium"):
            toy(algorithm, space=RobNet(nodes=1))
        assert toy(algorithm, space=RobNet(nodes=2)).algorithm == algorithm


class TestFolder:
    def test_written_before_a_field_was_there_goes_on_with_the_fields_default(self, tmp_path: Path) -> None:
        run(toy(RandomSearch(pop_size=6, n_gen=1)), tmp_path / "run")
        file = tmp_path / "run" / "problem.json"
        info = json.loads(file.read_text())
        for part in ("values", "identity"):
            del info[part]["algorithm.budgets"]
        file.write_text(json.dumps(info))
        assert len(run(toy(RandomSearch(pop_size=6, n_gen=2)), tmp_path / "run").evaluations) == 12

    def test_of_another_search_is_refused_and_names_the_difference(self, tmp_path: Path) -> None:
        run(toy(), tmp_path / "run")
        before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
        with pytest.raises(UserError, match=r"holds another search.*algorithm.pop_size: 12 → 8"):
            run(toy(NSGA2(pop_size=8, n_gen=6)), tmp_path / "run")
        assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before

    def test_in_use_is_refused_and_names_the_process(self, tmp_path: Path) -> None:
        run(toy(), tmp_path / "run")
        info = json.loads((tmp_path / "run" / "problem.json").read_text())
        with (
            Record(tmp_path / "run", toy(), info),
            pytest.raises(UserError, match=rf"in use by process {os.getpid()} on"),
        ):
            run(toy(), tmp_path / "run")

    def test_with_foreign_files_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("important")
        with pytest.raises(UserError, match="holds other files"):
            run(toy(), tmp_path)
        assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]

    def test_whose_ledger_does_not_follow_from_the_settings_is_left_alone(self, tmp_path: Path) -> None:
        run(toy(), tmp_path / "run")
        ledger = tmp_path / "run" / "evaluations.jsonl"
        lines = ledger.read_text().splitlines(keepends=True)
        row = json.loads(lines[5])
        lines[5] = json.dumps({**row, "genome": [0] * 6, "architecture": "0 0 0 0 0 0"}) + "\n"
        ledger.write_text("".join(lines))
        with pytest.raises(UserError, match=rf"does not follow.*evaluation {row['id']} was '0 0 0 0 0 0'"):
            run(toy(), tmp_path / "run")
        assert ledger.read_text() == "".join(lines)

    def test_keeps_the_versions_of_its_first_rows(self, tmp_path: Path) -> None:
        run(toy(), tmp_path / "run")
        path = tmp_path / "run" / "problem.json"
        old = json.loads(path.read_text())
        old["versions"]["torch"] = "1.0"
        path.write_text(json.dumps(old))
        run(toy(), tmp_path / "run")
        new = json.loads(path.read_text())
        assert new["versions"]["torch"] == "1.0" and new["sessions"][0]["versions"]["torch"] != "1.0"

    def test_that_is_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("a file")
        with pytest.raises(UserError, match="is a file: expected a folder"):
            run(toy(), tmp_path / "run")

    def test_with_junk_for_progress_is_resumed(self, tmp_path: Path) -> None:
        run(toy(), tmp_path / "run")
        (tmp_path / "run" / "progress.csv").write_text("junk\n1\n")
        run(toy(), tmp_path / "run")
        assert (tmp_path / "run" / "progress.csv").read_text().startswith("generation,")

    @pytest.mark.parametrize(
        "damage",
        [
            b"{not json}\n",
            b'{"id": 3}\n',
            b"\n",
            b"[1]\n",
            b'{"id": 4, "generation": 1, "genome": [], "architecture": "0", "objectives": {}, "status": "ok", '
            b'"fingerprint": ""}\n',
            b'{"id": 4, "generation": 1, "genome": [], "architecture": "0", "objectives": {"total": NaN}, '
            b'"status": "ok", "fingerprint": ""}\n',
        ],
    )
    def test_damaged_in_the_middle_is_reported_and_left_alone(self, damage: bytes, tmp_path: Path) -> None:
        run(toy(), tmp_path / "run")
        ledger = tmp_path / "run" / "evaluations.jsonl"
        lines = ledger.read_bytes().splitlines(keepends=True)
        ledger.write_bytes(b"".join([*lines[:4], damage, *lines[5:]]))
        before = ledger.read_bytes()
        with pytest.raises(UserError, match=r"evaluations.jsonl, line 5 is damaged"):
            run(toy(), tmp_path / "run")
        with pytest.raises(UserError, match="line 5 is damaged"):
            load_run(tmp_path / "run")
        assert ledger.read_bytes() == before

    def test_with_a_row_twice_is_reported(self, tmp_path: Path) -> None:
        run(toy(), tmp_path / "run")
        ledger = tmp_path / "run" / "evaluations.jsonl"
        lines = ledger.read_bytes().splitlines(keepends=True)
        ledger.write_bytes(b"".join([*lines, lines[2]]))
        with pytest.raises(UserError, match="it repeats id"):
            run(toy(), tmp_path / "run")

    def test_tells_progress_and_front(self, tmp_path: Path) -> None:
        found = run(toy(), tmp_path / "run")
        rows = (tmp_path / "run" / "progress.csv").read_text().splitlines()
        assert rows[0] == "generation,evaluations,own_box_hypervolume,front,seconds"
        volumes = [float(row.split(",")[2]) for row in rows[1:]]
        assert len(volumes) == 6 and volumes == sorted(volumes) and 0 < volumes[0] < volumes[-1] <= 1
        front = json.loads((tmp_path / "run" / "front.json").read_text())["front"]
        assert [entry["id"] for entry in front] == [row["id"] for row in found.front]
        assert not (tmp_path / "run" / "lock").exists()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda out: search("roco", out), r'got the text .roco.: load\("roco"\)'),  # type: ignore[arg-type]
        (lambda out: search(5, out), "expected a Problem, got int"),  # type: ignore[arg-type]
        (lambda out: search(toy(), ""), "expected out to be a folder"),
        (lambda out: search(toy(), out, cluster=5), "expected cluster to be text"),  # type: ignore[arg-type]
        (lambda out: search(toy(), out, info=5), "expected info to be a dictionary"),  # type: ignore[arg-type]
        (lambda out: search(toy(), out, info={1: "x"}), "info: expected texts as keys, got 1"),  # type: ignore[dict-item]
        (lambda out: search(toy(), out, info={"values": {}}), "info: 'values' is what a search writes itself"),
        (lambda out: search(toy(), out, info={"schema": 7}), "info: 'schema' is what a search writes itself"),
        (lambda out: search(toy(), out, info={"source": 5}), "info: expected a path .* as 'source', got 5"),
        (lambda out: search(toy(), out, info={"note": math.nan}), "info: expected what JSON can hold"),
        (lambda out: search(toy(), out, info={"note": object()}), "info: expected what JSON can hold"),
        (lambda out: pymoo_problem(toy(), out, info={"note": {1}}), "info: expected what JSON can hold"),
        (lambda out: search(toy(), "a\0b"), "out='a.*': expected a path, got one with a zero byte"),
        (lambda out: search(toy(), out, reporter=print), "expected reporter to be a Reporter"),  # type: ignore[arg-type]
        (lambda out: search(toy(), out, on_generation=3), "expected on_generation to be a function"),  # type: ignore[arg-type]
        (lambda out: load("roco", overrides={"seed": 3}), "expected overrides to be texts by key"),  # type: ignore[dict-item]
        (lambda out: load("roco", overrides={1: "3"}), "expected overrides to be texts by key"),  # type: ignore[dict-item]
        (lambda out: load("roco", overrides=["seed=3"]), "expected overrides to be texts by key"),  # type: ignore[arg-type]
        (lambda out: load(5), "expected the names of a problem and a scale"),  # type: ignore[arg-type]
        (lambda out: load("roco", 5), "expected the names of a problem and a scale"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_problem_folder_or_name_is_refused(
    call: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        call(tmp_path / "run")
    assert not any(tmp_path.iterdir())
