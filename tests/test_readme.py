"""What the README shows works as written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import chz
import pytest

from evo_robust.cli import split
from evo_robust.problem import load
from evo_robust.run import RunOptions, main

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted({line.strip() for line in README.splitlines() if line.strip().startswith("python -m evo_robust.")})


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the README's own problem in it."""
    (tmp_path / "problems").mkdir()
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    source = next(block for block in blocks if "demo = Problem(" in block)
    (tmp_path / "problems" / "mine.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", [c for c in COMMANDS if "evo_robust.run problem=" in c])
def test_searches_can_be_loaded(command: str, mine: Path) -> None:
    given = split(shlex.split(command.partition("#")[0])[3:])
    own = {key: given.pop(key) for key in list(given) if key in chz.chz_fields(RunOptions)}
    given.pop("--help", None)
    assert load(own["problem"], own.get("scale", "demo"), given).objectives


def test_every_command_is_shown() -> None:
    for name in ("run", "plot", "export", "retrain"):
        assert any(c.startswith(f"python -m evo_robust.{name}") for c in COMMANDS)


def test_own_problem_runs(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["algorithm.pop_size=6", "algorithm.n_gen=1", "evaluator.epochs=1", "data.train_limit=200", "plot=false"]
    assert main(["problem=mine", "workers=1", "device=cpu", *small]) == 0
    header = (mine / "runs" / "mine-demo" / "front.csv").read_text().splitlines()[0]
    assert len((mine / "runs" / "mine-demo" / "front.csv").read_text().splitlines()) > 1
    assert header == "index,id,architecture,clean_error,robust_error,flops,depth,params"


def test_plain_pymoo_runs(mine: Path) -> None:
    path = mine / "problems" / "mine.py"
    path.write_text(path.read_text().replace("epochs=3", "epochs=1").replace("Digits()", "Digits(train_limit=200)"))
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    snippet = next(block for block in blocks if "minimize(" in block)
    found: dict[str, Any] = {}
    exec(
        snippet.replace("pop_size=8", "pop_size=3").replace('("n_gen", 3)', '("n_gen", 1)').replace("=2)", "=1)"), found
    )
    assert found["result"].pop.get("F").shape[1] == 4


def test_pictures_are_there() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures and all((Path(__file__).parents[1] / p).is_file() for p in pictures)
