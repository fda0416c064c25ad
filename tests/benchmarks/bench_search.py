"""What a search costs beside its candidates: own time per evaluation, a second worker's gain, memory.

``python tests/benchmarks/bench_search.py [overhead] [workers] [memory]``
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import chz

sys.path.insert(0, str(Path(__file__).parents[1]))

from toys import Distance, Integers, Total, Toy

from evo_robust import NSGA2, Digits, NSGAPhases, Problem, RandomSearch, load, search
from evo_robust.algorithms.adapter import SearchProblem

# the digits demo without its adversarial set, whose images both would share
TRAINED = load("roco_baseline", "demo", {"recorded": ""})


def timed(problem: Problem, workers: int) -> float:
    """Seconds of a whole search, the start of its workers included."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        search(problem, Path(folder) / "run", device="cpu", workers=workers)
        return time.perf_counter() - started


def overhead() -> bool:
    """1,000 evaluations of a free toy evaluator, population 40: at most 5 ms each."""
    problem = Problem(
        space=Integers(genes=16, choices=6),
        data=Digits(),
        objectives=(Total(), Distance(choices=6)),
        evaluator=Toy(),
        algorithm=NSGA2(pop_size=40, n_gen=25),
    )
    genomes = chz.replace(problem, space=NSGAPhases(), objectives=(Connections(), Missing()))
    met = True
    for name, one in (("toy integers", problem), ("3×6 phases, decoded and told apart", genomes)):
        each = median(timed(one, 1) for _ in range(3)) / 1000 * 1000
        met &= each <= 5
        print(f"overhead  {name}: {each:.2f} ms per evaluation (target: at most 5)")
    return met


@chz.chz
class Connections(Total):
    """Connections of all phases."""

    def measure(self, candidate: object) -> float:
        return float(sum(len(node) for phase in candidate.phases for node in phase.inputs))


@chz.chz
class Missing(Total):
    """Nodes that are missing, and a little of the connections, so that there is a front."""

    def measure(self, candidate: object) -> float:
        return float(18 - sum(len(phase.inputs) for phase in candidate.phases)) - Connections().measure(candidate) / 7


def workers(repeats: int = 1) -> bool:
    """Two workers take at most 0.6 of one worker's time on two cores."""
    problem = chz.replace(TRAINED, evaluator=chz.replace(TRAINED.evaluator, epochs=12))
    one, two = [], []
    for _ in range(repeats):
        one.append(timed(problem, 1))
        two.append(timed(problem, 2))
    ratio = median(b / a for a, b in zip(one, two, strict=True))
    print(
        f"workers   96 candidates of 12 epochs on digits, start of the pool included: 1 worker {median(one):.1f} s, "
        f"2 workers {median(two):.1f} s, "
        f"ratio {ratio:.2f} (target: at most 0.6)"
    )
    return ratio <= 0.6


def memory() -> bool:
    """The peak after 200 evaluations lies within 10 % of the peak after 20."""
    peaks: list[float] = []

    def note(_: SearchProblem) -> None:
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)

    problem = chz.replace(
        TRAINED, evaluator=chz.replace(TRAINED.evaluator, epochs=1), algorithm=RandomSearch(pop_size=20, n_gen=10)
    )
    with tempfile.TemporaryDirectory() as folder:
        search(problem, Path(folder) / "run", device="cpu", workers=1, on_generation=note)
    growth = peaks[-1] / peaks[0] - 1
    print(
        f"memory    peak {peaks[0]:.0f} MiB after 20 evaluations, {peaks[-1]:.0f} MiB after 200: "
        f"{growth:+.1%} (target: at most +10 %)"
    )
    return growth <= 0.1


def main(names: list[str]) -> int:
    """Run the named parts, all when none is named."""
    parts = {"overhead": overhead, "workers": workers, "memory": memory}
    unknown = set(names) - set(parts)
    if unknown:
        print(f"expected some of {', '.join(parts)}, got {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    # memory first: a peak that an earlier part left would hide growth
    wanted = [name for name in ("memory", "overhead", "workers") if not names or name in names]
    return 0 if all([parts[name]() for name in wanted]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
