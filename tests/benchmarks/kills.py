"""Searches that are killed again and again: the record they end with, and who is left behind.

    python tests/benchmarks/kills.py [OUT] [--kills N]

Small searches of all four methods, with one and with two workers, each in two copies. One copy nobody disturbs. The
other one is killed by SIGKILL, SIGTERM, SIGHUP or SIGINT at random (seeded) moments, and the same command is given
again, until it ends. Its record must be the other one's, seconds apart, and no process may be left ten seconds after a
kill. What was done is kept in OUT/kills.jsonl, and a script that is stopped goes on from there.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

_SET = "objectives.1.adversarial_set."
_PGD = ["objectives.0.attack.steps=2"]
_WEIGHTS = ["space.layers=2", "space.nodes=2", "space.channels=4", "evaluator.recalibration=clean"]
METHODS = {
    "roco": [
        *("space.nodes=3", "space.channels=4", "evaluator.epochs=2", "algorithm.pop_size=6", "algorithm.n_gen=4"),
        *(f"{_SET}victims=lenet", f"{_SET}epochs=3", f"{_SET}norms=linf", f"{_SET}linf_levels=64", f"{_SET}sources=30"),
    ],
    "robnet": [
        *(*_WEIGHTS, *_PGD, "objectives.0.eps=0.1", "algorithm.pop_size=6", "algorithm.n_gen=3"),
        *("evaluator.supernet.epochs=3", "evaluator.supernet.recipe.attack.steps=1", "evaluator.recipe.attack.steps=1"),
    ],
    "racl": [
        *(*_WEIGHTS, "evaluator.supernet.epochs=4", "evaluator.epochs=1", "recorded.0.attack.steps=2"),
        *("recorded.0.eps=0.1", "algorithm.pop_size=4", "algorithm.n_gen=3"),
    ],
    "wsr": [
        *(*_WEIGHTS, *_PGD, "objectives.0.limit=40", "algorithm.pop_size=4", "algorithm.n_gen=3"),
        *("evaluator.supernet.epochs=4", "evaluator.warmup=1", "evaluator.epochs=1"),
        "algorithm.gradient.losses.passes=10",
    ],
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
STATUS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
TABLES = ("front.json", "front.csv", "co_training.csv", "distribution.csv")
PATIENCE = 600.0  # seconds after which a search is taken to hang


@dataclasses.dataclass(frozen=True)
class Kill:
    """One kill, as it went.

    Attributes:
        signal: its name.
        inside: whether a part of a generation's candidates, not all of them, were on disk.
        ended: the exit status.
        status: whether that was the signal's.
        quiet: whether one line was said, and no traceback (after SIGKILL: whatever).
        left: processes of the search ten seconds later.
        gone: seconds until none was left.
    """

    signal: str
    inside: bool
    ended: int
    status: bool
    quiet: bool
    left: int
    gone: float


def arguments(method: str, workers: int, folder: Path) -> list[str]:
    """What the command of a search is given."""
    few = ["data.train_limit=150", "data.test_limit=40", "device=cpu", "plot=false", f"workers={workers}"]
    return [f"problem={method}", *METHODS[method], *few, f"out={folder}"]


def start(method: str, workers: int, folder: Path) -> subprocess.Popen[str]:
    """The search's command, in a group of processes of its own, as a terminal starts one."""
    return subprocess.Popen(
        [sys.executable, "-m", "evo_robust.run", *arguments(method, workers, folder)],
        env={**os.environ, "EVO_ROBUST_CACHE": str(folder.with_name(f"{folder.name}-cache")), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in SIGNALS[1:]],
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    """What the ledger holds, by number, seconds left out; a line under way is none yet."""
    path = folder / "evaluations.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    found = [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]
    return sorted(found, key=lambda row: row["id"])


def record(folder: Path) -> dict[str, Any]:
    """What a search ends with."""
    return {"rows": rows(folder)} | {name: (folder / name).read_text() for name in TABLES if (folder / name).exists()}


def processes(session: int) -> list[int]:
    """Who is left of the processes that a search started (its session); those that wait to be counted are none."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_until_gone(session: int, patience: float) -> tuple[int, float]:
    """How many processes are left after ``patience`` seconds, and after how many the last one was gone."""
    began = time.monotonic()
    while (left := processes(session)) and time.monotonic() - began < patience:
        time.sleep(0.1)
    return len(left), round(time.monotonic() - began, 1)


def await_moment(process: subprocess.Popen[str], folder: Path, rng: random.Random) -> None:
    """Wait for a random moment: two times out of three soon after new lines of the ledger."""
    began, known = time.monotonic(), len(rows(folder))
    if rng.random() < 2 / 3:
        wanted = known + rng.randint(1, 2)
        while len(rows(folder)) < wanted and process.poll() is None and time.monotonic() - began < PATIENCE:
            time.sleep(0.02)
        pause = rng.uniform(0, 0.5)
    else:
        pause = rng.uniform(0.5, 12)
    until = time.monotonic() + pause
    while process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


def kill(process: subprocess.Popen[str], number: signal.Signals) -> dict[str, Any]:
    """Send the signal; what came of it, as :class:`Kill` has it."""
    began = time.monotonic()
    # Ctrl-C reaches all processes of a terminal, the others are sent to one
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    ended = process.wait(timeout=PATIENCE)
    left, _ = wait_until_gone(process.pid, max(0.0, began + 10 - time.monotonic()))
    _, said = process.communicate(timeout=PATIENCE)  # whoever is left holds the other end of the pipe
    quiet = number == signal.SIGKILL or (len(said.strip().splitlines()) == 1 and "Traceback" not in said)
    gone = round(time.monotonic() - began, 1)
    return {"ended": ended, "status": ended == STATUS[number], "quiet": quiet, "left": left, "gone": gone}


def inside(folder: Path, whole: list[dict[str, Any]]) -> bool:
    """Whether a part of a generation's rows are there, and not all of them."""
    there = {row["id"] for row in rows(folder)}
    generations: dict[int, list[bool]] = {}
    for row in whole:
        generations.setdefault(row["generation"], []).append(row["id"] in there)
    return any(any(known) and not all(known) for known in generations.values())


def run_through(method: str, workers: int, folder: Path) -> dict[str, Any]:
    """The search without any disturbance, or what is left of it.

    Raises:
        RuntimeError: it failed.
    """
    process = start(method, workers, folder)
    _, said = process.communicate(timeout=PATIENCE)
    if process.returncode != 0:
        raise RuntimeError(f"{method} with {workers} workers ended with {process.returncode}: {said}")
    return record(folder)


def series(method: str, workers: int, n_kills: int, out: Path, seed: int = 0) -> tuple[list[Kill], bool]:
    """Kills of one search, and whether it ended with the record of the one that nobody disturbed."""
    rng = random.Random(f"{seed} {method} {workers}")
    straight, disturbed = out / f"{method}-{workers}-straight", out / f"{method}-{workers}-killed"
    whole, kills, same, ends = run_through(method, workers, straight), [], True, 0
    while len(kills) < n_kills:
        process = start(method, workers, disturbed)
        await_moment(process, disturbed, rng)
        number = SIGNALS[(len(kills) + workers) % len(SIGNALS)]
        found = kill(process, number) if process.poll() is None else {"ended": process.returncode}
        if found["ended"] == 0:  # it came to its end before: another copy
            same &= record(disturbed) == whole
            shutil.rmtree(disturbed)
            ends += 1
            if ends > 2 * n_kills:
                raise RuntimeError(f"{method}: too short to be killed")
            continue
        if "status" not in found:
            raise RuntimeError(f"{method} with {workers} workers ended with {found['ended']} by itself")
        kills.append(Kill(signal=number.name, inside=inside(disturbed, whole["rows"]), **found))
    return kills, same and run_through(method, workers, disturbed) == whole


def table(done: list[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    head = ("method", "workers", "kills", "in evaluations", "same record", "exit status and words right")
    head += ("processes left after 10 s", "last one gone after at most")
    lines = [f"| {' | '.join(head)} |", f"| {' | '.join('---' for _ in head)} |"]
    for entry in done:
        kills = entry["kills"]
        right = sum(kill["status"] and kill["quiet"] for kill in kills)
        cells = (entry["method"], entry["workers"], len(kills), sum(kill["inside"] for kill in kills))
        cells += ("yes" if entry["same"] else "NO", f"{right} of {len(kills)}", sum(kill["left"] for kill in kills))
        cells += (f"{max(kill['gone'] for kill in kills)} s",)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    every = [kill for entry in done for kill in entry["kills"]]
    lines.append(f"\n{len(every)} kills, {sum(kill['inside'] for kill in every)} in the middle of evaluations.")
    return "\n".join(lines)


def main() -> None:
    """All series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, nargs="?", default=Path("runs/kills"))
    parser.add_argument("--kills", type=int, default=60)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "kills.jsonl"
    done = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
    cases = [(method, workers) for workers in (2, 1) for method in METHODS]
    for index, (method, workers) in enumerate(cases):
        if any((entry["method"], entry["workers"]) == (method, workers) for entry in done):
            continue
        n_kills = given.kills // len(cases) + (index < given.kills % len(cases))
        for old in given.out.glob(f"{method}-{workers}-*"):
            shutil.rmtree(old)
        kills, same = series(method, workers, n_kills, given.out)
        done.append({"method": method, "workers": workers, "same": same, "kills": list(map(dataclasses.asdict, kills))})
        with kept.open("a") as file:
            file.write(json.dumps(done[-1]) + "\n")
        print(table(done[-1:]), flush=True)
    print(table(done))


if __name__ == "__main__":
    main()
