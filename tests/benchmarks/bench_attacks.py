"""PGD-20, APGD-CE and APGD-T against torchattacks, foolbox, adv-lib and ART: strength and speed in one run.

CIFAR-10 and MNIST come from ``EVO_ROBUST_DATA``, else ``../shared/data``; without them only the digits are attacked.
Libraries that are not installed are left out, and named. Usage:

    python tests/benchmarks/bench_attacks.py [--images 1000] [--steps 50] [--only cifar-lenet] [--repeats 1]

All attack the same network, images and strengths, in turns, on one thread. PGD goes through three strengths, with steps
of 2.5·ε/20. APGD runs at the largest of them. APGD-T of the libraries aims at nine classes, ours at the four nearest.
Seconds are of the processor (``time.process_time``), so that other work on the machine does not count. A library gets
all images, in batches of 128, and answers with adversarial images.

Differences of robust accuracy are paired: interval of Agresti & Min (2005), 95%. Exit status 1 where ours is weaker
beyond it, or less than 3 times as fast as the fastest library below 35% of robust accuracy or at three strengths, less
than 1.5 times else.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from victims import at_hand, trained

from evo_robust.attacks.auto import APGD
from evo_robust.attacks.curve import robust_curve
from evo_robust.attacks.gradient import PGD, GradientAttack
from evo_robust.data.images import Images

NETWORKS = ("digits-lenet", "digits-resnet", "cifar-lenet", "mnist-lenet", "cifar-conv")
PEERS = {"torchattacks": "torchattacks", "foolbox": "foolbox", "adv-lib": "adv_lib", "ART": "art"}
"""Names of libraries, and of their packages."""

BATCH = 128
PGD_STEPS = 20

Attacker = Callable[[Tensor, Tensor, float], Tensor]
"""Adversarial images from images, classes and ε."""


def torchattacks_(model: nn.Module, steps: int) -> dict[str, Attacker]:
    """Its three attacks."""
    import torchattacks

    return {
        "PGD": lambda x, y, eps: torchattacks.PGD(model, eps=eps, alpha=2.5 * eps / PGD_STEPS, steps=PGD_STEPS)(x, y),
        "APGD-CE": lambda x, y, eps: torchattacks.APGD(model, eps=eps, steps=steps, loss="ce")(x, y),
        "APGD-T": lambda x, y, eps: torchattacks.APGDT(model, eps=eps, steps=steps, n_classes=10)(x, y),
    }


def foolbox_(model: nn.Module, steps: int) -> dict[str, Attacker]:
    """Its PGD; it has no APGD."""
    import foolbox  # type: ignore[import-untyped]

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    pgd = foolbox.attacks.LinfPGD(rel_stepsize=2.5 / PGD_STEPS, steps=PGD_STEPS)
    return {"PGD": lambda x, y, eps: pgd(wrapped, x, y, epsilons=eps)[1]}


def adv_lib_(model: nn.Module, steps: int) -> dict[str, Attacker]:
    """Its three attacks."""
    from adv_lib.attacks import apgd, apgd_targeted, pgd_linf  # type: ignore[import-not-found]

    most = float("inf")
    return {
        "PGD": lambda x, y, eps: pgd_linf(model, x, y, eps, steps=PGD_STEPS, absolute_step_size=2.5 * eps / PGD_STEPS),
        "APGD-CE": lambda x, y, eps: apgd(model, x, y, eps, most, n_iter=steps, loss_function="ce"),
        "APGD-T": lambda x, y, eps: apgd_targeted(model, x, y, eps, most, n_iter=steps),
    }


def art_(model: nn.Module, steps: int) -> dict[str, Attacker]:
    """Its PGD and APGD-CE; its APGD aims at no class in turn."""
    from art.attacks.evasion import (  # type: ignore[import-untyped]
        AutoProjectedGradientDescent,
        ProjectedGradientDescentPyTorch,
    )
    from art.estimators.classification import PyTorchClassifier  # type: ignore[import-untyped]

    def classifier(x: Tensor) -> Any:
        shape = tuple(x.shape[1:])
        return PyTorchClassifier(model, nn.CrossEntropyLoss(), shape, 10, clip_values=(0.0, 1.0), device_type="cpu")

    def run(attack: Any, x: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))

    def pgd(x: Tensor, y: Tensor, eps: float) -> Tensor:
        attack = ProjectedGradientDescentPyTorch(
            classifier(x), eps=eps, eps_step=2.5 * eps / PGD_STEPS, max_iter=PGD_STEPS, num_random_init=1,
            batch_size=BATCH, verbose=False,
        )  # fmt: skip
        return run(attack, x, y)

    def apgd(x: Tensor, y: Tensor, eps: float) -> Tensor:
        attack = AutoProjectedGradientDescent(
            classifier(x), eps=eps, eps_step=2 * eps, max_iter=steps, nb_random_init=1, batch_size=BATCH, verbose=False,
        )  # fmt: skip
        return run(attack, x, y)

    return {"PGD": pgd, "APGD-CE": apgd}


def peers(model: nn.Module, steps: int) -> dict[str, dict[str, Attacker]]:
    """Attacks of the libraries that are installed."""
    make = {"torchattacks": torchattacks_, "foolbox": foolbox_, "adv-lib": adv_lib_, "ART": art_}
    return {name: make[name](model, steps) for name in PEERS if importlib.util.find_spec(PEERS[name])}


def right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Which images are classified correctly."""
    with torch.no_grad():
        return torch.cat([model(part) for part in x.split(500)]).argmax(1) == y


def theirs(model: nn.Module, images: Images, eps: tuple[float, ...], attack: Attacker) -> tuple[Tensor, float]:
    """Which images survive at each strength ``(k, n)``, and seconds."""
    x, y = images.floats().contiguous(), images.y
    began, found = time.process_time(), []
    for strength in eps:
        parts = zip(x.split(BATCH), y.split(BATCH), strict=True)
        found.append(torch.cat([attack(a.clone(), b.clone(), strength).detach() for a, b in parts]))
    masks = torch.stack([right(model, adversarial, y) for adversarial in found])
    seconds = time.process_time() - began
    for adversarial, strength in zip(found, eps, strict=True):
        if (adversarial - x).abs().max() > strength * 1.001 + 1e-5:
            raise RuntimeError(f"expected adversarial images within {strength:g}, got some outside")
    return masks, seconds


def ours(model: nn.Module, images: Images, eps: tuple[float, ...], attack: GradientAttack) -> tuple[Tensor, float]:
    """The same of one call of the curve."""
    began = time.process_time()
    curve = robust_curve(model, images, attack, eps, generator=torch.Generator().manual_seed(0))
    masks = torch.stack([curve.level > k for k in range(len(eps))])
    return masks, time.process_time() - began


def paired(one: Tensor, other: Tensor) -> tuple[float, float, float]:
    """Robust accuracy of ``one`` minus that of ``other``, and its 95% interval, in points (Agresti & Min, 2005)."""
    n, more, less = len(one), int((one & ~other).sum()), int((other & ~one).sum())
    middle = (more - less) / (n + 2)
    half = 1.96 * math.sqrt((more + less + 1) - (more - less) ** 2 / (n + 2)) / (n + 2)
    return 100 * (more - less) / n, 100 * (middle - half), 100 * (middle + half)


def compare(
    kind: str, attack: GradientAttack, model: nn.Module, images: Images, eps: tuple[float, ...],
    others: dict[str, Attacker], repeats: int,
) -> bool:  # fmt: skip
    """Print one attack's table; whether ours is strong and fast enough."""
    runs = {"ours": functools.partial(ours, attack=attack)}
    runs |= {name: functools.partial(theirs, attack=other) for name, other in others.items()}
    masks: dict[str, Tensor] = {}
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        for name in runs:
            run = (
                functools.partial(ours, attack=attack)
                if name == "ours"
                else functools.partial(theirs, attack=others[name])
            )
            masks[name], taken = run(model, images, eps)
            times.setdefault(name, []).append(taken)
    seconds = {name: statistics.median(values) for name, values in times.items()}
    mine, strong = masks["ours"], True
    robust = 100 * mine[-1].double().mean().item()
    print(f"  {kind} at {', '.join(f'{e:.4g}' for e in eps)}")
    for name, mask in masks.items():
        accuracy = " ".join(f"{100 * row.double().mean():5.1f}" for row in mask)
        text = f"    {name:14} robust % {accuracy}   {seconds[name]:8.2f} s  {seconds[name] / seconds['ours']:5.1f}"
        if name != "ours":
            gaps = [paired(a, b) for a, b in zip(mine, mask, strict=True)]
            strong &= all(low <= 0 for _, low, _ in gaps)
            text += "   ours - theirs " + ", ".join(f"{d:+.1f} [{low:+.1f}, {high:+.1f}]" for d, low, high in gaps)
        print(text, flush=True)
    if not others:
        return True
    ratio = min(seconds[name] for name in others) / seconds["ours"]
    wanted = 3.0 if robust < 35 or len(eps) >= 3 else 1.5
    good = strong and ratio >= wanted
    verdict = "ok" if good else "MISSED" + ("" if strong else ": weaker")
    print(f"    {ratio:.1f} times as fast as the fastest library (wanted {wanted:g}): {verdict}", flush=True)
    return good


def main() -> int:
    """Compare on all networks at hand."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="test images (digits have 360)")
    parser.add_argument("--steps", type=int, default=50, help="steps of APGD, of all")
    parser.add_argument("--only", default="", help="part of a network's name")
    parser.add_argument("--kinds", default="PGD,APGD-CE,APGD-T", help="attacks, with commas")
    parser.add_argument("--repeats", type=int, default=1, help="turns each takes; medians are shown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, package in PEERS.items():
        if importlib.util.find_spec(package) is None:
            print(f"left out: {name}, which is not installed")
    good = True
    for name in at_hand([name for name in NETWORKS if options.only in name]):
        model, images, victim = trained(name, options.images)
        model.requires_grad_(False)
        accuracy = right(model, images.floats(), images.y).double().mean()
        print(f"\n{name}: {len(images)} test images, clean accuracy {100 * accuracy:.1f}%", flush=True)
        targeted = APGD(steps=options.steps, loss="targeted-dlr", restarts=4)  # as attacks=apgd-t of the judge
        ours_ = {"PGD": PGD(steps=PGD_STEPS), "APGD-CE": APGD(steps=options.steps), "APGD-T": targeted}
        found = peers(model, options.steps)
        for kind in options.kinds.split(","):
            others = {peer: attacks[kind] for peer, attacks in found.items() if kind in attacks}
            eps = victim.eps if kind == "PGD" else victim.eps[-1:]
            good &= compare(kind, ours_[kind], model, images, eps, others, options.repeats)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
