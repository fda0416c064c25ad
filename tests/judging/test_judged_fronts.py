"""Whole fronts before the judge: with the search's own weights, and retrained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from places import ROOT

from evo_robust import judge, plot, retrain
from evo_robust.judging import subjects
from evo_robust.judging.work import read_judgement
from evo_robust.parts.base import UserError
from evo_robust.progress import silent
from evo_robust.record.reading import load_run

FAST = ("attacks=pgd-2", "eps=.05,.1", "device=cpu", "images=60")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "tests" / "data" / "earlier" / "roco", tmp_path / "roco"))


def test_weights_are_made_again_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge.main([f"run={run}", *FAST]) == 0
    told = capsys.readouterr().out
    front = load_run(run).front
    assert told.count("making its weights again") == len(front) > 1
    assert f"{len(front)} networks have no stored weights: they are made again as in the search, which took" in told
    first = read_judgement(run / "judge")
    assert [v.searched["clean_error"] for v in first.verdicts] == [r["objectives"]["clean_error"] for r in front]

    assert first.verdicts[0].searched_on == load_run(run).info["device"]
    assert "search (h)" in (run / "judge" / "judgement.md").read_text()

    def refused(*_: object) -> None:
        raise AssertionError("weights were kept")

    monkeypatch.setattr(subjects, "rebuild", refused)
    assert judge.main([f"run={run}", *FAST, "pick=0"]) == 0
    again = read_judgement(run / "judge")
    assert [f.right for f in again.verdicts[0].figures] == [f.right for f in first.verdicts[0].figures]
    # the run's folder stays a run's folder, and plot shows both
    assert plot.main([f"run={run}"]) == 0
    assert "front.png" in capsys.readouterr().out


def test_a_search_is_compared_by_its_problem_and_scale(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    monkeypatch.setattr(subjects, "repeated", lambda *given: told.append(given) or "a paper's search")
    (found,) = subjects.of_run(run, "knee", "cpu", silent)
    assert found.repeats == "a paper's search"
    assert told == [("roco", "demo", load_run(run).problem)]


def test_damaged_weights_are_made_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge.main([f"run={run}", *FAST, "pick=0", "signs=no"]) == 0
    (weights,) = (run / "judge" / "weights").iterdir()
    first, content = read_judgement(run / "judge"), weights.read_bytes()
    weights.write_bytes(content[:-9])
    capsys.readouterr()
    assert judge.main([f"run={run}", *FAST, "pick=0", "signs=no"]) == 0
    told = "".join(capsys.readouterr().out.split())
    assert told.count(f"{weights}isdamaged(") == told.count("makingitsweightsagain") == 1
    assert weights.with_name(f"{weights.name}.damaged").read_bytes() == content[:-9]
    assert weights.read_bytes() == content
    again = read_judgement(run / "judge")
    assert [f.right for f in again.verdicts[0].figures] == [f.right for f in first.verdicts[0].figures]


def test_a_retrained_front_is_judged_with_what_the_search_said(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "trained"
    small = ["recipe=standard", "recipe.batch_size=50", "epochs=1", "data.train_limit=100", "data.test_limit=60"]
    assert retrain.main([f"run={run}", "pick=0,1", "space.channels=4", *small, "eps=.1", f"out={out}"]) == 0
    assert judge.main([f"networks={out}", *FAST, f"out={tmp_path / 'judged'}"]) == 0
    found = read_judgement(tmp_path / "judged")
    rows = load_run(run).front
    assert [v.name for v in found.verdicts] == ["trained front 0", "trained front 1"]
    assert {v.group for v in found.verdicts} == {"trained"}
    assert [v.searched["clean_error"] for v in found.verdicts] == [
        rows[k]["objectives"]["clean_error"] for k in range(2)
    ]
    assert (tmp_path / "judged" / "tops.csv").is_file()
    assert judge.main([f"networks={out}", *FAST, "pick=1", f"out={tmp_path / 'one'}"]) == 0
    assert [v.name for v in read_judgement(tmp_path / "one").verdicts] == ["trained front 1"]
    (out / "front-0" / "result.json").unlink()
    capsys.readouterr()
    assert judge.main([f"networks={out}", *FAST, f"out={tmp_path / 'half'}"]) == 2
    told = capsys.readouterr().err
    assert "1 of 2 networks are trained, front-0 is not" in told and "pick=1" in told
    assert not (tmp_path / "half").exists()


def test_damage_is_named(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge.main([f"run={run}", "pick=77", *FAST]) == 2
    assert "77" in capsys.readouterr().err
    folder = tmp_path / "j"
    folder.mkdir()
    (folder / "judgement.json").write_text(json.dumps({"schema": 1, "networks": [{"name": "x"}]}))
    with pytest.raises(UserError, match="damaged"):
        read_judgement(folder)
    (folder / "judgement.json").write_text(json.dumps({"schema": 7}))
    with pytest.raises(UserError, match="schema 1"):
        read_judgement(folder)
