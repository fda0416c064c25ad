"""Training recipes: the loss of a step, its attack, optimiser and schedule."""

from __future__ import annotations

import abc
import contextlib
import math
from typing import ClassVar, Literal

import chz
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from torch import Tensor, nn

from evo_robust.attacks.base import Norm, Threat, check_attack
from evo_robust.attacks.calls import checked
from evo_robust.attacks.curve import check_strengths
from evo_robust.attacks.gradient import PGD, GradientAttack
from evo_robust.attacks.losses import kl_divergence
from evo_robust.data.base import DataSet
from evo_robust.data.images import Augment
from evo_robust.inference.predictions import eval_mode
from evo_robust.parts.base import LATER, Fraction, Part, refuse_unless

SPECTRUM = tuple(Fraction(eps) for eps in (0.03, 0.045, 0.06, 0.075, 0.09, 0.105))
"""The six L∞ strengths of Wsr-NAS (Cheng et al., AAAI 2023), used by its search and by its training."""


@chz.chz
class Recipe(Part, abc.ABC):
    """How a network is trained: SGD with momentum on a loss that the subclass defines.

    The learning rate changes once per epoch, as in NSGA-Net: it rises linearly over the warm-up epochs, then follows
    the schedule.
    """

    adversarial: ClassVar[bool] = False
    """Whether the logits that ``loss`` returns are of adversarial images: its training error is then named so."""

    lr: float = chz.field(default=0.025, doc="highest learning rate, > 0")
    lr_end: float = chz.field(default=0.0, doc="learning rate at the end of the cosine, >= 0")
    schedule: Literal["cosine", "constant", "step", "cyclic"] = chz.field(
        default="cosine",
        doc="cosine from lr to lr_end; constant; step: a tenth after each milestone; or cyclic: up to lr in the first "
        "half and down again, as fast adversarial training does",
    )
    milestones: tuple[int, ...] = chz.field(default=(), doc="epochs after which the step schedule divides lr by 10")
    warmup: int = chz.field(default=0, doc="epochs of linear rise to lr, >= 0")
    warmup_from: float | None = chz.field(
        default=None,
        doc="learning rate at the start of the warm-up, in [0, lr]; RobNet: .02, for lr=1.2; Wsr-NAS: lr itself, so "
        "that nothing rises; lr/(warmup + 1) when not given",
    )
    momentum: float = chz.field(default=0.9, doc="momentum of SGD, in [0,1)")
    nesterov: bool = chz.field(default=False, doc="Nesterov's momentum")
    weight_decay: float = chz.field(default=3e-4, doc="L2 penalty, >= 0")
    decay_bn: bool = chz.field(default=True, doc="decay biases and batch norm's parameters too (RobNet does not)")
    batch_size: int = chz.field(default=128, doc="images per step, >= 2")
    clip: float | None = chz.field(default=5.0, doc="largest Euclidean length of the gradient, > 0; None for no limit")
    precision: Literal["float32", "bf16"] = chz.field(
        default="float32", doc="bf16: forward and backward in bfloat16, except for operations that need float32"
    )
    augment: Augment | None = chz.field(default=None, doc="random changes of images; the data set's own when not given")
    label_smoothing: float = chz.field(
        default=0.0,
        doc="share of a label that goes to all classes, in [0,1); the attack's loss has none",
        metadata=LATER,
    )
    ema: float | None = chz.field(
        default=None,
        doc="decay per step of a moving average of the weights, in (0,1), such as .999; the trained network gets the "
        "average. None: it gets the last weights",
        metadata=LATER,
    )

    @chz.validate
    def _ranges(self) -> None:
        refuse_unless(
            self,
            ("lr", 0 < self.lr < math.inf, "> 0 and finite"),
            ("lr_end", 0 <= self.lr_end <= self.lr, "in [0, lr]"),
            ("warmup", self.warmup >= 0, ">= 0"),
            ("warmup_from", self.warmup_from is None or 0 <= self.warmup_from <= self.lr, "in [0, lr]"),
            ("momentum", 0 <= self.momentum < 1, "in [0,1)"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, ">= 0 and finite"),
            ("batch_size", self.batch_size >= 2, ">= 2"),
            ("clip", self.clip is None or 0 < self.clip < math.inf, "> 0 and finite, or None for no limit"),
            ("milestones", list(self.milestones) == sorted({m for m in self.milestones if m > 0}), "ascending and > 0"),
            ("milestones", bool(self.milestones) == (self.schedule == "step"), "with schedule=step, and only there"),
            ("momentum", self.momentum > 0 or not self.nesterov, "> 0 with nesterov"),
            ("warmup", self.warmup == 0 or self.schedule != "cyclic", "0 with schedule=cyclic, which warms up itself"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0,1)"),
            ("ema", self.ema is None or 0 < self.ema < 1, "in (0,1), or None"),
        )

    @property
    def threats(self) -> tuple[Threat, ...]:
        """The balls in which it trains; a validation split is attacked in them. None for training without attacks."""
        return ()

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy of logits ``(n, n_classes)`` and classes ``(n,)``, with this recipe's smooth labels."""
        return F.cross_entropy(logits, y, label_smoothing=self.label_smoothing)

    @abc.abstractmethod
    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Mean loss (a scalar with a gradient) and the logits ``(n, n_classes)`` it was computed from.

        Args:
            model: network in train mode.
            x: images ``(n, c, h, w)`` in [0,1].
            y: classes ``(n,)``.
            generator: source of the attack's random numbers.

        Raises:
            ValueError: images, labels or the network's output are wrong (your own recipe need not check: ``train`` and
                attacks do).
        """

    def for_data(self, data: DataSet) -> Recipe:
        """This recipe; where it has no augmentation, with that of the data set."""
        return self if self.augment is not None else chz.replace(self, augment=data.default_augment)

    def lr_at(self, epoch: int, epochs: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        if epoch < self.warmup:
            first = self.lr / (self.warmup + 1) if self.warmup_from is None else self.warmup_from
            return first + (self.lr - first) * epoch / self.warmup
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "step":
            return self.lr * 0.1 ** sum(epoch >= milestone for milestone in self.milestones)
        if self.schedule == "cyclic":
            # the rate in the middle of the epoch: at its ends the first one would learn nothing
            height = 1 - abs(2 * (epoch + 0.5) / epochs - 1)
            return self.lr_end + (self.lr - self.lr_end) * height
        done = (epoch - self.warmup) / max(1, epochs - self.warmup)
        return self.lr_end + (self.lr - self.lr_end) * (1 + math.cos(math.pi * done)) / 2


@chz.chz
class Standard(Recipe):
    """Cross-entropy on the images as they are."""

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See :meth:`Recipe.loss`."""
        with checked(model, x, y, generator=None) as (x, y):
            logits = model(x).float()
            return self.cross_entropy(logits, y), logits


@chz.chz
class PGDTraining(Recipe):
    """Cross-entropy on adversarial images only (Madry et al., 2018)."""

    adversarial: ClassVar[bool] = True
    short_name: ClassVar[str | None] = "pgd"

    attack: GradientAttack = chz.field(
        default_factory=lambda: PGD(steps=7, step=Fraction(2 / 255)),
        blueprint_unspecified=PGD,
        doc="attack that makes the training images",
    )
    threat: Threat = chz.field(default_factory=Threat, blueprint_unspecified=Threat, doc="ball it moves in")

    @property
    def threats(self) -> tuple[Threat, ...]:
        """See :attr:`Recipe.threats`."""
        return (self.threat,)

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        """See :meth:`Part.check_shape`: the attack and its balls fit the images."""
        self.attack.check(self.threat, in_shape, f"{key}attack.")

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See :meth:`Recipe.loss`."""
        logits = model(self.attack.perturb(model, x, y, self.threat, generator)).float()
        return self.cross_entropy(logits, y), logits


@chz.chz
class FastTraining(Recipe):
    """Cross-entropy on images after one long step from a random point (Wong et al., Fast is better than free, 2020)."""

    adversarial: ClassVar[bool] = True
    short_name: ClassVar[str | None] = "fast"

    step_ratio: float = chz.field(default=1.25, doc="step length as a multiple of eps, > 0; much above 1.25 overfits")
    threat: Threat = chz.field(default_factory=Threat, blueprint_unspecified=Threat, doc="ball it moves in")

    @property
    def threats(self) -> tuple[Threat, ...]:
        """See :attr:`Recipe.threats`."""
        return (self.threat,)

    @chz.validate
    def _step(self) -> None:
        refuse_unless(self, ("step_ratio", 0 < self.step_ratio < math.inf, "> 0 and finite"))

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See :meth:`Recipe.loss`."""
        attack = PGD(steps=1, step=Fraction(self.step_ratio * self.threat.eps))
        logits = model(attack.perturb(model, x, y, self.threat, generator)).float()
        return self.cross_entropy(logits, y), logits


@chz.chz
class TRADES(Recipe):
    """Clean cross-entropy + β · KL between clean and adversarial predictions (Zhang et al., 2019, eq. 5).

    The official code is ``attack_mode=eval start_noise=.001``; by default the attack meets the network as it trains and
    has its own start.
    """

    adversarial: ClassVar[bool] = True

    beta: float = chz.field(default=6.0, doc="weight of the KL term, >= 0")
    attack: GradientAttack = chz.field(
        default_factory=lambda: PGD(steps=7, step=Fraction(2 / 255), loss="kl"),
        blueprint_unspecified=PGD,
        doc="attack that makes the training images; in the paper it maximises the KL divergence",
    )
    threat: Threat = chz.field(default_factory=Threat, blueprint_unspecified=Threat, doc="ball it moves in")
    attack_mode: Literal["train", "eval"] = chz.field(
        default="train",
        doc="the network's mode while it is attacked: train, with the batch's statistics; or eval, with the running "
        "ones, as in the official code",
        metadata=LATER,
    )
    start_noise: float | None = chz.field(
        default=None,
        doc="the attack starts at normal noise with this standard deviation, > 0; .001 in the official code; None: at "
        "the attack's own start",
        metadata=LATER,
    )

    @property
    def threats(self) -> tuple[Threat, ...]:
        """See :attr:`Recipe.threats`."""
        return (self.threat,)

    @chz.validate
    def _beta(self) -> None:
        noise = self.start_noise
        refuse_unless(
            self,
            ("beta", 0 <= self.beta < math.inf, ">= 0 and finite"),
            ("start_noise", noise is None or 0 < noise < math.inf, "> 0 and finite, or None"),
        )

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        """See :meth:`Part.check_shape`: the attack and its balls fit the images."""
        self.attack.check(self.threat, in_shape, f"{key}attack.")

    def _attacked(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Adversarial images ``(n, c, h, w)``."""
        if self.attack_mode == "train" and self.start_noise is None:
            return self.attack.perturb(model, x, y, self.threat, generator)
        start = None
        if self.start_noise is not None:
            start = self.start_noise * torch.randn(x.shape, generator=generator, device=x.device)
        with eval_mode(model) if self.attack_mode == "eval" else contextlib.nullcontext():
            # every image to the last step, though in eval mode an attack stops at the first error by default
            return self.attack.perturb(model, x, y, self.threat, generator, keep_going=True, start=start)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See :meth:`Recipe.loss`."""
        adversarial = self._attacked(model, x, y, generator)
        logits, attacked = model(x).float(), model(adversarial).float()
        distance = kl_divergence(attacked, logits.softmax(1)).mean()
        return self.cross_entropy(logits, y) + self.beta * distance, attacked


@chz.chz
class MultiStrengthTraining(Recipe):
    """Cross-entropy on adversarial images at several strengths, all in one batch (Wsr-NAS, AAAI 2023).

    A step attacks its batch at every strength: with six of them, a batch of 64 images becomes one of 384.
    """

    adversarial: ClassVar[bool] = True
    short_name: ClassVar[str | None] = "multi"

    attack: GradientAttack = chz.field(
        default_factory=lambda: PGD(steps=7),
        blueprint_unspecified=PGD,
        doc="attack that makes the training images; if its step length is not set, that grows with the strength",
    )
    eps: tuple[Fraction, ...] = chz.field(
        default=SPECTRUM, doc="strengths, ascending, in units of the pixel range 0..1"
    )
    norm: Norm = chz.field(default="linf", doc="norm of the balls, linf or l2")

    @property
    def threats(self) -> tuple[Threat, ...]:
        """See :attr:`Recipe.threats`."""
        return tuple(Threat(norm=self.norm, eps=strength) for strength in self.eps)

    @chz.validate
    def _strengths(self) -> None:
        check_strengths(self.eps, self.norm, name="recipe.eps")

    def check_shape(self, in_shape: tuple[int, int, int], key: str) -> None:
        """See :meth:`Part.check_shape`: the attack and its balls fit the images."""
        check_attack(self.attack, self.eps, self.norm, in_shape, key)

    def loss(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """See :meth:`Recipe.loss`; the logits are means over the strengths."""
        found = [self.attack.perturb(model, x, y, threat, generator) for threat in self.threats]
        logits = model(torch.cat(found)).float()
        loss = self.cross_entropy(logits, y.repeat(len(found)))
        return loss, logits.view(len(found), len(y), -1).mean(0)
