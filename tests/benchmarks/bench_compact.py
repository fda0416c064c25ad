"""The compact set against the official AutoAttack (``pyautoattack``): worst-case accuracy and time in one run.

Needs ``pyautoattack`` (extra ``judge``). CIFAR-10 and MNIST come from ``EVO_ROBUST_DATA``, else ``../shared/data``;
without them only the digits are attacked. Usage:

    python tests/benchmarks/bench_compact.py [--images 1000] [--only digits] [--attacks apgd+apgd-t]

``--attacks`` takes any worst case that ``evo_robust judge attacks=`` takes. One thread. Seconds are of the processor
(``time.process_time``), so that other work on the machine does not count. Exit status 1 where the worst-case accuracy
is more than .3 points above the official one, or takes more than a tenth of its time.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
import time
import warnings

import torch
from torch import Tensor, nn
from victims import at_hand, trained

from evo_robust.attacks.base import Attack
from evo_robust.attacks.curve import robust_curve
from evo_robust.data.images import Images
from evo_robust.inference.predictions import classes, correct_mask
from evo_robust.judging.trials import Trial, trials

NETWORKS = {"digits-lenet": 2, "digits-resnet": 1, "cifar-lenet": 2, "mnist-lenet": 2, "cifar-conv": 2}
"""Networks, and which of their strengths they are attacked at: robust accuracies from 15% to 60%."""

POINTS, SHARE = 0.3, 0.1


def compact(model: nn.Module, images: Images, trial: Trial) -> tuple[Tensor, float]:
    """Which images survive all attacks, and seconds."""
    began = time.process_time()
    level = correct_mask(model, images).long() - 1  # -1 where wrong without attack, else 0
    level = torch.where(level < 0, -1, 1)
    for attack in trial.attacks:
        assert isinstance(attack, Attack)
        generator = torch.Generator().manual_seed(0)
        level = robust_curve(model, images, attack, trial.eps, generator=generator, known=level).level
        name = f"  … after {attack.words}"
        print(f"{name:34}{100 * (level > 0).double().mean():8.2f}{time.process_time() - began:10.1f}", flush=True)
    return level > 0, time.process_time() - began


def official(model: nn.Module, images: Images, eps: float) -> tuple[Tensor, float]:
    """The same of the standard version of AutoAttack."""
    from pyautoattack.autoattack import AutoAttack  # type: ignore[import-not-found]

    logging.disable(logging.WARNING)
    began = time.process_time()
    attack = AutoAttack(model, norm="Linf", eps=eps, version="standard", seed=0, device="cpu")
    attack.verbose = False
    found = attack.run_standard_evaluation(images.floats().contiguous(), images.y, batch_size=250)
    adversarial = found[0] if isinstance(found, tuple) else found
    with torch.no_grad():
        return classes(model(adversarial)) == images.y, time.process_time() - began


def compare(name: str, count: int, attacks: str) -> bool:
    """Print one network's figures; whether the compact set is strong and cheap enough."""
    model, images, victim = trained(name, count)
    model.requires_grad_(False)
    eps = victim.eps[NETWORKS[name]]
    (trial,) = trials(attacks, (eps,), (), None, "linf")
    print(f"\n{name}, {len(images)} test images, ε {eps:.4g}")
    print(f"{'':34}{'robust %':>8}{'seconds':>10}")
    left, seconds = compact(model, images, trial)
    peer, theirs = official(model, images, eps)
    print(f"{'official AutoAttack':34}{100 * peer.double().mean():8.2f}{theirs:10.1f}")
    points = 100 * (left.double().mean() - peer.double().mean()).item()
    good = points <= POINTS + 1e-6 and seconds <= SHARE * theirs
    print(f"  {points:+.2f} points, {seconds / theirs:.3f} of its time: {'ok' if good else 'MISSED'}", flush=True)
    return good


def main() -> int:
    """Compare on all networks at hand."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=1000, help="test images (digits have 360)")
    parser.add_argument("--only", default="", help="part of a network's name")
    parser.add_argument("--attacks", default="compact", help="a worst case, such as apgd+apgd-t")
    options = parser.parse_args()
    if importlib.util.find_spec("pyautoattack") is None:
        print("nothing to compare with: pyautoattack is not installed (pip install 'evo-robust[judge]')")
        return 0
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    chosen = [name for name in NETWORKS if options.only in name]
    return 0 if all([compare(name, options.images, options.attacks) for name in at_hand(chosen)]) else 1


if __name__ == "__main__":
    sys.exit(main())
