"""A disk that takes nothing: one message that names the file, nothing lost, the folder given back."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toys import Distance, Integers, Total, Toy

from evo_robust import files
from evo_robust.algorithms.evolution import NSGA2
from evo_robust.algorithms.random import RandomSearch
from evo_robust.data.sets import Digits
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.evaluators.one_shot import OneShot
from evo_robust.export import main as export
from evo_robust.files import check_cache, copy_file, naming, whole_file, write_csv, write_json, write_tensors
from evo_robust.objectives.combined import WeightedSum
from evo_robust.objectives.cost import Flops
from evo_robust.objectives.errors import CleanError
from evo_robust.objectives.transfer import TransferError
from evo_robust.parts.base import UserError
from evo_robust.problem.value import Problem
from evo_robust.record import writing as record
from evo_robust.run import main
from evo_robust.search import search
from evo_robust.spaces import NSGAPhases, RobNet
from evo_robust.style import picture
from evo_robust.training.recipes import Standard
from evo_robust.training.supernet_training import SupernetTraining

TOY = Problem(
    space=Integers(),
    data=Digits(train_limit=20, test_limit=10),
    objectives=(Total(), Distance()),
    evaluator=Toy(),
    algorithm=NSGA2(pop_size=6, n_gen=2),
)


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file may grow beyond ``size`` bytes: the kernel says "File too large" as it says "No space left" elsewhere."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "evaluations.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


# ---- each kind of file


def _draw(path: Path) -> None:
    with picture(path) as figure:
        figure.subplots().plot(np.arange(100))


WRITERS = {
    "tensors": lambda path: write_tensors(path, {"w": torch.zeros(9999)}),
    "json": lambda path: write_json(path, list(range(9999))),
    "csv": lambda path: write_csv(path, ["a"], [[i] for i in range(9999)]),
    "picture": lambda path: _draw(path.with_suffix(".png")),
    "copy": lambda path: copy_file(Path(__file__), path),
    "numpy": lambda path: _numpy(path),
}


def _numpy(path: Path) -> None:
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, np.zeros(9999))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_finds_no_room_is_named_and_not_there(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "wanted"
    with room_for(2000), pytest.raises(OSError) as caught:
        WRITERS[kind](path)
    assert Path(str(caught.value.filename)).stem == "wanted" and caught.value.errno in (errno.EFBIG, errno.EIO)
    assert list(tmp_path.iterdir()) == []


def test_other_files_keep_their_names(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, naming(tmp_path / "written"):
        (tmp_path / "read").read_text()
    assert caught.value.filename == str(tmp_path / "read")


# ---- a search


def test_whatever_write_fails_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each whole file and each line of the ledger once: what went before stays, the same search goes on."""
    straight = tmp_path / "straight"
    search(TOY, straight, device="cpu", workers=1)
    replace, append = os.replace, record.Record._append
    fails_at = count = 0

    def next_write(path: Path) -> None:
        nonlocal count
        count += 1
        if count == fails_at:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    def failing_replace(source: Path, target: Path) -> None:
        next_write(source)
        replace(source, target)

    def failing_append(self: record.Record, line: bytes) -> None:
        next_write(self.folder / "evaluations.jsonl")
        append(self, line)

    monkeypatch.setattr(files.os, "replace", failing_replace)
    monkeypatch.setattr(record.Record, "_append", failing_append)
    named = []
    for number in range(1, 99):
        folder = tmp_path / str(number)
        fails_at, count = number, 0
        try:
            search(TOY, folder, device="cpu", workers=1)
            break
        except OSError as error:
            named.append(Path(str(error.filename)).relative_to(folder).name)
        assert not (folder / "lock").exists() and not list(folder.glob(".*.*.*"))
        if (folder / "evaluations.jsonl").exists():
            assert rows(folder) == rows(straight)[: len(rows(folder))] and len(rows(folder)) >= named.count(
                "evaluations.jsonl"
            ) - (named[-1] == "evaluations.jsonl")
        # the folder is free at once, in the same process
        fails_at = 0
        search(TOY, folder, device="cpu", workers=1)
        assert rows(folder) == rows(straight)
        for name in ("front.json", "front.csv"):
            assert (folder / name).read_bytes() == (straight / name).read_bytes()
    generation = [*6 * ["evaluations.jsonl"], "progress.csv", "front.csv", "front.json"]
    assert named == ["problem.json", *generation[:6], "hypervolume.json", *generation[6:], *generation]


def test_a_line_without_room_is_taken_back_and_written_later(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    search(TOY, tmp_path / "straight", device="cpu", workers=1)
    size = (tmp_path / "straight/evaluations.jsonl").stat().st_size
    room = max(size * 2 // 3, (tmp_path / "straight/problem.json").stat().st_size)
    with room_for(room), pytest.raises(OSError) as caught:
        search(TOY, folder, device="cpu", workers=1)
    assert caught.value.filename == str(folder / "evaluations.jsonl")
    assert 0 < len(rows(folder)) < 12  # whole lines alone
    search(TOY, folder, device="cpu", workers=1)
    assert rows(folder) == rows(tmp_path / "straight")


def test_a_lock_that_cannot_be_named_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = record.FolderLock(tmp_path)
    with room_for(3), pytest.raises(OSError) as caught, lock:
        pass
    assert caught.value.filename == str(tmp_path / "lock")
    with lock:
        # a disk that turned read-only does not keep the lock either

        def refused(*_: Any, **__: Any) -> None:
            raise OSError(errno.EROFS, "Read-only file system", str(tmp_path / "lock"))

        monkeypatch.setattr(Path, "unlink", refused)
    monkeypatch.undo()
    with record.FolderLock(tmp_path):
        pass


# ---- commands

SMALL = [
    "problem=roco_baseline",
    "algorithm.pop_size=2",
    "algorithm.n_gen=1",
    "evaluator.epochs=0",
    "space.channels=4",
    "space.nodes=3",
    "data.train_limit=60",
    "data.test_limit=20",
    "recorded=",
    "workers=1",
    "device=cpu",
    "out=run",
]


def test_a_command_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with room_for(1000):
        assert main(SMALL) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines == [
        "error: run/problem.json: File too large; make room there: the same command goes on where it stopped"
    ]
    assert main(SMALL) == 0
    capsys.readouterr()
    for size in (10, 2500):  # the genotype, the weights
        with room_for(size):
            assert export(["run=run", "pick=knee", "onnx=false", "out=taken"]) == 2
        assert capsys.readouterr().err.startswith("error: taken: File too large")
        assert not (tmp_path / "taken").exists() and not list(tmp_path.glob(".taken*"))


def test_standard_output_may_be_full_too() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "evo_robust.run"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=300
        )
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output: No space left on device") and done.stderr.count("\n") == 1


# ---- the cache


def test_an_unwritable_cache_is_said_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(tmp_path / "file" / "cache"))
    for arguments in (["problem=roco"], ["problem=robnet"]):
        assert main([*arguments, "workers=1", "device=cpu", "out=run"]) == 2
        error = capsys.readouterr().err
        assert f"the cache {tmp_path / 'file' / 'cache'} cannot be written to" in error and "EVO_ROBUST_CACHE" in error
        assert error.count("\n") == 1 and not (tmp_path / "run").exists()
    # who builds nothing there wants none
    assert main(SMALL) == 0


def test_what_a_cache_must_hold_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVO_ROBUST_CACHE", str(tmp_path))
    few = Digits(train_limit=60, test_limit=20)
    supernet = SupernetTraining(epochs=1, recipe=Standard(batch_size=30), threads=1)
    shared = Problem(
        space=RobNet(channels=4, layers=2, nodes=2),
        data=few,
        objectives=(CleanError(), Flops()),
        evaluator=OneShot(supernet=supernet, recalibration="none"),
        algorithm=RandomSearch(pop_size=2, n_gen=1),
    )
    sums = Problem(
        space=NSGAPhases(phases=2, nodes=3, channels=4),
        data=few,
        objectives=(WeightedSum(of=(TransferError(), CleanError())), Flops()),
        evaluator=FromScratch(epochs=0),
        algorithm=RandomSearch(pop_size=2, n_gen=1),
    )
    asked = []
    monkeypatch.setattr("evo_robust.problem.value.check_cache", asked.append)
    for problem in (shared, sums):
        problem.check_cache("cpu")
    assert asked == [tmp_path] * 2
    supernet.build_or_load(shared.space, few, tmp_path)
    shared.check_cache("cpu")  # a cache that can only be read serves who finds all in it
    assert len(asked) == 2


def test_a_cache_that_takes_files_is_good(tmp_path: Path) -> None:
    check_cache(tmp_path / "new" / "cache")
    assert list((tmp_path / "new" / "cache").iterdir()) == []
    with room_for(1), pytest.raises(UserError, match="cannot be written to .File too large.: let EVO_ROBUST_CACHE"):
        check_cache(tmp_path)
