"""Runs of scripts, notebooks and modules with parts of their own: later commands read them, or it is said before."""

from __future__ import annotations

import json
import subprocess
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chz
import pytest
import toys
from toys import Distance, Integers, Total, Toy

from evo_robust import NSGA2, CleanError, Digits, FromScratch, NSGAPhases, Params, Problem, export, search
from evo_robust.parts.base import UserError
from evo_robust.problem.files import load
from evo_robust.problem.sources import source_of
from evo_robust.record.reading import load_run

SCRIPT = """
import chz
from evo_robust import *

print("script runs as", __name__)

@chz.chz
class Length(Objective):
    needs_weights = False
    def measure(self, candidate): return float(len(candidate.text))

tiny = Problem(space=NSGAPhases(phases=1, nodes=3, channels=2), data=Digits(train_limit=40),
    objectives=(Params(), Length()), evaluator=FromScratch(epochs=1, recipe=Standard(lr=0.1, batch_size=16)),
    algorithm=NSGA2(pop_size=2, n_gen=1))

if __name__ == "__main__":
    search(tiny, "run", workers=1)
"""


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True)


def toy(**parts: object) -> Problem:
    problem = Problem(
        space=Integers(), data=Digits(), objectives=(Total(), Distance()), evaluator=Toy(),
        algorithm=NSGA2(pop_size=4, n_gen=1),
    )  # fmt: skip
    return chz.replace(problem, **parts)


@pytest.fixture
def cell() -> Iterator[Any]:
    """An objective as a notebook defines it: its module has no file."""
    notebook = types.ModuleType("a_notebook")
    sys.modules["a_notebook"] = notebook
    code = "import chz\nfrom toys import Total\n@chz.chz\nclass InACell(Total):\n    pass\n"
    exec(code, vars(notebook))
    yield vars(notebook)["InACell"]
    del sys.modules["a_notebook"]


def test_a_script_s_run_names_the_script_and_does_not_run_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(SCRIPT)
    done = python(tmp_path, "mine.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["script runs as __main__"] and "Warning" not in done.stderr
    assert json.loads((tmp_path / "run/problem.json").read_text())["source"] == str(tmp_path / "mine.py")
    again = python(tmp_path, "mine.py")  # goes on in the folder that names it
    assert (again.returncode, again.stdout) == (0, done.stdout)
    taken = [f"run={tmp_path / 'run'}", "pick=knee", "weights=false"]
    assert export.main(taken) == 2
    printed = capsys.readouterr()
    assert f"Length: defined in {tmp_path / 'mine.py'}, which is not run" in printed.err and not printed.out
    assert export.main([*taken, "trust=yes"]) == 0
    assert "script runs as evo_robust_problem_mine" in capsys.readouterr().out


def test_a_file_that_searches_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "unguarded.py"
    path.write_text(SCRIPT.replace('if __name__ == "__main__":', "if True:").replace('"run"', f'"{tmp_path / "run"}"'))
    with pytest.raises(UserError) as refused:
        load(str(path))
    assert str(refused.value) == (
        f'{path} starts a search while it is loaded: put the search under if __name__ == "__main__":'
    )
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_a_problem_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text("from evo_robust import load\nload('rocco')\n")
    with pytest.raises(UserError, match=rf"^{tmp_path}/wrong.py: unknown problem 'rocco': did you mean 'roco'"):
        load(str(tmp_path / "wrong.py"))


def test_parts_of_a_module_name_its_file(tmp_path: Path) -> None:
    assert source_of(toy()) == str(Path(toys.__file__).resolve())
    assert search(toy(), tmp_path / "run", device="cpu", workers=1).info["source"] == toys.__file__
    told = search(toy(), tmp_path / "told", device="cpu", workers=1, info={"source": __file__})
    assert told.info["source"] == __file__  # by the command, which knows


def test_parts_of_the_package_need_no_file() -> None:
    ours = Problem(
        space=NSGAPhases(), data=Digits(), objectives=(CleanError(), Params()), evaluator=FromScratch(),
        algorithm=NSGA2(),
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert source_of(ours) is None
        assert source_of(load("roco")) is None


def test_parts_without_a_file_are_told_of_beforehand(cell: Any, tmp_path: Path) -> None:
    problem = toy(objectives=(Total(), cell(label="mine")))
    with pytest.warns(UserWarning, match=r"^InACell: not defined in a file.* Define them in a Python file, such as"):
        search(problem, tmp_path / "run", device="cpu", workers=1)
    assert load_run(tmp_path / "run").problem == problem  # as long as the notebook lives
