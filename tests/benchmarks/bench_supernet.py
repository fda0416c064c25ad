"""What sharing weights saves: the robust training step, sparse paths, one-shot candidates, memory.

``python tests/benchmarks/bench_supernet.py [step] [sparse] [candidates] [memory] [--device cpu] [--threads 2] …``

- step: ``train`` on random paths with PGD-7 against a plain float32 loop: the same supernet class, initial weights,
  images, batches, random starts and paths, but contiguous memory and an attack whose ``loss.backward()`` fills the
  gradients of parameters too. They take turns; mean losses show that both train alike. bf16 stands beside them, so that
  the default is a choice by measurement: the target is set for float32 on a CPU, for the faster of the two on CUDA.
  Rates count the multiply-accumulates that a step needs (a forward pass for each; as many for the gradient of images,
  twice as many for that of weights and maps), beside those of one large matrix product in the same precision.
- sparse: forward and backward pass of random architectures with exactly half of the bits of α off, against all on, one
  thread.
- candidates: RobNet's digits demo, a candidate measured with inherited weights (``finetune=0``, and finetuned as the
  demo does) against one trained from scratch, one thread each, and the number of candidates from which the supernet's
  own training has paid for itself. The supernet is trained in full. Errors on the adversarial training images after
  half and all of the epochs tell whether the networks from scratch had the time they need.
- memory: peak of a fresh process that trains the supernet of 20 cells and 36 channels on its largest path. The attack
  takes one step, since memory does not depend on their number.

Exit status 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import copy
import csv
import dataclasses
import itertools
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
from evo_robust.data.images import Images, batches
from evo_robust.device import fixed_threads
from evo_robust.evaluators.base import Evaluation
from evo_robust.evaluators.candidates import build_candidate, candidate_seed
from evo_robust.evaluators.from_scratch import FromScratch
from evo_robust.evaluators.jobs import Stage
from evo_robust.evaluators.one_shot import OneShot
from evo_robust.evaluators.pool import PooledEvaluator
from evo_robust.objectives.base import Context, Objective
from evo_robust.objectives.cost import count_flops
from evo_robust.parts.base import Fraction
from evo_robust.spaces.base import Architecture
from evo_robust.spaces.ops import fit_normalization
from evo_robust.spaces.robnet.space import RobNet
from evo_robust.spaces.supernet import Supernet
from evo_robust.training.learning_curve import CURVE_FILES
from evo_robust.training.loop import train
from evo_robust.training.recipes import PGDTraining
from evo_robust.training.supernet_training import SupernetTraining

SHAPE, CLASSES, BATCH = (3, 32, 32), 10, 64
SPACE = RobNet(channels=16, layers=8)
ATTACK = PGD(steps=7, step=Fraction(2 / 255))
RECIPE = PGDTraining(attack=ATTACK, lr=0.05, weight_decay=1e-4, batch_size=BATCH, decay_bn=False, schedule="constant")
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


def seconds(work: Callable[[], object], device: str, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of a piece of work, with the device's part of it; wall-clock time unless another clock is given."""
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    began = clock()
    work()
    wait()
    return clock() - began


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


@dataclasses.dataclass
class Contender:
    """A way to train, and how it fared.

    Attributes:
        turn: its training.
        threads: CPU threads.
        precision: float32 or bf16.
        seconds: per step, by turn.
        losses: mean losses, by turn.
    """

    turn: Turn
    threads: int
    precision: str = "float32"
    seconds: list[float] = dataclasses.field(default_factory=list)
    losses: list[float] = dataclasses.field(default_factory=list)

    @property
    def each(self) -> float:
        """Seconds per step."""
        return median(self.seconds)

    def take_turn(self, number: int, options: argparse.Namespace) -> None:
        """Train on, and note what it took."""
        with fixed_threads(self.threads):
            taken = seconds(lambda: self.losses.append(self.turn(number)), options.device)
        self.seconds.append(taken / options.steps)


def step(options: argparse.Namespace) -> bool:
    """Robust training step against a plain float32 loop."""
    kind = torch.device(options.device).type
    contenders, work = trained(options), needed(options)
    print(
        f"\nstep: PGD-{ATTACK.steps}, random paths{f', CPU threads: {options.threads}' * (kind == 'cpu')}; "
        f"a step needs {work / 1e9:.0f} GMAC\n"
        f"{'':26}{'s/step':>9}{'ratio':>7}{'GMAC/s':>9}{'product':>9}{'share':>7}   mean loss of {options.steps} steps"
    )
    expected = contenders["plain float32 loop"]
    for name, one in contenders.items():
        rate, most = work / one.each, product_rate(options.device, one.precision, one.threads)
        row = f"{one.each:9.4f}{expected.each / one.each:7.2f}{rate / 1e9:9.1f}{most / 1e9:9.0f}{rate / most:7.1%}"
        print(f"{name:26}{row}   {' '.join(f'{loss:.3f}' for loss in one.losses)}")
    by_precision = {precision: contenders[f"train, {precision}"] for precision in ("float32", "bf16")}
    best = min(by_precision, key=lambda precision: by_precision[precision].each)
    precision = best if kind == "cuda" else "float32"
    judged, target = by_precision[precision], STEP_TARGETS[kind]
    # rounding alone turns signs of gradients, so that curves of equal training part a little
    ratio, apart = expected.each / judged.each, abs(judged.losses[-1] / expected.losses[-1] - 1)
    good = ratio >= target and apart <= LOSS_TOLERANCE
    print(
        f"train in {precision} is {ratio:.2f} times as fast as the plain loop (target: at least {target:g}), mean loss "
        f"of the last turn {judged.losses[-1]:.3f} against {expected.losses[-1]:.3f}, {apart:.1%} apart "
        f"(allowed {LOSS_TOLERANCE:.0%}): {verdict(good)}"
    )
    return good


def trained(options: argparse.Namespace) -> dict[str, Contender]:
    """All contenders after their turns, by name."""
    images = labelled_images(options.steps * BATCH, options.device)
    initial = supernet(SPACE, options.device)
    bf16 = chz.replace(RECIPE, precision="bf16")
    contenders = {
        "plain float32 loop": Contender(plain(copy.deepcopy(initial), images, RECIPE), options.threads),
        "train, float32": Contender(ours(copy.deepcopy(initial), images, RECIPE), options.threads),
        "train, bf16": Contender(ours(copy.deepcopy(initial), images, bf16), options.threads, "bf16"),
    }
    for number in range(options.turns + 1):
        for one in contenders.values():
            one.take_turn(number, options)
    for one in contenders.values():
        del one.seconds[0]  # the first turn warmed up
    if torch.device(options.device).type == "cpu" and options.threads > 1:
        # the last turn's paths and images once more, with weights that are one turn older
        alone = Contender(contenders["train, float32"].turn, 1)
        alone.take_turn(options.turns, options)
        contenders["train, float32, 1 thread"] = alone
    return contenders


def needed(options: argparse.Namespace) -> float:
    """Multiply-accumulates that a step of the timed turns needs, on average."""
    model = supernet(SPACE, options.device)
    counts = []
    for turn in range(1, options.turns + 1):
        for (path,) in itertools.islice(paths_of(turn), options.steps):
            model.choose(path)
            counts.append(count_flops(model, SHAPE, "macs"))
    # each step of the attack goes forward and back to the images; then comes the pass that trains
    return mean(counts) * BATCH * (2 * ATTACK.steps + 3)


def product_rate(device: str, precision: str, threads: int) -> float:
    """Multiply-accumulates per second of a large matrix product: about the most that the device can do."""
    n, repeats = (8192, 20) if device.startswith("cuda") else (2048, 3)
    matrix = torch.ones(n, n, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32  # as convolutions do it
    try:
        with fixed_threads(threads):
            taken = [seconds(lambda: torch.mm(matrix, matrix), device) for _ in range(repeats)]
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
    return float(n**3 / min(taken))


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
    full: list[float] = []
    half: list[list[float]] = [[] for _ in paths]
    with fixed_threads(1):
        for architecture in (SPACE.largest(), *paths[:2]):
            timed(architecture)
        for _ in range(options.repeats):
            for values, architecture in zip(half, paths, strict=True):
                full.append(timed(SPACE.largest()))
                values.append(timed(architecture))
    each = [median(values) / median(full) for values in half]
    good = mean(each) <= SPARSE_TARGET
    print(
        f"\nsparse, one thread: full path {1000 * median(full):.0f} ms, half of α off {mean(each):.2f} of it, "
        f"mean of {len(each)} random α ({min(each):.2f} to {max(each):.2f}; target: at most {SPARSE_TARGET:g}): "
        f"{verdict(good)}"
    )
    return good


# --- candidates -----------------------------------------------------------------------------------------------------


@chz.chz
class Watched(FromScratch):
    """The same training; its figures tell the training error after half of the epochs too."""

    def stages(self, context: Context, architecture: Architecture, deadline: float | None = None) -> Iterator[Stage]:
        """See :meth:`FromScratch.stages`."""
        seed = candidate_seed(context, context.space.to_text(architecture))
        model = build_candidate(context, architecture, seed).to(context.device)
        recipe, images = self.recipe.for_data(context.data), context.data.on(context.device).train
        logs = train(model, images, recipe, self.epochs, seed=seed, deadline=deadline)
        errors = {"half": logs[(len(logs) - 1) // 2].train_error, "train_error": logs[-1].train_error}
        yield Stage(model.eval(), errors)


def candidates(options: argparse.Namespace) -> bool:
    """A candidate measured one-shot against one trained from scratch, on RobNet's digits demo; one thread each."""
    demo, scratch = load("robnet", "demo"), load("robnet", "scratch").evaluator
    inherited, objective = demo.evaluator, demo.objectives[0]
    assert isinstance(inherited, OneShot) and isinstance(scratch, FromScratch)
    epochs = options.supernet_epochs or inherited.supernet.epochs
    # one thread everywhere, so that seconds of supernet and candidates are seconds of a core
    inherited = chz.replace(inherited, supernet=chz.replace(inherited.supernet, epochs=epochs, threads=1))
    watched = Watched(epochs=options.epochs, recipe=scratch.recipe)
    rng = np.random.default_rng(0)
    architectures = [demo.space.decode(demo.space.sample(rng)) for _ in range(options.candidates)]
    with tempfile.TemporaryDirectory() as cache:
        context = Context(space=demo.space, data=demo.data, seed=0, device=options.device, workers=1, cache=Path(cache))
        measured = {
            "inherited, finetune=0": cost(chz.replace(inherited, finetune=0), context, objective, architectures)
        }
        if inherited.finetune:
            # measuring before finetuning too, as the demo does, is no part of what finetuning costs
            tuned = cost(chz.replace(inherited, compare=False), context, objective, architectures)
            measured[f"inherited, finetune={inherited.finetune}"] = tuned
        slow = cost(watched, context, objective, architectures)
        measured[f"from scratch, {watched.epochs} epochs"] = slow
        folder = inherited.supernet.folder(demo.space, demo.data, context.cache, options.device)
        with open(folder / CURVE_FILES[0], encoding="utf-8", newline="") as file:
            shared_error = float(list(csv.DictReader(file))[-1]["train_error"])
    one_shot = measured["inherited, finetune=0"]
    print(
        f"\ncandidates: one thread, {len(architectures)} random architectures; supernet of {epochs} epochs "
        f"{one_shot.start:.0f} s, adversarial training error {shared_error:.3f}\n"
        f"{'':34}{'s/candidate':>12}{'times cheaper':>15}{'pays from':>11}   mean {objective.name}"
    )
    for name, figures in measured.items():
        gain = slow.each - figures.each
        pays = f"{one_shot.start / gain:.1f}" if gain > 0 else "-"
        print(f"{name:34}{figures.each:12.2f}{slow.each / figures.each:15.1f}{pays:>11}   {figures.error:.3f}")
    ends = "; ".join(f"{e.figures['half']:.3f}, {e.figures['train_error']:.3f}" for e in slow.evaluations)
    print(f"adversarial training error from scratch after half and all epochs: {ends}")
    ratio = slow.each / one_shot.each
    good = ratio >= CANDIDATE_TARGET
    print(
        f"a one-shot candidate (finetune=0) is {ratio:.1f} times cheaper than one from scratch (target: at least "
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
        evaluations: what else is known of them.
    """

    start: float
    each: float
    error: float
    evaluations: tuple[Evaluation, ...]


def cost(
    evaluator: PooledEvaluator, context: Context, objective: Objective, architectures: Sequence[Architecture]
) -> Cost:
    """What an evaluator's candidates cost, one after another; on a CPU in seconds of the core that they have."""
    # one thread in this process: what it used does not depend on who else is at work for these many minutes
    clock = time.perf_counter if context.device.startswith("cuda") else time.process_time
    began = clock()
    session = evaluator.start(context, (objective,), ())
    started = clock() - began
    warm_up = chz.replace(evaluator, epochs=1) if hasattr(evaluator, "epochs") else evaluator
    list(warm_up.start(context, (objective,), ()).evaluate(architectures[:1]))
    evaluations: list[tuple[int, Evaluation]] = []
    taken = seconds(lambda: evaluations.extend(session.evaluate(architectures)), context.device, clock)
    wrong = [e.error for _, e in evaluations if e.status != "ok"]
    if wrong:
        raise SystemExit(f"a candidate failed: {wrong[0]}")
    found = tuple(e for _, e in evaluations)
    error = mean(e.objectives[objective.name] for e in found)
    return Cost(start=started, each=taken / len(architectures), error=error, evaluations=found)


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
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of step and memory")
    parser.add_argument("--steps", type=int, default=20 if cuda else 4, help="training steps of a turn")
    parser.add_argument("--turns", type=int, default=2, help="turns each contender takes after the first")
    parser.add_argument("--paths", type=int, default=10, help="random α of the sparse path")
    parser.add_argument("--repeats", type=int, default=3, help="turns of the sparse paths")
    parser.add_argument("--candidates", type=int, default=3, help="architectures measured one-shot and from scratch")
    # twice those of scale=scratch, which still learn at their end
    parser.add_argument("--epochs", type=int, default=48, help="from scratch, enough to converge")
    parser.add_argument("--supernet-epochs", type=int, default=None, help="as the problem has it when not given")
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
    name = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU"
    print(f"{name}, torch {torch.__version__}", flush=True)
    wanted = [part for part in PARTS if not options.parts or part in options.parts]
    return 0 if all([PARTS[part](options) for part in wanted]) else 1


if __name__ == "__main__":
    sys.exit(main())
