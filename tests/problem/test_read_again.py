"""A problem file that was edited is read again by ``load``; nothing that was made of it before changes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cloudpickle
import pytest

from evo_robust import load, load_run, search
from evo_robust.objectives.base import Objective
from evo_robust.parts.base import UserError, classes_of, retire, subclasses

MINE = """
import chz
from evo_robust import *

@chz.chz
class {name}(Objective):
    needs_weights = False
    def measure(self, candidate): return {value}

demo = Problem(space=NSGAPhases(phases=1, nodes=3, channels=2), data=Digits(train_limit=40),
    objectives=(Params(), {name}()), evaluator=FromScratch(epochs=0), algorithm=NSGA2(pop_size=2, n_gen=1))
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "problems").mkdir()
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "problems" / f"mine_{tmp_path.name[-24:].strip('_')}.py"
    path.write_text(MINE.format(name="Mine", value="1.0"))
    yield path
    for module in [name for name in sys.modules if name.endswith(path.stem)]:
        retire(classes_of(module))  # the next test has a class of this name too
        del sys.modules[module]


def test_an_edited_file_is_read_again(mine: Path, tmp_path: Path) -> None:
    first = load(mine.stem)
    assert load(mine.stem) == first and type(load(mine.stem).objectives[1]) is type(first.objectives[1])
    stamp = mine.stat()
    mine.write_text(MINE.format(name="Mine", value="2.0"))
    os.utime(mine, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as an edit within the clock's grain, of equal size
    second = load(mine.stem)
    assert type(second.objectives[1]) is not type(first.objectives[1])
    runs = [search(problem, tmp_path / name, workers=1) for problem, name in ((first, "a"), (second, "b"))]
    assert [run.front[0]["objectives"]["mine"] for run in runs] == [1.0, 2.0]
    assert subclasses(Objective)["Mine"] is type(second.objectives[1])


def test_classes_of_both_travel_to_workers(mine: Path, tmp_path: Path) -> None:
    first = load(mine.stem)
    mine.write_text(MINE.format(name="Mine", value="2.0"))
    both = tmp_path / "both"
    both.write_bytes(cloudpickle.dumps([first, load(mine.stem)]))
    mine.unlink()  # a worker finds no file
    code = "import pickle, sys; print([p.objectives[1].measure(None) for p in pickle.load(open(sys.argv[1], 'rb'))])"
    done = subprocess.run([sys.executable, "-c", code, str(both)], capture_output=True, text=True)
    assert done.stdout == "[1.0, 2.0]\n", done.stderr


def test_a_class_that_was_renamed_is_forgotten(mine: Path) -> None:
    load(mine.stem)
    mine.write_text(MINE.format(name="Yours", value="2.0"))
    assert [o.name for o in load(mine.stem).objectives] == ["params", "yours"]
    with pytest.raises(UserError, match="unknown Objective 'Mine'"):
        load(mine.stem, overrides={"objectives.1": "Mine"})


def test_a_mistake_in_an_edit_leaves_what_was_loaded(mine: Path, tmp_path: Path) -> None:
    run = search(load(mine.stem), tmp_path / "run", workers=1)
    mine.write_text("demo = (\n")
    with pytest.raises(UserError, match="SyntaxError"):
        load(mine.stem)
    assert load_run(run.folder).problem == run.problem  # searched with what is loaded still
    mine.write_text(MINE.format(name="Mine", value="3.0"))
    assert load(mine.stem).objectives[1].measure(None) == 3.0  # type: ignore[arg-type]


def test_a_run_is_read_with_what_is_loaded(mine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def edit(_: object) -> None:
        mine.write_text("demo = (\n")  # somebody begins to edit while the search is at work

    assert len(search(load(mine.stem), folder, workers=1, on_generation=edit).evaluations) == 2


def test_a_file_that_loads_an_edited_one_is_read_again(mine: Path) -> None:
    above = mine.with_name(f"above_{mine.stem}.py")
    above.write_text(f"from evo_robust import load\ndemo = load({mine.stem!r})\n")
    assert load(above.stem).objectives[1].measure(None) == 1.0  # type: ignore[arg-type]
    mine.write_text(MINE.format(name="Mine", value="2.0"))
    assert load(mine.stem).objectives[1].measure(None) == 2.0  # type: ignore[arg-type]
    assert load(above.stem).objectives[1].measure(None) == 2.0  # type: ignore[arg-type]
    top = mine.with_name(f"top_{mine.stem}.py")
    top.write_text(f"from evo_robust import load\ndemo = load({above.stem!r})\n")
    load(top.stem)
    mine.write_text(MINE.format(name="Mine", value="3.0"))
    assert load(top.stem).objectives[1].measure(None) == 3.0  # type: ignore[arg-type]


def test_what_the_program_imported_stays(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(mine.parent)
    module = importlib.import_module(mine.stem)
    assert load(mine.stem) is module.demo or load(mine.stem) == module.demo
    mine.write_text("raise SystemExit(1)\n")
    assert type(load(mine.stem).objectives[1]) is module.Mine
