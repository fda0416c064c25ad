"""Few pixels by gradients against CMA-ES and DE: success at 1, 3, 5 and 10 pixels, in equal time and as used.

CIFAR-10 comes from ``EVO_ROBUST_DATA``, else ``../shared/data``; without it only the digits are attacked. Usage:

    python tests/benchmarks/bench_l0.py [--images 50] [--only cifar-lenet] [--equal-time-only]

All attack the same correctly classified test images, ascending, each level on what the levels below left unbroken. In
the rows of equal time, a black-box attack gets as many generations as fit into the seconds of the gradient attack.
Seconds are of the processor (`time.process_time`), so that other work on the machine does not count.
Exit status 1 when a black-box attack breaks more images at any level in equal time.
"""

from __future__ import annotations

import argparse
import sys
import time

import chz
import torch
from torch import nn
from victims import at_hand, trained

from evo_robust.attacks.level.attack import CMAES, DE, QueryAttack
from evo_robust.attacks.level.base import LevelAttack
from evo_robust.attacks.level.sigma_zero import SigmaZero
from evo_robust.data.images import Images
from evo_robust.inference.predictions import correct_mask

LEVELS = (1, 3, 5, 10)
NETWORKS = ("digits-resnet", "cifar-lenet", "cifar-conv")

Row = tuple[list[float], float]
"""Success in percent at each level, and seconds."""


def run(attack: LevelAttack, model: nn.Module, images: Images) -> Row:
    """One attack at all levels."""
    began = time.process_time()
    found = attack.ladder(model, images.floats(), images.y, LEVELS, torch.Generator().manual_seed(0))
    taken = time.process_time() - began
    return [100 * (found.reached <= k).double().mean().item() for k in range(len(LEVELS))], taken


def in_time(attack: QueryAttack, seconds: float, model: nn.Module, images: Images) -> tuple[Row, int]:
    """The attack with as many generations as take this long, and how many those are."""
    generations = 1
    while True:
        row = run(chz.replace(attack, max_iter=generations), model, images)
        # at the worst, half of the seconds remain unused: then it gets twice the generations
        if row[1] >= 0.7 * seconds or generations >= 400:
            return row, generations
        generations = max(generations + 1, min(4 * generations, int(generations * seconds / row[1])))


def line(name: str, row: Row) -> None:
    """Print a row."""
    success, seconds = row
    print(f"{name:34}" + "".join(f"{value:8.1f}" for value in success) + f"{seconds:10.1f}", flush=True)


def compare(name: str, count: int, *, as_used: bool) -> bool:
    """Print the table of one network; whether no black-box attack was ahead in equal time."""
    model, images, _ = trained(name)
    right = correct_mask(model, images)
    images = images.take(right.nonzero().squeeze(1)[:count])
    print(f"\n{name}: {len(images)} of its correct test images (clean accuracy {100 * right.double().mean():.1f}%)")
    print(f"{'success %, by number of pixels':34}" + "".join(f"{level:8}" for level in LEVELS) + f"{'seconds':>10}")
    ours = run(SigmaZero(), model, images)
    line("gradients: swaps, then σ-zero", ours)
    line("  swaps alone", run(SigmaZero(steps=0), model, images))
    line("  σ-zero alone, 300 steps", run(SigmaZero(swaps=0), model, images))
    good = True
    for attack in (CMAES(), DE()):
        kind = type(attack).__name__
        equal, generations = in_time(attack, ours[1], model, images)
        line(f"{kind}, equal time ({generations} generations)", equal)
        good &= all(mine >= other for mine, other in zip(ours[0], equal[0], strict=True))
        if as_used:
            line(f"{kind}, as used (100 generations)", run(attack, model, images))
    print("gradients are not behind in equal time" if good else "MISSED: a black-box attack is ahead in equal time")
    return good


def main() -> int:
    """Compare on all networks at hand."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=50, help="correctly classified test images")
    parser.add_argument("--only", default="", help="part of a network's name")
    parser.add_argument("--equal-time-only", action="store_true", help="leave out the rows of 100 generations")
    options = parser.parse_args()
    torch.set_num_threads(1)
    as_used = not options.equal_time_only
    chosen = [name for name in NETWORKS if options.only in name]
    return 0 if all([compare(name, options.images, as_used=as_used) for name in at_hand(chosen)]) else 1


if __name__ == "__main__":
    sys.exit(main())
