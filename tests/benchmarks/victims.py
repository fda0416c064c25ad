"""Trained networks that several benchmarks attack: trained once, then read from the cache folder."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import torch
from bench_curve import network as plain_convolutions
from safetensors.torch import load_file, save_file
from torch import nn

from evo_robust import zoo
from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import PGD
from evo_robust.data.base import DataSet
from evo_robust.data.images import Images
from evo_robust.data.sets import CIFAR10, MNIST, Digits
from evo_robust.files import cache_folder
from evo_robust.parts.base import Fraction, UserError, digest
from evo_robust.training.loop import train
from evo_robust.training.recipes import FastTraining, PGDTraining, Recipe

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@dataclasses.dataclass(frozen=True)
class Victim:
    """How a network is made.

    Attributes:
        network: ``conv`` (the plain network of ``bench_curve.py``), or a name of the zoo.
        width: of the network.
        data: its data set.
        recipe: how it is trained.
        epochs: how long.
        eps: strengths that its images are attacked at, ascending.
    """

    network: str
    width: float
    data: DataSet
    recipe: Recipe
    epochs: int
    eps: tuple[float, ...]

    def build(self) -> nn.Module:
        """The network, untrained; always the same weights."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if self.network == "conv":
                return plain_convolutions(int(self.width))
            return zoo.build(self.network, 10, self.data.in_shape, width=self.width)


def _fast(eps: float, lr: float = 0.1) -> Recipe:
    return FastTraining(lr=lr, batch_size=128, threat=Threat(eps=Fraction(eps)))


def victims(test_images: int = 1000) -> dict[str, Victim]:
    """All of them by name, with this many test images (digits have 360)."""
    root = None if os.environ.get("EVO_ROBUST_DATA") or not SHARED.is_dir() else str(SHARED)
    digits = Digits()
    mnist = MNIST(root=root, train_limit=10_000, test_limit=test_images)
    cifar = CIFAR10(root=root, train_limit=25_000, test_limit=test_images)
    pgd = PGDTraining(lr=0.1, batch_size=64, threat=Threat(eps=Fraction(0.1)), attack=PGD(steps=5))
    return {
        "digits-resnet": Victim("resnet", 0.5, digits, pgd, 15, (0.1, 0.2, 0.3)),
        "digits-lenet": Victim("lenet", 1.0, digits, pgd, 30, (0.05, 0.1, 0.15)),
        "mnist-lenet": Victim("lenet", 1.0, mnist, _fast(0.15, 0.05), 8, (0.1, 0.15, 0.2)),
        "cifar-lenet": Victim("lenet", 1.0, cifar, _fast(4 / 255, 0.05), 15, (2 / 255, 4 / 255, 8 / 255)),
        "cifar-conv": Victim("conv", 16, cifar, _fast(8 / 255), 12, (2 / 255, 4 / 255, 8 / 255)),
    }


def trained(name: str, test_images: int = 1000) -> tuple[nn.Module, Images, Victim]:
    """The network in eval mode, its test images, and how it was made.

    Raises:
        UserError: its data are not on this machine.
    """
    victim = victims(test_images)[name]
    path = cache_folder() / "benchmarks" / f"{name}-{digest(victim.recipe, [victim.width, victim.epochs])}.safetensors"
    splits = victim.data.load()
    model = victim.build()
    if not path.exists():
        print(f"training {name} ({len(splits.train)} images, {victim.epochs} epochs) …", flush=True)
        train(model, splits.train, victim.recipe, victim.epochs, seed=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    model.load_state_dict(load_file(path))
    return model.to(memory_format=torch.contiguous_format).eval(), splits.test, victim


def at_hand(names: list[str]) -> list[str]:
    """Those whose data are on this machine; says which are left out."""
    found = []
    for name in names:
        try:
            victims(10)[name].data.load()
        except (UserError, OSError) as error:
            print(f"left out: {name}, since its data are not here ({str(error).splitlines()[0]})")
        else:
            found.append(name)
    return found
