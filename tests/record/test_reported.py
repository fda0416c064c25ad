"""What is measured on the front alone, when the search is over: white-box errors beside what was searched for."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import chz
import pytest
import torch
from toys import Distance, Integers, Total, Toy

from evo_robust import (
    NSGA2,
    PGD,
    CleanError,
    Digits,
    Flops,
    FromScratch,
    NSGAPhases,
    Problem,
    RobustError,
    Standard,
    load_run,
    plot,
    run,
    search,
)
from evo_robust.attacks.curve import robust_curve
from evo_robust.evaluators import kept
from evo_robust.parts.base import Fraction, UserError, digest, dotted, seed_from
from evo_robust.problem.files import load, problem_from_dict, problem_to_dict
from evo_robust.record.run import Run

EPS = (Fraction(0.05), Fraction(0.1))
PGD_ERROR = RobustError(attack=PGD(steps=3), eps=EPS, limit=60, label="pgd_error")
PLAIN = Problem(
    space=NSGAPhases(phases=1, nodes=3, channels=4),
    data=Digits(train_limit=300),
    objectives=(CleanError(), Flops()),
    evaluator=FromScratch(epochs=2, recipe=Standard(lr=0.1, batch_size=32)),
    algorithm=NSGA2(pop_size=6, n_gen=2),
)
REPORTED = chz.replace(PLAIN, reported=(PGD_ERROR,))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return search(REPORTED, tmp_path_factory.mktemp("runs") / "run", device="cpu", workers=1)


def lines(folder: Path) -> list[str]:
    return (folder / "reported.jsonl").read_text().splitlines()


def figures(folder: Path) -> list[tuple[str, float]]:
    return sorted((line["architecture"], line["value"]) for line in map(json.loads, lines(folder)))


def test_the_front_alone_is_measured(found: Run) -> None:
    assert len(found.front) < len(found.evaluations)
    assert {json.loads(line)["id"] for line in lines(found.folder)} == {row["id"] for row in found.front}
    ledger = (found.folder / "evaluations.jsonl").read_text()
    assert "pgd_error" not in ledger
    for record in found.table("all"):
        assert (record["pgd_error"] is None) == (record["index"] is None)
    assert not (found.folder / "weights").exists(), "kept until then"


def test_it_is_what_an_attack_on_the_networks_finds(found: Run) -> None:
    images = REPORTED.data.load().val.take(slice(60))
    for index, record in enumerate(found.table()):
        seed = seed_from(seed_from(REPORTED.seed, record["architecture"]), "pgd_error")
        generator = torch.Generator().manual_seed(seed)
        curve = robust_curve(found.network(index), images, PGD(steps=3), EPS, generator=generator)
        assert [record["pgd_error.0.05"], record["pgd_error.0.1"]] == list(curve.error)
        assert record["pgd_error"] == pytest.approx(sum(curve.error) / 2)


def test_it_changes_nothing_of_the_search(found: Run, tmp_path: Path) -> None:
    plain = search(PLAIN, tmp_path / "plain", device="cpu", workers=1)
    assert not (plain.folder / "reported.jsonl").exists() and not (plain.folder / "weights").exists()
    keys = ("id", "architecture", "objectives", "fingerprint", "seed")
    assert [[row[k] for k in keys] for row in plain.evaluations] == [
        [row[k] for k in keys] for row in found.evaluations
    ]
    assert digest(REPORTED) == digest(PLAIN) and dotted(REPORTED, identity=True) == dotted(PLAIN, identity=True)
    assert problem_from_dict(problem_to_dict(REPORTED)) == REPORTED


def test_files_and_tables_show_it(found: Run, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader((found.folder / "front.csv").read_text().splitlines()))
    record = found.table()[0]
    assert float(rows[0]["pgd_error.0.1"]) == record["pgd_error.0.1"]
    front = json.loads((found.folder / "front.json").read_text())["front"]
    assert front[0]["reported"] == {"pgd_error": record["pgd_error"]}
    assert plot.main([f"run={found.folder}"]) == 0
    said = capsys.readouterr().out
    assert "PGD error" in said and "at 0.05" in said and f"{100 * record['pgd_error.0.1']:.2f}" in said
    assert (
        "What was attacked: PGD error is white-box, PGD-3 on each network itself at L∞ ε 0.05, 0.1, measured on the "
        "front only." in said.replace("\n", " ")
    )


def test_a_second_call_measures_nothing(found: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("evaluations.jsonl", "reported.jsonl", "front.csv", "front.json")
    before = {name: (found.folder / name).read_bytes() for name in names}
    monkeypatch.setattr(RobustError, "measure", lambda *_: pytest.fail("measured again"))
    again = search(REPORTED, found.folder, device="cpu", workers=1)
    assert again.table("all") == found.table("all")
    assert {name: (found.folder / name).read_bytes() for name in before} == before


def test_it_goes_on_where_it_was_killed(found: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, seen = tmp_path / "run", []
    measure = RobustError.measure

    def killed(self: RobustError, candidate: object) -> float:
        seen.append(candidate)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return measure(self, candidate)  # type: ignore[arg-type]

    monkeypatch.setattr(RobustError, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        search(REPORTED, folder, device="cpu", workers=1)
    assert len(lines(folder)) == 1 and any((folder / "weights").iterdir())
    with (folder / "reported.jsonl").open("ab") as file:
        file.write(b'{"id": 3, "arch')  # what a killed process could not finish
    went_on = search(REPORTED, folder, device="cpu", workers=1)
    assert len(seen) == 1 + len(found.front)
    assert figures(folder) == figures(found.folder) and not (folder / "weights").exists()
    assert went_on.table()[0]["pgd_error"] == found.table()[0]["pgd_error"]


def test_a_finished_run_gets_it_without_kept_weights(found: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    search(PLAIN, folder, device="cpu", workers=1)
    search(REPORTED, folder, device="cpu", workers=1)
    assert figures(folder) == figures(found.folder), "weights that are made again are the same to the bit"
    other = chz.replace(PLAIN, reported=(chz.replace(PGD_ERROR, eps=(Fraction(0.3),)),))
    changed = search(other, folder, device="cpu", workers=1)
    assert [key for key in changed.table()[0] if key.startswith("pgd_error.")] == ["pgd_error.0.3"]
    search(REPORTED, folder, device="cpu", workers=1)
    assert len(lines(folder)) == 2 * len(found.front), "what was measured once is known"


def test_kept_weights_are_used_and_damaged_ones_made_again(tmp_path: Path) -> None:
    space, text = PLAIN.space, load_text()
    model = space.build(space.from_text(text), 10, (1, 8, 8))
    kept.keep(tmp_path, text, model)
    other = space.build(space.from_text(text), 10, (1, 8, 8))
    assert kept.restore(tmp_path, text, other)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-3])
    assert not kept.restore(tmp_path, text, other) and not kept.restore(tmp_path / "none", text, other)
    kept.forget_others(tmp_path, ())
    assert not tmp_path.exists()


def load_text() -> str:
    return PLAIN.space.to_text(PLAIN.space.decode(PLAIN.space.n_choices - 1))


def test_a_damaged_line_is_named(found: Run, tmp_path: Path) -> None:
    for file in found.folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    line = json.loads(lines(found.folder)[0])
    (tmp_path / "reported.jsonl").write_text(json.dumps({**line, "value": "high"}) + "\n")
    with pytest.raises(
        UserError, match=r"reported.jsonl, line 1 is damaged: expected a number or null as 'value', got"
    ):
        load_run(tmp_path)


def test_what_fails_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: RobustError, candidate: object) -> float:
        raise RuntimeError("no gradient")

    monkeypatch.setattr(RobustError, "measure", broken)
    run_ = search(REPORTED, tmp_path / "run", device="cpu", workers=1)
    assert {json.loads(line)["error"] for line in lines(run_.folder)} == {"RuntimeError: no gradient"}
    assert run_.front and "pgd_error" not in run_.table()[0]
    monkeypatch.setattr(RobustError, "measure", lambda *_: pytest.fail("tried again"))
    search(REPORTED, tmp_path / "run", device="cpu", workers=1)


def test_names_differ_from_those_of_objectives() -> None:
    with pytest.raises(ValueError, match="got 'clean_error' twice"):
        chz.replace(PLAIN, reported=(CleanError(limit=5),))


def test_an_evaluator_that_cannot_says_so_beforehand(tmp_path: Path) -> None:
    toy = Problem(
        space=Integers(), data=Digits(), objectives=(Total(),), evaluator=Toy(), algorithm=NSGA2(pop_size=4, n_gen=1),
        reported=(Distance(),),
    )  # fmt: skip
    with pytest.raises(UserError, match="Toy cannot measure a finished front: expected reported to be empty, got dist"):
        search(toy, tmp_path / "run", workers=1)
    assert not (tmp_path / "run" / "evaluations.jsonl").read_bytes()


def test_the_demo_reports_pgd_at_three_strengths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (reported,) = load("roco").reported
    assert isinstance(reported, RobustError) and isinstance(reported.attack, PGD)
    assert (reported.attack.steps, [float(e) for e in reported.eps]) == (20, [0.05, 0.1, 0.2])
    small = ["objectives=CleanError,Flops", "evaluator.epochs=0", "algorithm.pop_size=3", "algorithm.n_gen=1"]
    assert run.main(["problem=roco", "out=run", "workers=1", "plot=false", "reported.0.limit=10", *small]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-2] == (
        "What was attacked: PGD error is white-box, PGD-20 on each network itself at L∞ ε 0.05, 0.1, 0.2, measured "
        "on the front only."
    )
    record = load_run("run").table()[0]
    assert [key for key in record if key.startswith("pgd_error")] == [
        "pgd_error", "pgd_error.0.05", "pgd_error.0.1", "pgd_error.0.2",
    ]  # fmt: skip
    assert all(math.isfinite(record[key]) for key in record if key.startswith("pgd_error"))


def test_two_of_one_name_are_told_with_their_places() -> None:
    with pytest.raises(UserError, match="got 'flops' twice, as objectives.2 and reported.0: give one of them a label, "
                                        "such as reported.0.label=flops_2"):  # fmt: skip
        load("roco", "demo", {"reported": "Flops"})


def test_the_words_say_what_is_black_box() -> None:
    clean, transfer, flops = load("roco").objectives
    assert clean.attacked == flops.attacked == ""
    assert transfer.attacked == (
        "black-box, CMAES on other networks (lenet, densenet, resnet, vgg-16) up to 10 pixels and L∞ 64/255"
    )
    assert load("roco", "summed").objectives[0].attacked == transfer.attacked
