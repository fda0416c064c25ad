"""What ``list`` tells of problems, parts and run folders, and that it runs nobody's code."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path

import pytest
from places import ROOT

from evo_robust.__main__ import main
from evo_robust.commands.run_folders import run_folders, standing_of
from evo_robust.commands.source_files import classes_in, scales_in
from evo_robust.parts.base import subclasses
from evo_robust.problem.files import problem_files, scales
from evo_robust.record.reading import load_run
from evo_robust.spaces.base import SearchSpace

EARLIER = ROOT / "tests" / "data" / "earlier"

MINE = '''"""Mine: not to be run."""
import pathlib
import chz
from evo_robust import CleanError, Objective, Problem, load
import evo_robust.attacks.base as base

pathlib.Path("it-was-run").write_text("")

@chz.chz
class Depth(Objective):
    """How deep a network is."""

class Deeper(Depth):
    """How much deeper."""

class Blur(base.Attack):
    """Blurs."""

class Nothing:
    """No part."""

def made() -> Problem: ...

demo = load("roco")
paper: Problem = chz.replace(demo, seed=1)
quick = made()
same = demo
other = 3
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "problems").mkdir()
    (tmp_path / "problems" / "mine.py").write_text(MINE, encoding="utf-8")
    (tmp_path / "problems" / "broken.py").write_text("demo = (\n", encoding="utf-8")
    (tmp_path / "runs").mkdir()
    for name in ("roco", "racl"):
        shutil.copytree(EARLIER / name, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_lines_are_in_plain_words(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    assert "`" not in text and ":class:" not in text


@pytest.mark.parametrize("name", ["racl", "robnet", "robnet_free", "roco", "roco_baseline", "wsr"])
def test_scales_are_those_that_a_file_has_when_it_is_run(name: str) -> None:
    assert sorted(scales_in(problem_files()[name])) == sorted(scales(name))


def test_own_files_are_read_and_not_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    captured = capsys.readouterr()
    text = " ".join(captured.out.split())
    assert "mine: Mine: not to be run. scales: demo, paper, quick, same" in text
    assert "Depth: How deep a network is. (problems/mine.py)" in text and "Deeper: How much deeper." in text
    assert "Blur: Blurs." in text and "No part" not in text
    assert "NSGA2: " in text and "PlainPymoo" not in text, "only records name it"
    assert "broken: (cannot be read" in text
    assert not (place / "it-was-run").exists() and captured.err == ""
    assert [name for name in subclasses(SearchSpace) if f"{name}: " not in text] == []


def test_a_source_that_a_run_names_is_not_run(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = place / "runs" / "roco" / "problem.json"
    info = json.loads(path.read_text())
    info["source"] = str(place / "problems" / "mine.py")  # it lies where plot would run it
    info["values"]["objectives.0"] = "Depth"
    path.write_text(json.dumps(info))
    assert main(["list"]) == 0
    assert not (place / "it-was-run").exists()


def test_run_folders_with_state_and_size(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = place / "runs"
    for name in ("begun", "at work", "killed", "elsewhere", "torn"):
        shutil.copytree(EARLIER / "roco", runs / "deep" / name)
    lines = (EARLIER / "roco" / "progress.csv").read_text().splitlines(keepends=True)
    (runs / "deep" / "begun" / "progress.csv").write_text("".join(lines[:2]))
    (runs / "deep" / "at work" / "lock").write_text(f"process {os.getpid()} on {platform.node()}\n")
    (runs / "deep" / "killed" / "lock").write_text(f"process 999999999 on {platform.node()}\n")
    (runs / "deep" / "elsewhere" / "lock").write_text("process 1 on another machine\n")
    ledger = runs / "deep" / "torn" / "evaluations.jsonl"
    ledger.write_text("nonsense\n" + ledger.read_text())
    (runs / ".hidden").mkdir()
    shutil.copytree(EARLIER / "roco", runs / ".hidden" / "x")
    found = {str(place.relative_to(runs)): standing_of(place) for place in run_folders(runs)}
    assert {name: run.state for name, run in found.items()} == {
        "racl": "finished", "roco": "finished", "deep/begun": "unfinished", "deep/at work": "running",
        "deep/killed": "finished", "deep/elsewhere": "running", "deep/torn": "damaged",
    }  # fmt: skip
    whole = load_run(runs / "roco")
    assert (found["roco"].evaluations, found["roco"].front) == (len(whole.evaluations), len(whole.front))
    assert found["racl"].front == len(load_run(runs / "racl").front)
    assert (found["deep/begun"].done, found["deep/begun"].total) == (1, 2)
    assert main(["list", "runs=runs"]) == 0
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if "deep/begun" in line)
    assert row.split()[1:] == ["unfinished", "roco", "demo", "1", "of", "2", "8", str(found["deep/begun"].front)]
    assert "damaged: " in text and "line 1 is damaged" in text


def test_a_run_folder_itself_and_none(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert [*run_folders(place / "runs" / "roco")] == [place / "runs" / "roco"]
    assert main(["list", "runs=runs/roco"]) == 0 and "finished" in capsys.readouterr().out
    shutil.rmtree("runs")
    assert main(["list"]) == 0 and "no run folders in runs" in capsys.readouterr().out
    assert main(["list", "runs=nowhere"]) == 2 and "runs=nowhere: no such folder" in capsys.readouterr().err


def test_classes_keep_the_kind_of_what_they_derive_from(place: Path) -> None:
    found = classes_in(place / "problems" / "mine.py", {"Objective": "objectives", "Attack": "attacks"})
    assert {name: kind for name, (kind, _) in found.items()} == {
        "Depth": "objectives", "Deeper": "objectives", "Blur": "attacks",
    }  # fmt: skip
