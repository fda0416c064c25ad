"""One door to all commands, its version, and help that fits the terminal."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import chz
import pytest
from places import ROOT

import evo_robust
from evo_robust import plot, retrain, run
from evo_robust.__main__ import COMMANDS, main
from evo_robust.commands.helping import help_text, plain_words
from evo_robust.commands.version import version_of
from evo_robust.parts.making import HelpRequested, make
from evo_robust.parts.typed import line, runs_no_command
from evo_robust.retrain import RetrainOptions


def test_overview_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +\w", text, flags=re.M) for name in COMMANDS)
    assert {"run", "plot", "export", "retrain", "judge", "analyze", "list"} == set(COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"evo_robust {evo_robust.__version__}\n"
    assert evo_robust.__version__ == importlib.metadata.version("evo_robust")
    # a checkout that is not installed tells what it will be; anything else does not guess
    own = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert version_of(ROOT) == f"{own}+checkout"
    assert version_of(tmp_path) == "unknown"
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "7"\n')
    assert version_of(tmp_path) == "unknown"


def test_the_installed_command_is_this_door() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts == {"evo_robust": "evo_robust.__main__:main"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["rnu"], "error: unknown command 'rnu': did you mean 'run'?"),
        (["Export"], "did you mean 'export'?"),
        (["problem=roco"], "such as python -m evo_robust.run problem=roco"),
        (["run", "problem=rocco"], "error: unknown problem 'rocco': did you mean 'roco'?"),
        (["plot", "run=nowhere"], "error: nowhere is no run folder"),
        (["list", "old runs"], "error: expected key=value, got 'old runs': did you mean 'runs=old runs'?"),
        (["run", "roco"], "error: expected key=value, got 'roco': did you mean problem=roco?"),
        (["run", "problem=roco", "seed"], "error: expected key=value, got 'seed'\n"),
        (["plot", "runs/x"], "got 'runs/x': did you mean run=runs/x?"),
        (["retrain", "--out"], "error: expected key=value, got '--out'\n"),
        (["retrain", "~/x.json"], "did you mean 'genotype=~/x.json'?"),
    ],
)
def test_mistakes_are_one_message(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(given) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and "Traceback" not in error


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"list"}))
def test_commands_behind_the_door_are_those_of_their_modules(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = {"run": run, "plot": plot, "retrain": retrain}.get(name) or getattr(__import__(f"evo_robust.{name}"), name)
    assert main([name]) == module.main([]) == 0
    behind, own = (text.strip() for text in capsys.readouterr().out.split("usage:")[1:])
    assert behind == own


def test_as_a_program(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evo_robust", "run", "problem=rocco"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: unknown problem 'rocco'") and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "door"),
    [
        ("/usr/bin/evo_robust", "evo_robust export"),
        ("/x/evo_robust/__main__.py", "python -m evo_robust export"),
        ("/x/evo_robust/run.py", "python -m evo_robust.export"),
        ("/x/pytest/__main__.py", "python -m evo_robust.export"),
    ],
)
def test_printed_commands_can_be_pasted(program: str, door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [program])
    given = ["run=my runs/it's", "budget=params<5e6", "pick=knee"]
    text = line("export", *given)
    assert text.startswith(f"{door} ") and text.endswith(" pick=knee")
    assert shlex.split(text) == [*door.split(), *given]
    if os.name == "posix":  # the shell reads what shlex reads
        said = subprocess.run(f"printf '%s\\n' {text}", shell=True, capture_output=True, text=True)
        assert said.stdout.splitlines()[-3:] == given


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_usages_name_commands_as_they_were_started(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = [name, "--help"] if name in ("list", "plot", "analyze") else [name]
    for program, door, other in (
        ("/usr/bin/evo_robust", "evo_robust", "python -m"),
        ("/x/evo_robust/__main__.py", "python -m evo_robust", "evo_robust."),
        ("/x/evo_robust/run.py", "python -m evo_robust", "python -m evo_robust run"),
    ):
        monkeypatch.setattr(sys, "argv", [program])
        assert main(given) == main([name]) == main([]) == 0
        text = capsys.readouterr().out
        assert door in text and other not in text
        assert all(
            line.startswith(door) for line in re.findall(r"(?:usage: |begin with: |^ {7})(.*evo_robust.*)", text)
        )


# ---- words that need no torch


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        (["--version"], 0, f"evo_robust {evo_robust.__version__}"),
        ([], 0, "commands:"),
        (["--help"], 0, "commands:"),
        (["rnu"], 2, "did you mean 'run'?"),
        (["problem=roco"], 2, "evo_robust run problem=roco"),
    ],
)
@pytest.mark.parametrize("door", ["installed", "module"])
def test_words_come_without_torch(door: str, given: list[str], status: int, said: str, tmp_path: Path) -> None:
    program = tmp_path / "evo_robust"  # as pip writes it
    program.write_text("import sys\nfrom evo_robust.__main__ import main\nsys.exit(main())\n")
    start = [str(program)] if door == "installed" else ["-m", "evo_robust"]
    command = [sys.executable, "-X", "importtime", *start, *given]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == status and said in done.stdout + done.stderr
    assert "evo_robust.parts.typed" in imported
    assert not imported & {"torch", "pymoo", "rich", "chz", "matplotlib"}


@pytest.mark.parametrize(
    ("argv", "original", "words"),
    [
        (["/usr/bin/evo_robust", "--version"], ["python", "/usr/bin/evo_robust", "--version"], True),
        (["/usr/bin/evo_robust", "run", "--help"], ["python", "/usr/bin/evo_robust", "run", "--help"], False),
        (["/usr/bin/evo_robust", "problem=roco"], ["python", "-m", "joblib.worker", "3"], False),  # a worker
        (["-m", "rnu"], ["python", "-m", "evo_robust", "rnu"], True),
        (["-m", "list"], ["python", "-m", "evo_robust", "list"], False),
        (["-m"], ["python", "-m", "evo_robust.run"], False),
        (["mine.py", "--version"], ["python", "mine.py", "--version"], False),
    ],
)
def test_all_else_gets_the_whole_package(
    argv: list[str], original: list[str], words: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert runs_no_command() == words


# ---- help


def helped(*given: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([*given, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize(
    "command", [["run", "problem=wsr"], ["plot"], ["export"], ["retrain"], ["judge"], ["analyze"], ["list"]]
)
def test_help_fits_the_terminal(
    command: list[str], width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evo_robust.commands.helping.output", lambda: type("Console", (), {"width": width}))
    lines = helped(*command, capsys=capsys).partition("keys")[2].splitlines()
    too_wide = [line for line in lines if len(line) > min(width, 120) and " " in line.strip().partition(" = ")[2]]
    assert too_wide == [] and len(lines) > 2


def test_help_is_in_groups_and_lists_what_fits(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped("run", "problem=wsr", capsys=capsys)
    groups = re.split(r"\n\n", text)
    heads = [group.splitlines()[0].partition(":")[0] for group in groups]
    for head in ("space", "data", "objectives", "constraints", "recorded", "evaluator", "algorithm"):
        group = groups[heads.index(head)]
        keys = re.findall(r"^  ([\w.]+) = ", group, flags=re.M)
        assert keys and all(key == head or key.startswith(f"{head}.") for key in keys)
    said = {head: " ".join(groups[heads.index(head)].split()) for head in heads}
    for head, names in {
        "space": ("DARTS", "NSGAPhases", "RobNet"),
        "data": ("CIFAR10", "Digits", "TinyImageNet"),
        "objectives": ("CleanError", "Flops", "WeightedSum"),
        "evaluator": ("CoTrained", "FromScratch", "OneShot", "TRADES", "PGDTraining or pgd"),
        "algorithm": ("GradientHybrid", "NSGA2", "RandomSearch"),
    }.items():
        assert all(name in said[head] for name in names), head
    own = groups[heads.index("keys of the command itself")]
    assert set(re.findall(r"^  (\w+) = ", own, flags=re.M)) == set(chz.chz_fields(run.RunOptions))
    assert "problem = wsr  (given)" in own
    retraining = " ".join(helped("retrain", capsys=capsys).split())
    assert "BIM, FGSM, MIFGSM, PGD" in retraining  # of attack=


@pytest.mark.parametrize("command", [["run"], ["run", "problem=wsr"], ["retrain"], ["plot"]])
def test_help_is_in_plain_words(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(*command, capsys=capsys)
    assert "``" not in text and ":class:" not in text


def test_marks_of_docstrings_are_taken_out() -> None:
    assert plain_words("As ``a`` of :class:`~x.y.B` and :meth:`C.d` does.") == "As a of B and C.d does."


def test_help_says_what_has_to_be_given_and_what_was() -> None:
    with pytest.raises(HelpRequested) as asked:
        make(RetrainOptions, {"--help": "", "device": "cpu"}, {}, "retrain")
    text = help_text(asked.value, width=80)
    assert "  device = cpu  (given)\n" in text and "  trust = false\n" in text
    text = helped_of_export()
    assert "  run = (has to be given)\n" in text and "  weights = true\n" in text


def helped_of_export() -> str:
    from evo_robust.export import Export

    with pytest.raises(HelpRequested) as asked:
        make(Export, {"--help": ""}, {}, "export")
    return help_text(asked.value, width=80)
