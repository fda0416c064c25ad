"""The papers' own recipes for training a found network, by name: ``retrain recipe=robnet``."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import chz

from evo_robust.attacks.base import Threat
from evo_robust.attacks.gradient import PGD
from evo_robust.data.base import DataSet
from evo_robust.data.images import Augment
from evo_robust.data.sets import CIFAR10, MNIST
from evo_robust.parts.base import Fraction
from evo_robust.parts.layers import under
from evo_robust.training.recipes import (
    SPECTRUM,
    TRADES,
    FastTraining,
    MultiStrengthTraining,
    PGDTraining,
    Recipe,
    Standard,
)

_EPS, _STEP = Fraction(8 / 255), Fraction(2 / 255)
_MNIST_EPS, _MNIST_STEP = Fraction(76.5 / 255), Fraction(20 / 255)
_WSR_EPS = tuple(map(Fraction, (0.03, 0.10, 0.17, 0.25)))
_WSR: dict[str, Any] = {"lr": 0.1, "schedule": "step", "milestones": (100, 150), "batch_size": 64}
_WSR_THREAT = Threat(eps=Fraction(0.031))
_RACL: dict[str, Any] = {"lr": 0.1, "batch_size": 128}


@dataclasses.dataclass(frozen=True)
class Published:
    """How a paper trains and attacks its networks.

    Attributes:
        paper: the paper.
        words: the training and the attack in a sentence.
        chosen: what the paper does not say, and we chose; empty where it says everything.
        recipe: loss, attack, optimiser.
        epochs: passes over the training images.
        attack: attack of the robustness curve.
        eps: its strengths, in units of the pixel range 0..1.
        scales: whether the learning rates grow with the batch.
        network: the networks that the paper trains, where their size is a part of the recipe; else empty.
    """

    paper: str
    words: str
    chosen: str
    recipe: Recipe
    epochs: int
    attack: PGD
    eps: tuple[Fraction, ...]
    scales: bool = False
    network: str = ""

    def told(self, name: str, trained: str = "", given: Sequence[str] = ()) -> str:
        """The recipe in words, which of its figures are no figures of the paper, and what is different here.

        Args:
            name: of the recipe.
            trained: the network that is trained, in words; empty where none is yet.
            given: what was given beside the recipe, such as ``epochs=3``, and goes over it.
        """
        chosen = f" Chosen here, since the paper does not say: {self.chosen}." if self.chosen else ""
        network = f" The paper trains {self.network}" if self.network else ""
        if network:
            network += f"; here it is {trained}." if trained and trained != self.network else "."
        beside = f" Given beside it: {', '.join(given)}." if given else ""
        return f"recipe={name} ({self.paper}): {self.words}.{network}{chosen}{beside}"


PUBLISHED = {
    "robnet": Published(
        paper="RobNet, CVPR 2020",
        words="PGD-7 at 8/255, step 2/255; SGD, 20 epochs of warm-up from .02 to 1.2, cosine to .001, batch 1536 (the "
        "rates grow with the batch), weight decay 1e-4 without biases and batch norm, 170 epochs; cutout 16 for "
        "robnet-large; judged by PGD-20, step 2/255",
        chosen="",
        recipe=PGDTraining(
            attack=PGD(steps=7, step=_STEP),
            threat=Threat(eps=_EPS),
            lr=1.2,
            lr_end=0.001,
            warmup=20,
            warmup_from=0.02,
            weight_decay=1e-4,
            decay_bn=False,
            batch_size=1536,
            clip=None,
        ),
        epochs=170,
        attack=PGD(steps=20, step=_STEP),
        eps=(_EPS,),
        scales=True,
    ),
    "racl": Published(
        paper="RACL, 2020",
        words="PGD-7 at 8/255, step 2/255 (on MNIST at 76.5/255, step 20/255); judged by PGD-20 with these steps",
        chosen="SGD as in its search (.1, momentum .9, weight decay 3e-4, batch 128), cosine to 0, clip 5, 120 epochs",
        recipe=PGDTraining(attack=PGD(steps=7, step=_STEP), threat=Threat(eps=_EPS), **_RACL),
        epochs=120,
        attack=PGD(steps=20, step=_STEP),
        eps=(_EPS,),
    ),
    "racl-standard": Published(
        paper="RACL, 2020, right half of Table 1",
        words="standard training; judged by PGD-10 at 8/255, step eps/10 (on MNIST at 76.5/255)",
        chosen="SGD as in its search (.1, momentum .9, weight decay 3e-4, batch 128), cosine to 0, clip 5, 120 epochs",
        recipe=Standard(**_RACL),
        epochs=120,
        attack=PGD(steps=10, step=Fraction(_EPS / 10)),
        eps=(_EPS,),
    ),
    "wsr": Published(
        paper="Wsr-NAS, AAAI 2023",
        words="PGD-7 at .031, step 2.5·eps/7; SGD .1, a tenth at epochs 100 and 150, momentum .9, clip 5; judged by "
        "PGD-20 at .03, .10, .17, .25, step 2.5·eps/20",
        chosen="200 epochs; batch 64 and weight decay 3e-4, as in its search",
        recipe=PGDTraining(attack=PGD(steps=7), threat=_WSR_THREAT, **_WSR),
        epochs=200,
        attack=PGD(steps=20),
        eps=_WSR_EPS,
    ),
    "wsr-trades": Published(
        paper="Wsr-NAS, AAAI 2023",
        words="TRADES with beta 1 (6 is its other figure); the rest as recipe=wsr",
        chosen="200 epochs; batch 64 and weight decay 3e-4, as in its search; the attack's start .001·N(0,1) and its "
        "eval mode, as in TRADES' official code",
        recipe=TRADES(
            beta=1.0,
            attack=PGD(steps=7, loss="kl"),
            threat=_WSR_THREAT,
            attack_mode="eval",
            start_noise=0.001,
            **_WSR,
        ),
        epochs=200,
        attack=PGD(steps=20),
        eps=_WSR_EPS,
    ),
    "wsr-multi": Published(
        paper="Wsr-NAS, AAAI 2023, its comparison with multi-strength training",
        words="PGD-7 at six strengths from .03 to .105 in one batch of 64 images; rates and judgement as recipe=wsr",
        chosen="200 epochs; weight decay 3e-4, as in its search",
        recipe=MultiStrengthTraining(attack=PGD(steps=7), eps=SPECTRUM, **_WSR),
        epochs=200,
        attack=PGD(steps=20),
        eps=_WSR_EPS,
    ),
    "wsr-fast": Published(
        paper="Wsr-NAS, AAAI 2023, ImageNet",
        words="fast adversarial training, eps = step = 4/255; judged by PGD-20 at .015 to .09, step 2.5·eps/20",
        chosen="SGD .1, momentum .9, weight decay 1e-4, batch 256, cosine to 0, 90 epochs",
        recipe=FastTraining(
            step_ratio=1.0, threat=Threat(eps=Fraction(4 / 255)), lr=0.1, weight_decay=1e-4, batch_size=256
        ),
        epochs=90,
        attack=PGD(steps=20),
        eps=tuple(map(Fraction, (0.015, 0.03, 0.045, 0.06, 0.075, 0.09))),
    ),
    "roco": Published(
        paper="RoCo-NAS, IJCNN 2021",
        words="standard training; SGD .025, cosine, momentum .9, weight decay 3e-4, clip 5, batch 128, 120 epochs; "
        "judged by PGD at 1/255",
        network="the residual network with 32 channels",
        chosen="20 steps of PGD",
        recipe=Standard(lr=0.025, weight_decay=3e-4, batch_size=128, clip=5.0),
        epochs=120,
        attack=PGD(steps=20),
        eps=(Fraction(1 / 255),),
    ),
}
"""The papers' recipes by name."""


def recipe_of(network: str, data: str = "") -> str | None:
    """Name of the recipe with which a published network's own paper trains it; None where it is none of these papers.

    Args:
        network: its name in the zoo.
        data: name of the data set; Wsr-NAS trains fast on ImageNet.

    Example:
        >>> recipe_of("robnet-small"), recipe_of("wsr-plus"), recipe_of("wsr-plus", "imagenet"), recipe_of("resnet-18")
        ('robnet', 'wsr', 'wsr-fast', None)
    """
    family = network.lower().partition("-")[0]
    if family == "wsr" and data.lower() == "imagenet":
        return "wsr-fast"
    return family if family in ("robnet", "racl", "wsr", "roco") else None


def values_of(name: str, data: type[DataSet] | None, network: str | None, given: Mapping[str, str]) -> dict[str, Any]:
    """Values of a :class:`Retraining` by dotted key, as the paper called ``name`` in ``PUBLISHED`` has them.

    Args:
        name: of the recipe.
        data: class of the data set, which decides strengths and augmentation; None where it is not known.
        network: name of a reference network, which decides about cutout.
        given: keys that the user gave. With another batch, rates that grow with it are scaled. With other epochs,
            milestones keep their share of the training: else a short one would never reach them.
    """
    found = PUBLISHED[name]
    recipe, attack, eps = found.recipe, found.attack, found.eps
    if name.startswith("racl") and data is not None and issubclass(data, MNIST):
        recipe, attack, eps = _on_mnist(recipe, attack)
    large = name == "robnet" and (network or "").startswith("robnet-large")
    if large and data is not None and issubclass(data, CIFAR10):  # 16 pixels would cover smaller images
        recipe = chz.replace(recipe, augment=Augment(cutout=16))
    batch = given.get("recipe.batch_size", "")
    if found.scales and batch.isdecimal() and int(batch) > 0:
        recipe = _scaled(recipe, int(batch))
    epochs = given.get("epochs", "")
    if recipe.milestones and epochs.isdecimal() and int(epochs) > 0 and "recipe.milestones" not in given:
        recipe = chz.replace(recipe, milestones=_moved(recipe.milestones, int(epochs) / found.epochs))
    return {**under("recipe", recipe), **under("attack", attack), "eps": eps, "epochs": found.epochs}


def _moved(milestones: tuple[int, ...], share: float) -> tuple[int, ...]:
    """The milestones of a training of another length; those that would fall together are one."""
    return tuple(sorted({max(1, round(milestone * share)) for milestone in milestones}))


def _on_mnist(recipe: Recipe, attack: PGD) -> tuple[Recipe, PGD, tuple[Fraction, ...]]:
    """RACL's training and judgement on MNIST."""
    if isinstance(recipe, PGDTraining):
        trained = chz.replace(recipe.attack, step=_MNIST_STEP)
        return (
            chz.replace(recipe, attack=trained, threat=Threat(eps=_MNIST_EPS)),
            chz.replace(attack, step=_MNIST_STEP),
            (_MNIST_EPS,),
        )
    return recipe, chz.replace(attack, step=Fraction(_MNIST_EPS / attack.steps)), (_MNIST_EPS,)


def _scaled(recipe: Recipe, batch: int) -> Recipe:
    """The same for another batch: all its rates in proportion."""
    factor = batch / recipe.batch_size
    first = None if recipe.warmup_from is None else recipe.warmup_from * factor
    return chz.replace(
        recipe, batch_size=batch, lr=recipe.lr * factor, lr_end=recipe.lr_end * factor, warmup_from=first
    )
