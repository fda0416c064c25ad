"""Level attacks on LeNet, CIFAR-10, side by side with the Adversarial Robustness Toolbox: speed and success in one run.

Needs the extra ``bench`` and CIFAR-10 (``EVO_ROBUST_DATA``, else ``../shared/data``). Usage:

    python tests/benchmarks/bench_level.py [--images 40] [--threads 2] [--only CMAES-l0]

Both attack the same correctly classified images with the same population and number of generations; successes of both
are counted by classifying the returned images, rounded to grey steps, once more. We attack every image with several
seeds, so that forward passes are as full as in the making of a set. The toolbox gets the network with a softmax, so
that both minimise the true class's probability. Some of its attacks take minutes per image: those run on fewer images
and for fewer generations, on both sides. Exit status 1 when we are not 20 times as fast with CMA-ES, not twice as fast
with DE, or succeed less often.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import chz
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evo_robust import zoo
from evo_robust.attacks.level.attack import CMAES, DE, QueryAttack
from evo_robust.data.images import Images
from evo_robust.data.sets import CIFAR10
from evo_robust.files import cache_folder
from evo_robust.inference.predictions import correct_mask
from evo_robust.parts.base import digest
from evo_robust.training.loop import train
from evo_robust.training.recipes import Standard

WANTED_SPEED = {"CMAES": 20.0, "DE": 2.0}
EPOCHS = 8


@dataclasses.dataclass(frozen=True)
class Case:
    """One comparison: our attack, and on how many images the toolbox can be waited for.

    ``toolbox_pop_size`` is what its rule gives: 4 + ⌊3 ln d⌋, and max(1, ⌊400/d⌋) · d for DE.
    """

    attack: QueryAttack
    toolbox_pop_size: int
    images: int
    seeds: int

    @property
    def name(self) -> str:
        """Optimiser, norm and level."""
        return f"{type(self.attack).__name__}-{self.attack.norm} level {self.attack.level}"


def cases(images: int) -> list[Case]:
    """What is compared; slow attacks of the toolbox on few images."""
    few = max(2, images // 20)
    return [
        *(Case(CMAES(norm="l0", level=k), 4 + p, images, 8) for k, p in ((1, 4), (3, 8), (5, 9), (10, 11))),
        *(Case(CMAES(norm="linf", level=k, max_iter=60), 28, few, 16) for k in (10,)),
        *(Case(DE(norm="l0", level=k), 400, max(4, images // 4), 2) for k in (1, 5)),
        *(Case(DE(norm="linf", level=k, max_iter=4), 3072, few, 2) for k in (10,)),
    ]


def trained_lenet(images: Images) -> nn.Module:
    """LeNet after some epochs of plain training, from the cache folder where it is there."""
    recipe = Standard(lr=0.05)
    key = digest(recipe, [EPOCHS, len(images)])
    path = cache_folder() / "benchmarks" / f"level-{key}.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = zoo.build("lenet", 10, (3, 32, 32))
    if not path.exists():
        print(f"training LeNet ({len(images)} images, {EPOCHS} epochs) …", flush=True)
        train(model, images, recipe, EPOCHS, seed=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)
    model.load_state_dict(load_file(path))
    return model.eval()


def fooled(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    """Which images, rounded to grey steps, are misclassified."""
    with torch.no_grad():
        return model((x_adv * 255).round() / 255).argmax(1) != y


def timed(run: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds and result."""
    began = time.perf_counter()
    result = run()
    return time.perf_counter() - began, result


def toolbox(model: nn.Module, case: Case, images: Images) -> Callable[[], Tensor]:
    """The toolbox's attack with the same budget; ``es`` 0 is CMA-ES, 1 is DE."""
    from art.attacks.evasion import PixelAttack, ThresholdAttack  # type: ignore[import-untyped]
    from art.estimators.classification import PyTorchClassifier  # type: ignore[import-untyped]

    network = nn.Sequential(model, nn.Softmax(1))
    classifier = PyTorchClassifier(
        network, nn.CrossEntropyLoss(), (3, 32, 32), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )
    kind = PixelAttack if case.attack.norm == "l0" else ThresholdAttack
    attack = kind(
        classifier,
        th=case.attack.level,
        es=int(isinstance(case.attack, DE)),
        max_iter=case.attack.max_iter,
        verbose=False,
    )
    x, y = images.floats().contiguous().numpy(), images.y.numpy()
    return lambda: torch.from_numpy(attack.generate(x, y))


def ours(model: nn.Module, case: Case, images: Images) -> Callable[[], Tensor]:
    """Our attack on every image ``seeds`` times; DE gets the generation that the toolbox does not count."""
    extra = int(isinstance(case.attack, DE))
    attack = chz.replace(case.attack, pop_size=case.toolbox_pop_size, max_iter=case.attack.max_iter + extra)
    x, y = images.floats().repeat(case.seeds, 1, 1, 1), images.y.repeat(case.seeds)
    return lambda: attack.perturb_levels(model, x, y, torch.Generator().manual_seed(0)).x_adv


def compare(model: nn.Module, case: Case, images: Images) -> bool:
    """Print one line; whether it is good enough."""
    images = images.take(torch.arange(case.images))
    our_seconds, x_adv = timed(ours(model, case, images))
    our_rate = fooled(model, x_adv, images.y.repeat(case.seeds)).double().mean().item()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the toolbox hands cma arrays where it wants numbers
        their_seconds, x_adv = timed(toolbox(model, case, images))
    their_rate = fooled(model, x_adv, images.y).double().mean().item()
    our_speed, their_speed = case.images * case.seeds / our_seconds, case.images / their_seconds
    ratio = our_speed / their_speed
    good = ratio >= WANTED_SPEED[type(case.attack).__name__] and our_rate >= their_rate
    print(
        f"{case.name:<20}{case.images:>7}{case.attack.max_iter:>12}{their_speed:>10.3f}{our_speed:>10.2f}{ratio:>9.1f}"
        f"{100 * their_rate:>12.1f}{100 * our_rate:>9.1f}  {'ok' if good else 'MISSED'}",
        flush=True,
    )
    return good


def main() -> int:
    """Compare all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40, help="correctly classified test images (default 40)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of torch")
    parser.add_argument("--only", default="", help="part of a case's name, such as CMAES-l0 or DE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shared = Path("../shared/data")
    root = None if os.environ.get("EVO_ROBUST_DATA") or not shared.exists() else str(shared)
    splits = CIFAR10(root=root).load()
    model = trained_lenet(splits.train)
    some = splits.test.take(torch.arange(10 * args.images))
    right = correct_mask(model, some)
    images = some.take(right.nonzero().squeeze(1)[: args.images])
    print(f"LeNet, {100 * right.double().mean():.1f}% correct; {args.threads} threads of {os.cpu_count()} cores")
    print(
        f"{'attack':<20}{'images':>7}{'generations':>12}{'ART img/s':>10}{'our img/s':>10}{'ratio':>9}"
        f"{'ART success':>12}{'our %':>9}"
    )
    chosen = [case for case in cases(args.images) if args.only in case.name]
    return 0 if all([compare(model, case, images) for case in chosen]) else 1


if __name__ == "__main__":
    sys.exit(main())
