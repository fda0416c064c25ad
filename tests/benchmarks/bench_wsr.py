"""What a search iteration of Wsr-NAS costs: naive, with its estimators, and with the exact cascade (its Table 6).

``python tests/benchmarks/bench_wsr.py [iteration] [growth] [--data digits] [--root DIR] [--images N] [--out DIR] …``

An iteration is an epoch of the paper's Algorithm 1 on one architecture, a sampled path of the supernet: adversarial
training on one half of the training images (D_t); then, on the other half (D_v), its losses without attack and at all
strengths, and one step of the distribution over architectures. These ways of doing the latter are compared:

- naive: PGD at every strength; then all of these images through the supernet once more, forward and back to the
  distribution, for the gradient of the weighed losses (eq. 10).
- estimated: PGD at 3 strengths, the others from a noise estimator (WA, or A with an epoch of its learning), losses
  forward only; then the loss estimator's passes over its memory, and a step down what it predicts.
- exact cascade (``robust_curve``): each strength goes on from the last one's images. With losses (``keep_going``) it
  serves the loss estimator. With errors alone images leave as soon as they break: for searches without gradients.

Space, attacks, strengths and estimators are those of the problem ``wsr``: demo for digits, paper for CIFAR-10.
All ways meet the same path in eval mode, in batches of one size, and craft on a fast copy of it. Before, it has had
epochs of fast adversarial training (kept in the cache folder): what the cascade costs depends on how many images hold
out. What grows with the number of images is measured on ``--images`` of them and scaled to the whole half; the rest
(learning of the loss estimator and of A, fast copies of the network) counts as it is. On a CPU with one thread seconds
are those of the core, so that other work on the machine disturbs little.

- iteration: the table at the paper's 6 strengths, where the loss estimator learns after each architecture, as in the
  paper. Exit status 1 when WA and the loss estimator save less than half of the naive time outside adversarial
  training.
- growth: from 1 to 11 strengths, evenly from the smallest to the largest; ``growth.csv`` and ``growth.png`` in --out.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import platform
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from wsr_parts import (
    N_REAL,
    SCALES,
    Bench,
    adversarial_training,
    attacks,
    cascade,
    estimated,
    gradients,
    losses_learned,
    noises_learned,
    prepared,
)

from evo_robust.attacks.fast import for_attack
from evo_robust.estimators import AttentionANE
from evo_robust.files import write_csv
from evo_robust.gradients.base import DistributionLearner
from evo_robust.style import EVALUATED, INK, RUNS, note, picture

SHOWN, TARGET = 6, 0.5

NAIVE, WITH_WA, WITH_A, LOSSES, ERRORS = "naive", "estimated, WA", "estimated, A", "cascade, losses", "cascade, errors"

TRAINING, LEARNING = "adversarial training", "loss estimator"
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    NAIVE: (("attacks",), ("gradients",)),
    WITH_WA: (("WA",), (LEARNING,)),
    WITH_A: (("A", "A learns"), (LEARNING,)),
    LOSSES: (("curve of losses",), (LEARNING,)),
    ERRORS: (("curve of errors",), ()),
}
"""Of every way, what is timed: adversarial images and their losses, then the step of the architecture."""

T = TypeVar("T")


class Clock:
    """Seconds of the parts of an iteration, turn by turn."""

    def __init__(self, options: argparse.Namespace, factor: float) -> None:
        self.device, self.factor = options.device, factor
        alone = options.threads == 1 and not options.device.startswith("cuda")
        self.clock = time.process_time if alone else time.perf_counter
        self.taken: dict[str, list[float]] = defaultdict(list)

    def time(self, name: str, work: Callable[[], T], fixed: float = 0.0) -> T:
        """What ``work`` gives; ``fixed`` of its seconds do not grow with the number of images (``inf``: none do)."""
        wait = torch.cuda.synchronize if self.device.startswith("cuda") else lambda: None
        wait()
        began = self.clock()
        found = work()
        wait()
        seconds = self.clock() - began
        constant = min(fixed, seconds)
        self.taken[name].append(constant + (seconds - constant) * self.factor)
        return found

    def of(self, *names: str) -> float:
        """Medians of those parts, added up."""
        return sum(median(self.taken[name]) for name in names)

    def outside(self, way: str) -> float:
        """Time of a way outside adversarial training."""
        return self.of(*itertools.chain(*PARTS[way]))


# --- turns ----------------------------------------------------------------------------------------------------------


def take_turn(bench: Bench, clock: Clock, n: int) -> dict[str, Tensor]:
    """All ways but A's once at ``n`` strengths; their losses ``(1 + n,)``, and the cascade's errors ``(1 + n,)``."""
    strengths = bench.strengths(n)
    learner = DistributionLearner(bench.gradient, bench.sampler, 0)
    for _ in range(2):
        clock.time("copy", lambda: for_attack(bench.supernet, bench.images.floats(slice(16))), math.inf)
    copying = min(clock.taken["copy"])  # every way does this once, for however many images
    noises = clock.time("attacks", lambda: attacks(bench, strengths), copying)
    found = {NAIVE: clock.time("gradients", lambda: gradients(bench, learner, noises))}
    found[WITH_WA] = clock.time("WA", lambda: estimated(bench, strengths), copying).losses
    found[LOSSES] = clock.time("curve of losses", lambda: cascade(bench, strengths, keep_going=True), copying)
    found[ERRORS] = clock.time("curve of errors", lambda: cascade(bench, strengths, keep_going=False), copying)
    clock.time(LEARNING, losses_learned(bench, strengths), math.inf)
    return found


def take_turn_of_training(bench: Bench, clock: Clock) -> None:
    """An epoch of adversarial training of a copy."""
    model = copy.deepcopy(bench.supernet)
    clock.time(TRAINING, lambda: adversarial_training(bench, model))


def iteration(bench: Bench, options: argparse.Namespace) -> bool:
    """Table 6: every way at the problem's own strengths."""
    clock = Clock(options, len(bench.val) / len(bench.images))
    strengths, kind = bench.strengths(SHOWN), AttentionANE()
    if options.learned:
        learner, epoch = noises_learned(bench, strengths, kind)
    for number in range(options.repeats + 1):
        if number == 1:
            clock.taken.clear()  # the first turn warmed up
        take_turn_of_training(bench, clock)
        found = take_turn(bench, clock, SHOWN)
        if options.learned:
            clock.time("A learns", epoch, math.inf)
            weights, copying = learner.estimator.state_dict(), min(clock.taken["copy"])
            found[WITH_A] = clock.time("A", lambda w=weights: estimated(bench, strengths, kind, w), copying).losses  # type: ignore[misc]
    return report(bench, clock, found, options)


def report(bench: Bench, clock: Clock, found: dict[str, Tensor], options: argparse.Namespace) -> bool:
    """Print the table; whether the target is met."""
    strengths, naive = bench.strengths(SHOWN), clock.outside(NAIVE)
    training = clock.of(TRAINING)
    print(
        f"\niteration: {len(bench.images)} images, scaled to {len(bench.val)}; ε "
        f"{', '.join(f'{eps:.4g}' for eps in strengths.values)}; adversarial training {training:.2f} s\n"
        f"{'':20}{'examples s':>12}{'step s':>9}{'outside s':>11}{'/training':>11}{'saved %':>9}{'eq. 10':>9}"
    )
    for way, (examples, step) in PARTS.items():
        if way == WITH_A and not options.learned:
            continue
        outside = clock.outside(way)
        loss = "–" if way == ERRORS else f"{bench.objective.loss.of(found[way].double()):.3f}"
        print(
            f"{way:20}{clock.of(*examples):12.2f}{clock.of(*step):9.2f}{outside:11.2f}{outside / training:11.2f}"
            f"{100 * (1 - outside / naive):9.1f}{loss:>9}"
        )
    if options.learned:
        print(f"examples of {WITH_A}: {clock.of('A'):.2f} s beside {clock.of('A learns'):.2f} s of its learning")
    losses = bench.gradient.losses
    print(
        f"loss estimator: {losses.passes} passes over {losses.memory} architectures\n"
        f"{min(clock.taken['copy']):.2f} s of every way are the fast copy (too few --images where that is most of it); "
        f"errors of the cascade, without attack first: {', '.join(f'{100 * e:.1f}' for e in found[ERRORS].tolist())} %"
    )
    for way in (LOSSES, ERRORS):
        print(f"{WITH_WA} takes {clock.outside(WITH_WA) / clock.outside(way):.2f} of the time of {way}")
    rhythm: int = bench.problem.algorithm.pop_size
    own = clock.outside(WITH_WA) - (1 - 1 / rhythm) * clock.of(LEARNING)
    print(
        f"a search of this package learns once per generation, not per architecture: with {rhythm} of them "
        f"{100 * (1 - own / naive):.1f} % of the naive time are saved"
    )
    saved = 1 - clock.outside(WITH_WA) / naive
    good = saved >= TARGET
    print(
        f"{WITH_WA} and the loss estimator save {100 * saved:.1f} % outside adversarial training (target: at least "
        f"{100 * TARGET:g}; the paper 52): {'ok' if good else 'NOT REACHED'}"
    )
    return good


# --- growth ---------------------------------------------------------------------------------------------------------

LINES = {NAIVE: RUNS[5], WITH_WA: RUNS[0], LOSSES: RUNS[2], ERRORS: RUNS[3]}
LABELS = {
    NAIVE: "naive:\nevery strength attacked",
    WITH_WA: f"estimated:\n{N_REAL} strengths attacked",
    LOSSES: "exact cascade,\nlosses",
    ERRORS: "exact cascade,\nerrors alone",
}


def growth(bench: Bench, options: argparse.Namespace) -> bool:
    """From 1 to 11 strengths: a table, a CSV and a picture."""
    factor, ways, rows = len(bench.val) / len(bench.images), list(LINES), []
    trained = Clock(options, factor)
    take_turn(bench, Clock(options, factor), options.counts[0])  # warms up
    for _ in range(1 + options.repeats):
        take_turn_of_training(bench, trained)
    training = median(trained.taken[TRAINING][1:])
    print(f"\ngrowth: seconds outside adversarial training ({training:.2f} s)\n{'strengths':>9}", end="")
    print("".join(f"{way:>18}" for way in ways), flush=True)
    for n in options.counts:
        clock = Clock(options, factor)
        for _ in range(options.repeats):
            take_turn(bench, clock, n)
        rows.append([n, *(clock.outside(way) for way in ways)])
        print(f"{n:9}" + "".join(f"{value:18.2f}" for value in rows[-1][1:]), flush=True)
    _first_cheaper(rows, ways)
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        header = ["strengths", *(f"{way.replace(', ', '_')}_s" for way in ways), "adversarial_training_s"]
        write_csv(options.out / "growth.csv", header, [[*row, training] for row in rows])
        draw_growth(options.out / "growth.png", np.array(rows), training, f"{_words(bench)}; {where(options)}.")
        print(f"written: {options.out / 'growth.csv'}, {options.out / 'growth.png'}")
    return True


def _first_cheaper(rows: list[list[float]], ways: list[str]) -> None:
    """Say from how many strengths on the estimators are cheaper than each of the others."""
    own = 1 + ways.index(WITH_WA)
    for way in ways:
        column = 1 + ways.index(way)
        dear = [row[0] for row in rows if row[own] >= row[column]]
        later = [row[0] for row in rows if not dear or row[0] > dear[-1]]
        if way != WITH_WA:
            print(f"{WITH_WA} against {way}: " + (f"cheaper from {later[0]} strengths on" if later else "not cheaper"))


def _words(bench: Bench) -> str:
    space: Any = bench.problem.space
    return (
        f"An iteration of the search on {bench.problem.data.name}, without its epoch of adversarial training: "
        f"losses of one architecture (C={space.channels}, {space.layers} cells) on {len(bench.val)} images under "
        f"{bench.objective.attack.steps} steps of PGD, and a step of the distribution over architectures; "  # type: ignore[attr-defined]
        f"measured on {len(bench.images)} images"
    )


def draw_growth(path: Path, rows: np.ndarray, training: float, text: str) -> None:
    """Time of every way over the number of strengths, as multiples of adversarial training; each line is named."""
    counts, values = rows[:, 0], rows[:, 1:] / training
    top = 1.08 * values.max()
    with picture(path, width=8.5, height=5.2) as figure:
        axes = figure.add_subplot()
        axes.axhline(1, color=EVALUATED, ls="--", lw=1.2)
        axes.annotate(
            "adversarial training", (counts[-1], 1), (0, 4), textcoords="offset points", color="#667077", ha="right"
        )
        for way, line in zip(LINES, values.T, strict=True):
            told = way in (NAIVE, WITH_WA)
            axes.plot(
                counts, line, "-o", color=LINES[way], lw=2.4 if told else 1.4, ms=6 if told else 4, zorder=3 + told
            )
        places = _apart(values[-1], 0.1 * top)
        for way, height in zip(LINES, places, strict=True):
            axes.annotate(
                LABELS[way],
                (counts[-1], height),
                (12, 0),
                textcoords="offset points",
                color=LINES[way],
                va="center",
                annotation_clip=False,  # a label that had to move up may lie above the lines
            )
        title = "A search's time outside training, by how many strengths of attack it looks at"
        if SHOWN in counts:
            naive, ours = values[list(counts).index(SHOWN), :2]
            axes.annotate("", (SHOWN, ours), (SHOWN, naive), arrowprops={"arrowstyle": "->", "color": INK, "lw": 1.5})
            change = f"{100 * (ours / naive - 1):+.0f} %".replace("-", "−")
            axes.annotate(
                change, (SHOWN, (naive + ours) / 2), (8, 0), textcoords="offset points", fontsize=13, va="center"
            )
            saved = 100 * (1 - ours / naive)
            verb = "save" if saved > 0 else "add"
            title = f"Estimators {verb} {abs(saved):.0f} % of a search's time outside training, at {SHOWN} strengths"
        axes.set_title(title)
        axes.set_xlabel("strengths of attack that the search looks at")
        axes.set_ylabel("time outside training, per iteration\n(1 = its epoch of adversarial training)")
        axes.set_xticks(counts)
        axes.set_ylim(0, max(top, 1.05 * places.max()))
        note(figure, text)


def _apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """The heights, moved up where two labels would touch."""
    placed, order = heights.astype(float).copy(), np.argsort(heights)
    for below, above in itertools.pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    return placed


# --- command --------------------------------------------------------------------------------------------------------

STAGES = {"iteration": iteration, "growth": growth}


def where(options: argparse.Namespace) -> str:
    """What it was measured on."""
    if options.device.startswith("cuda"):
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {options.threads} thread{'s' * (options.threads > 1)}"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", help=f"some of {', '.join(STAGES)}; all when none is named")
    parser.add_argument("--data", default="digits", choices=SCALES, help="data set (default digits)")
    parser.add_argument("--root", default=None, help="folder that holds the data")
    parser.add_argument("--images", type=int, default=256, help="images of D_t and D_v measured (default 256)")
    parser.add_argument("--channels", type=int, default=None, help="C; as the problem has it when not given")
    parser.add_argument("--layers", type=int, default=None, help="L; as the problem has it when not given")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--repeats", type=int, default=3, help="turns that are timed; medians count (default 3)")
    parser.add_argument("--epochs", type=int, default=20, help="of fast training before (default 20)")
    parser.add_argument("--train-images", type=int, default=5000, help="most images of that training (default 5000)")
    parser.add_argument(
        "--no-learned", dest="learned", action="store_false", help="leave A out, whose learning takes longest"
    )
    parser.add_argument("--counts", default="1,2,3,4,5,6,7,8,9,10,11", help="numbers of strengths of `growth`")
    parser.add_argument("--out", type=Path, default=None, help="folder for growth.csv and growth.png")
    options = parser.parse_args(argv)
    unknown = set(options.stages) - set(STAGES)
    if unknown:
        parser.error(f"expected some of {', '.join(STAGES)}, got {', '.join(sorted(unknown))}")
    options.counts = [int(count) for count in options.counts.split(",")]
    return options


def main(argv: list[str] | None = None) -> int:
    """Run the named stages, all when none is named."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    print(f"{where(options)}, torch {torch.__version__}", flush=True)
    bench = prepared(options)
    wanted = [stage for stage in STAGES if not options.stages or stage in options.stages]
    return 0 if all([STAGES[stage](bench, options) for stage in wanted]) else 1


if __name__ == "__main__":
    sys.exit(main())
