"""What the papers' searches cost, beside what ours cost."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from rich.table import Table

from evo_robust.judging.judgement import Figure, Judgement, Verdict
from evo_robust.judging.report import grid_of, write_report
from evo_robust.judging.searches import cost_of, costs_below, repeated
from evo_robust.problem.files import load
from evo_robust.progress import output

ROCO = "RoCo-NAS, section IV-B, NAS search (baseline configuration section)"
CLEAN = Figure("clean", "clean", "", None, 80, 100, 1.0)


def verdict(name: str, hours: float | None = None, repeats: str = "", zoo: str | None = None) -> Verdict:
    return Verdict(
        *(name, name, "Standard, 3 epochs", 0, zoo, 1_000_000, 2e6, (CLEAN,), {}, {}),
        group=name.split()[0],
        search_hours=hours,
        searched_on="cuda" if hours else "",
        repeats=repeats,
    )


@pytest.mark.parametrize(
    ("name", "scale", "given", "expected"),
    [
        ("roco", "paper", {}, ROCO),
        ("roco_baseline", "paper", {}, ROCO),
        ("roco", "demo", {}, ""),
        ("roco", "paper", {"data": "svhn"}, ""),
        ("wsr", "paper", {}, "Wsr-NAS, Table 3, WsrNet-Basic"),
        ("wsr", "published", {"objectives.0.strengths": "plus"}, "Wsr-NAS, Table 3, WsrNet-Plus"),
        ("wsr", "paper", {"objectives.0.strengths": "naive-11"}, "Wsr-NAS, Table 3, WsrNet-Naive-11"),
        ("wsr", "paper", {"objectives.0.strengths.n_real": "2"}, ""),
        ("wsr", "demo", {}, ""),
        ("robnet", "paper", {}, ""),
    ],
)
def test_a_search_is_known_as_the_papers_where_it_repeats_it(
    name: str, scale: str, given: dict[str, str], expected: str
) -> None:
    assert repeated(name, scale, load(name, scale, given)) == expected


@pytest.mark.parametrize(
    ("found", "hours"),
    [
        (verdict("a", zoo="wsr-basic"), [86.4]),
        (verdict("a", zoo="wsr-plus channels=24"), [96.0]),
        (verdict("a", repeats=ROCO), [228.0]),
        (verdict("a", zoo="resnet-18"), []),
        (verdict("a", hours=1.0), []),
    ],
)
def test_gpu_days_are_told_in_hours(found: Verdict, hours: list[float]) -> None:
    assert [printed.search_hours for printed in cost_of(found)] == pytest.approx(hours)


def test_every_form_of_the_table_shows_the_papers_cost_beside_ours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched = [verdict(f"roco front {k}", 0.5, ROCO) for k in range(2)]
    judgement = Judgement("cifar10", 100, 0, (*searched, verdict("wsr-basic", zoo="wsr-basic"), verdict("mine")))
    rows = [(row[0], row[4]) for row in grid_of(judgement).rows]
    assert rows == [
        ("roco front 0", "0.5 (cuda)"),
        ("roco front 1", "0.5 (cuda)"),
        ("  printed: RoCo-NAS, section IV-B", "228 (gpu)"),
        ("wsr-basic", "–"),
        ("  printed: Wsr-NAS, Table 3", "86.4 (gpu)"),
        ("mine", "–"),
    ]
    for shown in write_report(judgement, tmp_path):
        if isinstance(shown, Table):
            output().print(shown)
    told = capsys.readouterr().out
    assert "search (h)" in told and "228 (gpu)" in told and "86.4 (gpu)" in told
    for name in ("judgement.md", "judgement.tex"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "printed: RoCo-NAS, section IV-B" in text and "228 (gpu)" in text
        assert "RobNet (printed: Wsr-NAS, Table 3)" in text and "542.4 (gpu, estimated)" in text
    with (tmp_path / "judgement.csv").open(encoding="utf-8", newline="") as file:
        lines = {line["network"]: line for line in csv.DictReader(file)}
    ends = ("search_hours", "searched_on", "printed_search_hours", "printed_search_in")
    assert [lines["roco front 0"][key] for key in ends] == ["0.5", "cuda", "228", "RoCo-NAS, section IV-B"]
    assert [lines["wsr-basic"][key] for key in ends] == ["", "", "86.4", "Wsr-NAS, Table 3"]
    assert [lines["mine"][key] for key in ends] == ["", "", "", ""]


def test_one_network_shows_the_cost_of_its_search_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judgement = Judgement("cifar10", 100, 0, (verdict("roco knee", 0.5, ROCO),))
    assert [printed.source for printed in costs_below(judgement.verdicts[0], judgement)] == ["RoCo-NAS, section IV-B"]
    output().print(write_report(judgement, tmp_path)[0])
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "search (h)" in line]
    assert "0.5 (cuda)" in line and "228 (gpu)" in line
    write_report(Judgement("cifar10", 100, 0, (verdict("mine"),)), tmp_path)
    assert "search (h)" not in (tmp_path / "judgement.md").read_text(encoding="utf-8")


def test_a_judgement_keeps_which_search_was_repeated() -> None:
    judgement = Judgement("cifar10", 100, 0, (verdict("roco knee", 0.5, ROCO), verdict("mine")))
    assert Judgement.from_json(judgement.to_json()) == judgement
    content = judgement.to_json()
    for network in content["networks"]:
        del network["repeats"]  # as earlier versions wrote it
    assert [found.repeats for found in Judgement.from_json(content).verdicts] == ["", ""]
