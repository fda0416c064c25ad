"""What sharing weights saves: the robust training step, sparse paths, one-shot candidates, memory.

``python tests/benchmarks/bench_supernet.py [step] [sparse] [candidates] [memory] [--device cpu] [--threads 2] …``

- step: ``train`` on random paths with PGD-7 against a plain float32 loop: the same supernet class, initial weights,
  images, batches, random starts and paths, but contiguous memory and an attack whose ``loss.backward()`` fills the
  gradients of parameters too. They take turns; mean losses show that both train alike. bf16 stands beside them, so that
  the default is a choice by measurement.
- sparse: forward and backward pass of random architectures with exactly half of the bits of α off, against all on.
- candidates: RobNet's digits demo, a candidate measured with inherited weights against one trained from scratch, and
  the number of candidates from which the supernet's own training has paid for itself.
- memory: peak of a fresh process that trains the supernet of 20 cells and 36 channels on its largest path. The attack
  takes one step, since memory does not depend on their number.

Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median

import chz
import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from evo_robust import load
from evo_robust.attacks.gradient import PGD
from evo_robust.data import Images, batches
from evo_robust.evaluators.base import Evaluation
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.evaluators.one_shot import OneShot
from evo_robust.evaluators.pool import PooledEvaluator
from evo_robust.objectives.base import Context, Objective
from evo_robust.parts import Fraction
from evo_robust.spaces.base import Architecture
from evo_robust.spaces.ops import fit_normalization
from evo_robust.spaces.robnet import RobNet
from evo_robust.spaces.supernet import Supernet
from evo_robust.supernet import SupernetTraining
from evo_robust.train import PGDTraining, train

SHAPE, CLASSES, BATCH = (3, 32, 32), 10, 64
SPACE = RobNet(channels=16, layers=8)
RECIPE = PGDTraining(lr=0.05, weight_decay=1e-4, batch_size=BATCH, decay_bn=False, schedule="constant")
LARGE, LARGE_BATCH = RobNet(channels=36, layers=20), 32

STEP_TARGETS = {"cpu": 1.3, "cuda": 2.0}
LOSS_TOLERANCE = 0.05
SPARSE_TARGET, CANDIDATE_TARGET, MEMORY_TARGET = 0.65, 10.0, 8.0

Turn = Callable[[int], float]
"""Trains on, with the batches, random starts and paths of a seed; the mean loss of its steps."""


def labelled_images(n: int, device: str) -> Images:
    """Noise around one random coarse pattern per class: random images that a network can learn, so that losses fall."""
    generator = torch.Generator().manual_seed(0)
    patterns = (
        torch.rand((CLASSES, SHAPE[0], 4, 4), generator=generator).repeat_interleave(8, 2).repeat_interleave(8, 3)
    )
    y = torch.arange(n) % CLASSES
    x = 0.5 * patterns[y] + 0.5 * torch.rand((n, *SHAPE), generator=generator)
    return Images((255 * x).byte(), y).to(device)


def paths_of(seed: int) -> Iterator[Sequence[Architecture]]:
    """Random paths, one a step."""
    return SupernetTraining(seed=seed).paths(SPACE, 0)


def supernet(space: RobNet, device: str) -> Supernet:
    """A supernet with its initial weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return space.supernet(CLASSES, SHAPE).to(device)


def seconds(work: Callable[[], object], device: str) -> float:
    """Wall-clock time of a piece of work, with the device's part of it."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


# --- one training step ----------------------------------------------------------------------------------------------


def ours(model: Supernet, images: Images, recipe: PGDTraining) -> Turn:
    """The package's training, one pass over the images a turn."""

    def turn(seed: int) -> float:
        return train(model, images, recipe, 1, seed=seed, paths=lambda epoch: paths_of(seed))[0].loss

    return turn


def plain(model: Supernet, images: Images, recipe: PGDTraining) -> Turn:
    """The same training as it is usually written."""
    fit_normalization(model, images.x)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]

    def turn(seed: int) -> float:
        optimizer = torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
        generator = torch.Generator(images.x.device).manual_seed(seed)
        paths = paths_of(seed)
        model.train()
        losses = []
        for x, y in batches(images, recipe.batch_size, generator):
            model.choose(next(paths)[0])
            adversarial = plain_pgd(model, x.contiguous(), y, recipe, generator)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(adversarial), y)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clip or float("inf"))
            optimizer.step()
            losses.append(loss.item())
        return mean(losses)

    return turn


def plain_pgd(model: nn.Module, x: Tensor, y: Tensor, recipe: PGDTraining, generator: torch.Generator) -> Tensor:
    """PGD whose backward pass leaves gradients on the parameters too."""
    assert isinstance(recipe.attack, PGD) and recipe.attack.step is not None
    eps, step = recipe.threat.eps, recipe.attack.step
    noise = torch.rand(x.shape, generator=generator, device=x.device) * 2 - 1
    adversarial = (x + eps * noise).clamp(0, 1)
    for _ in range(recipe.attack.steps):
        adversarial = adversarial.detach().requires_grad_()
        F.cross_entropy(model(adversarial), y).backward()
        assert adversarial.grad is not None
        moved = adversarial.detach() + step * adversarial.grad.sign()
        adversarial = torch.maximum(torch.minimum(moved, x + eps), x - eps).clamp(0, 1)
    return adversarial.detach()


def step(options: argparse.Namespace) -> bool:
    """Robust training step against a plain float32 loop."""
    images = labelled_images(options.steps * BATCH, options.device)
    initial = supernet(SPACE, options.device)
    bf16 = chz.replace(RECIPE, precision="bf16")
    contenders = {
        "plain float32 loop": plain(copy.deepcopy(initial), images, RECIPE),
        "train, float32": ours(copy.deepcopy(initial), images, RECIPE),
        "train, bf16": ours(copy.deepcopy(initial), images, bf16),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    losses: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(options.turns + 1):
        for name, turn in contenders.items():
            keep = losses[name].append
            taken = seconds(lambda t=turn, k=keep, s=number: k(t(s)), options.device)  # type: ignore[misc]
            times[name].append(taken / options.steps)
    print(f"\n{'step: PGD-7, random paths':28}{'s/step':>9}{'ratio':>7}   mean loss of {options.steps} steps, by turn")
    steps = {name: median(values[1:]) for name, values in times.items()}  # the first turn warms up
    for name, value in steps.items():
        curve = " ".join(f"{loss:.3f}" for loss in losses[name])
        print(f"{name:28}{value:9.4f}{steps['plain float32 loop'] / value:7.2f}   {curve}")
    target = STEP_TARGETS[torch.device(options.device).type]
    ratio = steps["plain float32 loop"] / steps["train, float32"]
    fastest = max(ratio, steps["plain float32 loop"] / steps["train, bf16"])
    # rounding alone turns signs of gradients, so that curves of equal training part a little
    late, expected = losses["train, float32"][-1], losses["plain float32 loop"][-1]
    apart = abs(late / expected - 1)
    good = ratio >= target and apart <= LOSS_TOLERANCE
    print(
        f"train in float32 is {ratio:.2f} times as fast as the plain loop (target: at least {target:g}; the best "
        f"precision {fastest:.2f}), mean loss of the last turn {late:.3f} against {expected:.3f}, {apart:.1%} apart "
        f"(allowed {LOSS_TOLERANCE:.0%}): {verdict(good)}"
    )
    return good


# --- sparse paths ---------------------------------------------------------------------------------------------------


def half_paths(n: int) -> list[Architecture]:
    """Random architectures with exactly half of the bits of α on, all of them on live edges."""
    rng = np.random.default_rng(0)
    found: list[Architecture] = []
    while len(found) < n:
        bits = rng.permutation(np.arange(SPACE.n_genes) % 2)
        architecture = SPACE.decode(bits)
        if SPACE.structure(architecture).density == 0.5:
            found.append(architecture)
    return found


def sparse(options: argparse.Namespace) -> bool:
    """A path with half of α off against the full one, forward and backward."""
    model = supernet(SPACE, options.device).to(memory_format=torch.channels_last).train()
    images = labelled_images(BATCH, options.device)
    x = images.floats()

    def passes() -> None:
        model.zero_grad()
        F.cross_entropy(model(x), images.y).backward()

    def timed(architecture: Architecture) -> float:
        model.choose(architecture)
        return seconds(passes, options.device)

    paths = half_paths(options.paths)
    for architecture in (SPACE.largest(), *paths[:2]):
        timed(architecture)
    full: list[float] = []
    half: list[list[float]] = [[] for _ in paths]
    for _ in range(options.repeats):
        for values, architecture in zip(half, paths, strict=True):
            full.append(timed(SPACE.largest()))
            values.append(timed(architecture))
    each = [median(values) / median(full) for values in half]
    good = mean(each) <= SPARSE_TARGET
    print(
        f"\nsparse: full path {1000 * median(full):.0f} ms, half of α off {mean(each):.2f} of it, mean of {len(each)} "
        f"random α ({min(each):.2f} to {max(each):.2f}; target: at most {SPARSE_TARGET:g}): {verdict(good)}"
    )
    return good


# --- candidates -----------------------------------------------------------------------------------------------------


def candidates(options: argparse.Namespace) -> bool:
    """A candidate measured one-shot against one trained from scratch, on RobNet's digits demo; one thread each."""
    demo, scratch = load("robnet", "demo"), load("robnet", "scratch").evaluator
    inherited, objective = demo.evaluator, demo.objectives[0]
    assert isinstance(inherited, OneShot) and isinstance(scratch, FromScratch)
    whole = inherited.supernet.epochs
    trained = min(whole, options.supernet_epochs)
    # one thread everywhere, so that seconds of supernet and candidates are seconds of a core
    inherited = chz.replace(inherited, supernet=chz.replace(inherited.supernet, epochs=trained, threads=1))
    scratch = chz.replace(scratch, epochs=options.epochs or scratch.epochs)
    rng = np.random.default_rng(0)
    architectures = [demo.space.decode(demo.space.sample(rng)) for _ in range(options.candidates)]
    with tempfile.TemporaryDirectory() as cache:
        context = Context(space=demo.space, data=demo.data, seed=0, device=options.device, workers=1, cache=Path(cache))
        measured = {"inherited": cost(chz.replace(inherited, finetune=0), context, objective, architectures)}
        if inherited.finetune:
            label = f"inherited, finetuned for {inherited.finetune} epoch{'s' * (inherited.finetune > 1)}"
            # measuring before finetuning too, as the demo does, is no part of what finetuning costs
            measured[label] = cost(chz.replace(inherited, compare=False), context, objective, architectures)
        slow = cost(scratch, context, objective, architectures)
        measured[f"from scratch, {scratch.epochs} epochs"] = slow
    supernet_seconds = measured["inherited"].start / trained * whole
    print(
        f"\ncandidates: one thread, supernet of {whole} epochs {supernet_seconds:.0f} s ({trained} were trained)\n"
        f"{'':34}{'s/candidate':>12}{'times cheaper':>15}{'pays from':>11}   mean {objective.name}"
    )
    for name, figures in measured.items():
        gain = slow.each - figures.each
        pays = f"{supernet_seconds / gain:.1f}" if gain > 0 else "-"
        print(f"{name:34}{figures.each:12.2f}{slow.each / figures.each:15.1f}{pays:>11}   {figures.error:.3f}")
    ratio = slow.each / measured["inherited"].each
    good = ratio >= CANDIDATE_TARGET
    print(
        f"a one-shot candidate is {ratio:.1f} times cheaper than one from scratch (target: at least "
        f"{CANDIDATE_TARGET:g}): {verdict(good)}"
    )
    return good


@dataclasses.dataclass(frozen=True)
class Cost:
    """What candidates of an evaluator cost.

    Attributes:
        start: seconds until the first candidate can be evaluated (the supernet's training).
        each: seconds per candidate.
        error: their mean objective.
    """

    start: float
    each: float
    error: float


def cost(
    evaluator: PooledEvaluator, context: Context, objective: Objective, architectures: Sequence[Architecture]
) -> Cost:
    """What an evaluator's candidates cost, one after another."""
    began = time.perf_counter()
    session = evaluator.start(context, (objective,), ())
    started = time.perf_counter() - began
    warm_up = chz.replace(evaluator, epochs=1) if hasattr(evaluator, "epochs") else evaluator
    list(warm_up.start(context, (objective,), ()).evaluate(architectures[:1]))
    evaluations: list[tuple[int, Evaluation]] = []
    taken = seconds(lambda: evaluations.extend(session.evaluate(architectures)), context.device)
    wrong = [e.error for _, e in evaluations if e.status != "ok"]
    if wrong:
        raise SystemExit(f"a candidate failed: {wrong[0]}")
    errors = [e.objectives[objective.name] for _, e in evaluations]
    return Cost(start=started, each=taken / len(architectures), error=mean(errors))


# --- memory ---------------------------------------------------------------------------------------------------------


def memory(options: argparse.Namespace) -> bool:
    """Peak memory of one robust training step of the large supernet, in a process of its own."""
    arguments = ["peak", "--device", options.device, "--threads", str(options.threads)]
    child = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
    before, peak = map(float, child.stdout.split())
    good = peak < MEMORY_TARGET
    where = (
        f"on {options.device}" if options.device.startswith("cuda") else f"resident, {before:.2f} GB of it libraries"
    )
    print(
        f"\nmemory: supernet of {LARGE.layers} cells, C={LARGE.channels}, batch {LARGE_BATCH}, one robust step on the "
        f"full path: peak {peak:.2f} GB {where} (target: below {MEMORY_TARGET:g}): {verdict(good)}"
    )
    return good


def peak(options: argparse.Namespace) -> bool:
    """What ``memory`` starts: gigabytes before and at the peak."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    images = labelled_images(LARGE_BATCH, options.device)
    recipe = chz.replace(RECIPE, batch_size=LARGE_BATCH, attack=PGD(steps=1, step=Fraction(2 / 255)))
    model = supernet(LARGE, options.device)
    train(model, images, recipe, 1, seed=0, paths=lambda epoch: iter([(LARGE.largest(),)]))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if options.device.startswith("cuda"):
        before, after = 0.0, torch.cuda.max_memory_allocated() / 1e9
    print(before, after)
    return True


# --- command --------------------------------------------------------------------------------------------------------

PARTS = {"step": step, "sparse": sparse, "candidates": candidates, "memory": memory}


def verdict(good: bool) -> str:
    """What the last word of a line says."""
    return "ok" if good else "NOT REACHED"


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of step, sparse and memory")
    parser.add_argument("--steps", type=int, default=20 if cuda else 4, help="training steps of a turn")
    parser.add_argument("--turns", type=int, default=2, help="turns each contender takes after the first")
    parser.add_argument("--paths", type=int, default=10, help="random α of the sparse path")
    parser.add_argument("--repeats", type=int, default=3, help="turns of the sparse paths")
    parser.add_argument("--candidates", type=int, default=2, help="architectures measured one-shot and from scratch")
    parser.add_argument("--epochs", type=int, default=None, help="from scratch; as the problem has it when not given")
    parser.add_argument("--supernet-epochs", type=int, default=8, help="that are trained; the rest is reckoned")
    options = parser.parse_args(argv)
    unknown = set(options.parts) - {*PARTS, "peak"}
    if unknown:
        parser.error(f"expected some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}")
    return options


def main(argv: list[str] | None = None) -> int:
    """Run the named parts, all when none is named."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    if options.parts == ["peak"]:
        return 0 if peak(options) else 1
    cuda = options.device.startswith("cuda")
    name = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}", flush=True)
    wanted = [part for part in PARTS if not options.parts or part in options.parts]
    return 0 if all([PARTS[part](options) for part in wanted]) else 1


if __name__ == "__main__":
    sys.exit(main())
