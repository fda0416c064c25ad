"""PGD-20 at four strengths on CIFAR-10, side by side with torchattacks: time and robust accuracy in one run.

Needs the extra ``bench`` and CIFAR-10 (``EVO_ROBUST_DATA``, else ``../shared/data``). Usage:

    python tests/benchmarks/bench_curve.py [--images 500] [--repeats 3] [--device cpu] [--threads N] [--parts]

Both attack the same adversarially trained network and the same images, in turns, with the same number of threads.
torchattacks runs once per strength, as it is used, with the batch size that suits it best. ``--parts`` adds what each
of our tricks is worth. Exit status 1 when we are not 5 times as fast, or more than half a point weaker at any strength.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import chz
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evo_robust.attacks.base import Threat
from evo_robust.attacks.curve import robust_curve
from evo_robust.attacks.fast import for_attack
from evo_robust.attacks.gradient import PGD
from evo_robust.data.images import Images, Splits
from evo_robust.data.sets import CIFAR10
from evo_robust.files import cache_folder
from evo_robust.parts.base import Fraction, digest
from evo_robust.spaces.ops import Normalize
from evo_robust.training.loop import train
from evo_robust.training.recipes import FastTraining

EPS = (0.03, 0.10, 0.17, 0.25)
STEPS = 20
WANTED_SPEED, ALLOWED_POINTS = 5.0, 0.5

Accuracies = list[float]
Contender = Callable[[int], Accuracies]
"""Robust accuracies in percent at each strength, from a seed."""


def network(width: int) -> nn.Sequential:
    """A plain convolutional network; ``width`` channels in front, four times as many at the end."""

    def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        Normalize(3),
        *block(3, width, 1),
        *block(width, 2 * width, 2),
        *block(2 * width, 2 * width, 1),
        *block(2 * width, 4 * width, 2),
        *block(4 * width, 4 * width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


def trained_network(splits: Splits, width: int, epochs: int, device: str) -> nn.Module:
    """The network after fast adversarial training at 8/255, from the cache folder where it is there."""
    recipe = chz.replace(FastTraining(), lr=0.1, batch_size=128)
    key = digest(recipe, [width, epochs, len(splits.train), device])
    path = cache_folder() / "benchmarks" / f"curve-{key}.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network(width).to(device)
    if not path.exists():
        print(f"training the network ({len(splits.train)} images, {epochs} epochs) …", flush=True)
        train(model, splits.train, recipe, epochs, seed=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    model.load_state_dict(load_file(path, device=device))
    return model.to(memory_format=torch.contiguous_format).eval()


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Percentage of correct images."""
    with torch.no_grad():
        return 100 * torch.cat([model(p) for p in x.split(1000)]).argmax(1).eq(y).double().mean().item()


def torchattacks_pgd(
    model: nn.Module, images: Images, batch_size: int, eps: tuple[float, ...] = EPS, steps: int = STEPS
) -> Contender:
    """Its usual use: one attack per strength on all images, then their accuracy."""
    import torchattacks  # type: ignore[import-untyped]

    x, y = images.floats().contiguous(), images.y

    def run(seed: int) -> Accuracies:
        torch.manual_seed(seed)
        result = []
        for strength in eps:
            attack = torchattacks.PGD(model, eps=strength, alpha=2.5 * strength / steps, steps=steps)
            parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
            result.append(accuracy(model, torch.cat([attack(*part) for part in parts]), y))
        return result

    return run


def one_pass(model: nn.Module, images: Images, precision: str) -> Contender:
    """All strengths in one pass."""

    def run(seed: int) -> Accuracies:
        generator = torch.Generator(device=images.y.device).manual_seed(seed)
        attack = PGD(steps=STEPS)
        curve = robust_curve(model, images, attack, EPS, generator=generator, precision=precision)  # type: ignore
        return [100 * (1 - error) for error in curve.error]

    return run


def one_by_one(model: nn.Module, images: Images, batch_size: int, keep_going: bool) -> Contender:
    """Our PGD, one attack per strength on all images, with or without early drop."""
    x, y = images.floats(), images.y

    def run(seed: int) -> Accuracies:
        generator = torch.Generator(device=y.device).manual_seed(seed)
        result = []
        for strength in EPS:
            threat = Threat(eps=Fraction(strength))
            parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
            found = [PGD(steps=STEPS).perturb(model, *p, threat, generator, keep_going=keep_going) for p in parts]
            result.append(accuracy(model, torch.cat(found), y))
        return result

    return run


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of a piece of work, with the device's part of it."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    began = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - began


def best_batch(model: nn.Module, images: Images) -> int:
    """Batch size at which torchattacks is fastest here."""
    sample = images.take(slice(min(len(images), 2000)))
    sizes = [size for size in (50, 100, 250, 500, 1000, 2000) if size <= len(sample)] or [len(sample)]
    runs = {size: torchattacks_pgd(model, sample, size, EPS[:1], steps=2) for size in sizes}
    return min(sizes, key=lambda size: min(seconds(lambda: runs[size](0)) for _ in range(3)))


def step_times(model: nn.Module, images: Images, batch_size: int) -> dict[str, float]:
    """Milliseconds of one gradient of a batch: the model itself and its fast copies."""
    x, y = images.floats(slice(batch_size)), images.y[:batch_size]
    frozen = for_attack(model, x)
    choices = {"model": model, "folded, channels-last": frozen, "… in bf16": for_attack(model, x, "bf16")}
    times: dict[str, list[float]] = {name: [] for name in choices}
    for _ in range(10):
        for name, choice in choices.items():
            times[name].append(1000 * seconds(lambda c=choice: PGD().ascend(c, x, y, None)))  # type: ignore[misc]
    return {name: statistics.median(values[2:]) for name, values in times.items()}


def compare(contenders: dict[str, Contender], repeats: int) -> dict[str, tuple[float, Accuracies]]:
    """Median seconds and mean accuracies of each contender; they take turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    results: dict[str, list[Accuracies]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        for name, contender in contenders.items():
            keep = results[name].append
            times[name].append(seconds(lambda c=contender, s=repeat, k=keep: k(c(s))))  # type: ignore[misc]
    means = {name: [statistics.mean(column) for column in zip(*rows, strict=True)] for name, rows in results.items()}
    return {name: (statistics.median(times[name]), means[name]) for name in contenders}


def report(results: dict[str, tuple[float, Accuracies]], peer: str, ours: str) -> bool:
    """Print the table; whether ours is fast and strong enough."""
    slow, theirs = results[peer]
    print(f"\n{'PGD-20, L∞':34}{'seconds':>9}{'ratio':>7}   robust accuracy % at ε " + " ".join(map(str, EPS)))
    for name, (taken, accuracies) in results.items():
        figures = "  ".join(f"{a:5.1f}" for a in accuracies)
        print(f"{name:34}{taken:9.2f}{slow / taken:7.1f}   {figures}")
    ratio = slow / results[ours][0]
    points = max(a - b for a, b in zip(results[ours][1], theirs, strict=True))
    good = ratio >= WANTED_SPEED and points <= ALLOWED_POINTS
    print(
        f"\ncurve against torchattacks: {ratio:.1f} times as fast (wanted {WANTED_SPEED:g}), robust accuracy at most "
        f"{points:+.2f} points of theirs (allowed +{ALLOWED_POINTS:g}): {'ok' if good else 'NOT REACHED'}"
    )
    return good


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """Command line."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=5000 if cuda else 500, help="test images attacked")
    parser.add_argument("--repeats", type=int, default=3, help="turns each contender takes")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads, of both")
    parser.add_argument("--parts", action="store_true", help="also show what each trick is worth")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the comparison."""
    options = arguments(argv)
    torch.set_num_threads(options.threads)
    cuda = options.device.startswith("cuda")
    shared = Path(__file__).parents[2].parent / "shared" / "data"
    root = None if os.environ.get("EVO_ROBUST_DATA") or not shared.is_dir() else str(shared)
    data = CIFAR10(root=root, train_limit=50_000 if cuda else 12_500, test_limit=options.images)
    splits = data.load().to(options.device)
    model = trained_network(splits, width=32 if cuda else 16, epochs=20 if cuda else 10, device=options.device)
    images = splits.test
    name = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    print(f"{name}, torch {torch.__version__}, {len(images)} images, ", end="")
    print(f"clean accuracy {accuracy(model, images.floats(), images.y):.1f} %, median of {options.repeats} turns")
    batch_size = best_batch(model, images)
    peer, ours = f"torchattacks, batches of {batch_size}", "curve, float32"
    contenders = {peer: torchattacks_pgd(model, images, batch_size), ours: one_pass(model, images, "float32")}
    contenders["curve, bf16"] = one_pass(model, images, "bf16")
    if options.parts:
        contenders["our PGD, one by one"] = one_by_one(model, images, batch_size, keep_going=True)
        contenders["our PGD, one by one, early drop"] = one_by_one(model, images, batch_size, keep_going=False)
        size = min(128, len(images))
        for label, milliseconds in step_times(model, images, size).items():
            print(f"gradient of {size} images, {label}: {milliseconds:.1f} ms")
    warm_up = images.take(slice(64))
    torchattacks_pgd(model, warm_up, 64)(0), one_pass(model, warm_up, "float32")(0)
    return 0 if report(compare(contenders, options.repeats), peer, ours) else 1


if __name__ == "__main__":
    sys.exit(main())
