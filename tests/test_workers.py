"""Worker processes of this machine: results, deaths, ends."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from evo_robust.parts.base import UserError
from evo_robust.workers import Died, Pool, position


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(2) as pool:
        yield pool


def tried(folder: Path, name: str) -> int:
    """How often a task was begun, this time included."""
    with (folder / name).open("a") as file:
        file.write("x")
    return len((folder / name).read_text())


def work(folder: Path, name: str, deaths: int = 0, meet: str = "") -> tuple[str, int]:
    """Note that a task began, die the first ``deaths`` times, wait until another one is under way too."""
    times = tried(folder, name)
    if times <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    until = time.monotonic() + 120
    while meet and not (folder / meet).exists():
        if time.monotonic() > until:
            raise TimeoutError(f"{name} was alone")
        time.sleep(0.01)
    return name, times


def tasks(folder: Path, *names: str, **settings: dict) -> Iterator[tuple[str, functools.partial]]:
    return ((name, functools.partial(work, folder, name, **settings.get(name, {}))) for name in names)


def test_one_worker_is_this_process() -> None:
    assert list(Pool(1).run([("a", os.getpid), ("b", position)])) == [("a", os.getpid()), ("b", 0)]


def test_all_results_come_with_their_keys(pool: Pool, tmp_path: Path) -> None:
    names = [f"task{i}" for i in range(6)]
    found = dict(pool.run(tasks(tmp_path, *names, task0={"meet": "task1"})))
    assert found == {name: (name, 1) for name in names}
    assert list(pool.run([])) == []


def test_workers_live_on_and_know_their_positions(pool: Pool, tmp_path: Path) -> None:
    def where(mine: str, other: str) -> tuple[int, int]:
        work(tmp_path, mine, meet=other)
        return os.getpid(), position()

    both = [("a", functools.partial(where, "a", "b")), ("b", functools.partial(where, "b", "a"))]
    found = sorted(dict(pool.run(both)).values(), key=lambda pair: pair[1])
    assert [place for _, place in found] == [0, 1] and os.getpid() not in dict(found)
    assert sorted(dict(pool.run(both)).values(), key=lambda pair: pair[1]) == found


def test_what_a_task_raises_is_raised_here_after_what_is_finished(pool: Pool, tmp_path: Path) -> None:
    def fails() -> None:
        work(tmp_path, "fails", meet="seen")  # the first result may be slower on its way than an error
        raise UserError("no images there")

    found = []
    with pytest.raises(UserError, match="no images there"):
        for key, _ in pool.run([*tasks(tmp_path, "first"), ("fails", fails), *tasks(tmp_path, "a", "b", "c")]):
            found.append(key)
            (tmp_path / "seen").touch()
    assert "first" in found
    assert dict(pool.run(tasks(tmp_path, "again"))) == {"again": ("again", 1)}


def test_what_cannot_be_pickled_is_raised_in_words(pool: Pool) -> None:
    def fails() -> None:
        error = ValueError("holds a lock")
        error.lock = threading.Lock()
        raise error

    with pytest.raises(RuntimeError, match="ValueError: holds a lock"):
        list(pool.run([("a", fails)]))


def test_a_task_that_leaves_the_interpreter_is_an_error_of_its_own(pool: Pool) -> None:
    with pytest.raises(SystemExit):
        list(pool.run([("a", functools.partial(sys.exit, 3))]))


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_interrupt_of_the_task_itself_is_one_here(pool: Pool) -> None:
    before = dict(pool.run((i, position) for i in range(2)))
    assert sorted(before.values()) == [0, 1]
    with pytest.raises(KeyboardInterrupt):
        list(pool.run([("a", interrupt)]))


def test_while_one_dies_the_others_go_on_side_by_side(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(pool, "say", said.append)
    names = ["dies", "a", "b", "c", "d"]
    # after the death, two wait for each other: one at a time, neither would end
    settings = {"dies": {"deaths": 1}, "c": {"meet": "d"}, "d": {"meet": "c"}}
    found = dict(pool.run(tasks(tmp_path, *names, **settings)))
    assert found == {**{name: (name, 1) for name in names}, "dies": ("dies", 2)}
    assert said == ["a worker process died (killed by SIGKILL, most likely out of memory): its task is tried again"]


def test_who_dies_twice_is_given_up(pool: Pool, tmp_path: Path) -> None:
    leaves = ("leaves", functools.partial(os._exit, 3))
    found = dict(pool.run([leaves, *tasks(tmp_path, "dies", "a", "b", dies={"deaths": 9})]))
    assert found["leaves"] == Died("it ended with exit status 3")
    assert found["dies"] == Died("killed by SIGKILL, most likely out of memory")
    assert (tmp_path / "dies").read_text() == "xx"
    assert found["a"] == ("a", 1) and found["b"] == ("b", 1)


def test_a_worker_that_died_while_idle_is_replaced(pool: Pool, tmp_path: Path) -> None:
    [(_, number)] = pool.run([("number", os.getpid)])
    os.kill(number, signal.SIGKILL)
    names = ["a", "b", "c"]
    assert set(dict(pool.run(tasks(tmp_path, *names)))) == set(names)


def test_given_up_in_the_middle_nothing_goes_on(pool: Pool, tmp_path: Path) -> None:
    arrived = pool.run(tasks(tmp_path, "quick", "endless", endless={"meet": "never"}))
    next(arrived)
    numbers = [one.process.pid for one in pool.staff.processes.values()]
    arrived.close()
    assert list(pool.run([("a", os.getpid)])) != []
    numbers += [one.process.pid for one in pool.staff.processes.values()]
    pool.close()
    for number in numbers:
        with pytest.raises(ProcessLookupError):
            os.kill(number, 0)


BUSY = """
import functools, os
from pathlib import Path
from evo_robust.workers import Pool

def busy(name):
    Path(name).write_text("begun")
    Path(name).rename(f"{os.getpid()}.{name}")
    while True:
        sum(range(10000))

if __name__ == "__main__":
    with Pool(2) as pool:
        list(pool.run((name, functools.partial(busy, name)) for name in ("first", "second")))
"""


def runs(number: int) -> bool:
    """Whether a process is there; one that ended and waits to be counted is not."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def workers_of(parent: int) -> list[int]:
    """Processes that loky started, which may not have begun to import anything yet."""
    children = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    return [number for number in children if "popen_loky" in Path(f"/proc/{number}/cmdline").read_text()]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc for processes that are left")
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "importing torch"])
def test_workers_end_soon_after_a_parent_that_could_not_tell_them(tmp_path: Path, busy: bool) -> None:
    (tmp_path / "parent.py").write_text(BUSY)
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "parent.py"], cwd=tmp_path, env=given)
    workers: list[int] = []
    try:
        until = time.monotonic() + 240
        while len(workers) < 2:
            assert parent.poll() is None and time.monotonic() < until, "they never began"
            time.sleep(0.05)
            begun = [int(path.name.partition(".")[0]) for path in tmp_path.glob("[0-9]*.*")]
            workers = begun if busy else workers_of(parent.pid)
        assert busy or not begun
        assert all(map(runs, workers))
        parent.kill()
        parent.wait()
        until = time.monotonic() + 5
        while any(map(runs, workers)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(runs, workers))
    finally:
        parent.kill()
        parent.wait()
        for number in filter(runs, workers):
            os.kill(number, signal.SIGKILL)
