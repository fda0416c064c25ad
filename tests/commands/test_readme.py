"""What the README shows works as written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import chz
import pytest
from places import ROOT

from evo_robust import zoo
from evo_robust.analyze import AnalyzeCommand
from evo_robust.commands.cli import make, parse, split
from evo_robust.export import Export
from evo_robust.networks.genotype import Genotype, save_genotype
from evo_robust.plot import PlotCommand
from evo_robust.problem.files import load
from evo_robust.record.budget import parse_budget
from evo_robust.retrain import RetrainOptions, settings_from
from evo_robust.run import RunOptions, main
from evo_robust.spaces import NSGAPhases

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {line.strip() for line in README.splitlines() if line.strip().startswith("python -m evo_robust.")}
    | set(re.findall(r"`(python -m evo_robust\.[^`]+)`", README))
)


def arguments(command: str) -> list[str]:
    """What stands behind the command's name."""
    return shlex.split(command.partition("#")[0])[3:]


def shown(name: str) -> list[str]:
    """The README's uses of a command that do something."""
    return [c for c in COMMANDS if c.startswith(f"python -m evo_robust.{name} ") and arguments(c)]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the README's own problem in it."""
    (tmp_path / "problems").mkdir()
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    source = next(block for block in blocks if "demo = Problem(" in block)
    (tmp_path / "problems" / "mine.py").write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# the README's own problem is run below; loaded from a folder for each test its class would be there several times
@pytest.mark.parametrize("command", [c for c in shown("run") if "problem=mine" not in c])
def test_searches_can_be_loaded(command: str) -> None:
    given = split(arguments(command))
    own = {key: given.pop(key) for key in list(given) if key in chz.chz_fields(RunOptions)}
    given.pop("--help", None)
    assert load(own["problem"], own.get("scale", "demo"), given).objectives


def test_every_command_is_shown() -> None:
    for name in ("run", "plot", "export", "analyze", "retrain"):
        assert shown(name)


@pytest.mark.parametrize("command", shown("plot") + shown("analyze") + shown("export"))
def test_folders_come_from_searches_that_are_shown(command: str) -> None:
    kinds = {"plot": PlotCommand, "analyze": AnalyzeCommand, "export": Export}
    options: Any = parse(kinds[command.split()[2].rpartition(".")[2]], arguments(command), "readme")
    if getattr(options, "budget", None):
        assert parse_budget(options.budget).size == "small"
    written = set()
    for search in map(split, map(arguments, shown("run"))):
        written.add(search.get("out", f"runs/{search['problem']}-{search.get('scale', 'demo')}"))
    for key in ("run", "truth", "baseline"):
        folders = getattr(options, key, None) or ()
        assert written.issuperset([folders] if isinstance(folders, str) else folders)


@pytest.mark.parametrize("command", [c for c in shown("retrain") if "network=" in c])
def test_published_networks_are_there(command: str) -> None:
    given = split(arguments(command))
    own = {key: given.pop(key) for key in list(given) if key in chz.chz_fields(RetrainOptions)}
    settings, _ = settings_from(make(RetrainOptions, own, {}, "retrain"), given)
    assert settings.network is not None
    zoo.check_name(settings.network)
    for name in re.findall(r"`(robnet-[a-z0-9-]+)`", README):
        zoo.check_name(name)


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
    assert pictures and all((ROOT / p).is_file() for p in pictures)


@pytest.mark.parametrize("command", [c for c in shown("retrain") if "genotype=runs/roco" in c])
def test_retrainings_of_roco_s_networks_can_be_made(command: str, tmp_path: Path) -> None:
    space = NSGAPhases(phases=2, nodes=5, channels=8)
    save_genotype(Genotype(space, space.seeds()[0], "digits", 10, (1, 8, 8)), tmp_path / "genotype.json")
    given = split(arguments(command)) | {"genotype": str(tmp_path)}
    own = {key: given.pop(key) for key in list(given) if key in chz.chz_fields(RetrainOptions)}
    assert settings_from(make(RetrainOptions, own, {}, "retrain"), given)[0].build()
