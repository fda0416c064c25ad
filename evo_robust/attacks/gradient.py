"""Gradient attacks in the L∞ and L2 ball: FGSM, BIM, MI-FGSM and PGD; they differ only in their step."""

from __future__ import annotations

import abc
import math

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.ball import per_image, project, steepest, unit_noise
from evo_robust.attacks.base import Attack, Norm, Threat, check_step, widest
from evo_robust.attacks.boundaries import nearest_first
from evo_robust.attacks.calls import checked
from evo_robust.attacks.cascade import Cascade, Memory, Point, StepBudget
from evo_robust.attacks.losses import LossName, attack_loss, check_loss
from evo_robust.inference.checks import ordinary, slope
from evo_robust.inference.predictions import undisturbed
from evo_robust.parts.base import LATER, Fraction

AIMS = 9
"""Wrong classes that a targeted attack chooses from at least; AutoAttack too aims at nine, the likeliest ones."""


@chz.chz
class GradientAttack(Attack, abc.ABC):
    """Projected steps along the gradient of a loss of the logits."""

    loss: LossName = chz.field(
        default="ce",
        doc="loss to maximise: ce, margin, dlr, targeted-dlr, probability-margin, or kl (kl needs a random start)",
    )

    @chz.validate
    def _known_loss(self) -> None:
        check_loss(self.loss)

    @abc.abstractmethod
    def budget(self, eps: float) -> StepBudget:
        """Steps, step length and starts in a ball of radius ``eps``."""

    def direction(self, point: Point) -> tuple[Tensor, Memory]:
        """Unit step ``(n, c, h, w)`` at a point, and the memory for the next step: steepest ascent, no memory."""
        return steepest(point.gradient, point.norm), {}

    def ascend(
        self, network: nn.Module, x: Tensor, y: Tensor, reference: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits ``(n, n_classes)``, loss ``(n,)`` and its gradient ``(n, c, h, w)`` at the images ``x``."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = network(x)
            loss = attack_loss(self.loss, logits, y, reference)
            gradient = slope(loss.sum(), x)
        # pixels without a finite gradient do not change
        return logits.detach(), loss.detach(), gradient.nan_to_num(0.0, 0.0, 0.0)

    def move(self, point: Point) -> tuple[Tensor, Memory]:
        """Next perturbation ``(n, c, h, w)`` and memory."""
        way, memory = self.direction(point)
        return project(point.x, point.delta + per_image(point.step) * way, point.eps, point.norm), memory

    def outcome(self, delta: Tensor, memory: Memory) -> Tensor:
        """What a climb that nothing stopped ends with, ``(n, c, h, w)``: here the last perturbation."""
        return delta

    def reference(self, network: nn.Module, x: Tensor, y: Tensor, norm: Norm, restarts: int) -> Tensor | None:
        """What the loss compares with at all starts, from the images without attack; None where it needs nothing.

        That is their probabilities ``(n, n_classes)`` for ``kl``. For a targeted loss it is the classes to reach, one
        for each start: of the nine likeliest wrong ones (or as many as there are starts), those with the nearest
        boundary first. This costs a gradient for each of them.
        """
        if self.loss == "targeted-dlr":
            return nearest_first(network, x, y, norm, max(AIMS, restarts))
        if self.loss == "kl":
            with torch.no_grad():
                return network(x).softmax(1)
        return None

    def aim(self, reference: Tensor | None, restart: int) -> Tensor | None:
        """The part of :meth:`reference` that counts at a start: of the classes to reach ``(n, k)`` one, ``(n,)``."""
        if reference is None or self.loss != "targeted-dlr":
            return reference
        return reference[:, restart % reference.shape[1]]

    def perturb(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        generator: torch.Generator,
        *,
        keep_going: bool | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """Adversarial images ``(n, c, h, w)``, inside the threat's ball around ``x`` and inside [0,1].

        With a model in eval mode, an image is attacked only until it is misclassified. With a model in train mode,
        batch statistics are used, running statistics do not change, and every image is attacked to the last step.

        Args:
            model: network from images in [0,1] to logits.
            x: images ``(n, c, h, w)`` in [0,1].
            y: true classes ``(n,)``.
            threat: the ball.
            generator: source of the random starts.
            keep_going: whether every image is attacked to the last step; by default, if the model is in train mode.
            start: perturbations ``(n, c, h, w)`` to use as the first start, moved into the ball; further starts are
                random. Only with ``keep_going``.

        Raises:
            ValueError: ``keep_going`` is False for a model in train mode, where it would change the batch statistics;
                ``start`` has another shape, or is given without ``keep_going``; images, labels, network, threat or
                generator are wrong; or the network has no gradient (use a level attack, CMAES or DE).
        """
        with checked(model, x, y, generator=generator, threat=threat, gradient=True) as (x, y):
            training = any(module.training for module in model.modules())
            if keep_going is None:
                keep_going = training
            if training and not keep_going:
                raise ValueError("expected a model in eval mode for keep_going=False, got one in train mode")
            if start is not None and not (isinstance(start, Tensor) and start.dtype == x.dtype):
                got = start.dtype if isinstance(start, Tensor) else type(start).__name__
                raise ValueError(f"expected start as a {x.dtype} tensor {tuple(x.shape)}, got {got}")
            if start is not None and not (keep_going and start.shape == x.shape):
                wanted = f"keep_going=True and start {tuple(x.shape)}"
                raise ValueError(f"expected {wanted}, got keep_going={keep_going} and {tuple(start.shape)}")
            if start is not None and not start.isfinite().all():
                raise ValueError("expected a start of finite numbers, got NaN or infinities in it")
            # compared with the widest ball, since recipes use one step at several strengths
            check_step(self.budget(threat.eps).step, widest(threat.norm, x.shape[1:]), threat.norm)
            if generator is None and self.budget(threat.eps).random_start:
                raise ValueError("expected a torch.Generator for random starts, got None")
            with undisturbed(model):
                if keep_going:
                    start = None if start is None else ordinary(start)
                    return self._strongest(model, x, y, threat, generator, start)
                cascade = Cascade(self, model, (threat.eps,), threat.norm, generator, batch_size=len(x), images=True)
                found = cascade.run(x, y)
            return found.images if found.images is not None else x

    def _strongest(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        generator: torch.Generator,
        start: Tensor | None,
    ) -> Tensor:
        """Last iterates of all images; with several starts, those with the highest loss."""
        budget = self.budget(threat.eps)
        references = self.reference(model, x, y, threat.norm, budget.restarts)
        reference = self.aim(references, 0)
        best = self._climb(model, x, y, reference, threat, generator, start)
        if budget.restarts == 1:
            return best
        best_loss = self.ascend(model, best, y, reference)[1]
        for restart in range(1, budget.restarts):
            reference = self.aim(references, restart)
            other = self._climb(model, x, y, reference, threat, generator)
            loss = self.ascend(model, other, y, reference)[1]
            best = torch.where(per_image(loss > best_loss), other, best)
            best_loss = torch.maximum(loss, best_loss)
        return best

    def _climb(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        reference: Tensor | None,
        threat: Threat,
        generator: torch.Generator,
        start: Tensor | None = None,
    ) -> Tensor:
        """Last iterates of one start: the given one, else the attack's own."""
        budget = self.budget(threat.eps)
        eps, step = x.new_full((len(x),), threat.eps), x.new_full((len(x),), budget.step)
        if start is None and budget.random_start:
            start = threat.eps * unit_noise(x.shape, threat.norm, generator).to(x)
        delta = torch.zeros_like(x) if start is None else project(x, start, eps, threat.norm)
        memory: Memory = {}
        for time in range(budget.steps):
            _, loss, gradient = self.ascend(model, x + delta, y, reference)
            made = torch.full_like(y, time)
            delta, memory = self.move(Point(x, delta, loss, gradient, memory, made, eps, step, threat.norm))
        return x + self.outcome(delta, memory)


@chz.chz
class FGSM(GradientAttack):
    """Fast gradient sign method: one step of ε from the image (Goodfellow et al., 2015, eq. in §4)."""

    @chz.validate
    def _no_kl(self) -> None:
        if self.loss == "kl":
            raise ValueError("expected loss ce or margin for FGSM, got kl: its gradient at the clean image is zero")

    def budget(self, eps: float) -> StepBudget:
        """One step of ε, no random start."""
        return StepBudget(steps=1, step=eps, restarts=1, random_start=False)


@chz.chz
class IterativeAttack(GradientAttack, abc.ABC):
    """Several projected steps, from one or more starts."""

    steps: int = chz.field(default=10, doc="gradient steps per start, >= 1")
    step: Fraction | None = chz.field(
        default=None, doc="step length in units of the pixel range 0..1, > 0; 2.5*eps/steps when not given"
    )
    step_ratio: float | None = chz.field(
        default=None,
        metadata=LATER,
        doc="step length as a multiple of eps instead, in (0, 2]: .1 is the papers' ε/10; then leave step out",
    )
    restarts: int = chz.field(default=1, doc="number of starts, >= 1; more than one needs a random start")
    random_start: bool = chz.field(default=False, doc="start at a random point of the ball, not at the image")

    @chz.validate
    def _sensible(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise ValueError(f"expected steps >= 1 and restarts >= 1, got {self.steps} and {self.restarts}")
        if self.step is not None and not 0 < self.step < math.inf:
            raise ValueError(
                f"expected step > 0 and finite, in units of the pixel range 0..1 (such as 2/255), got {self.step}"
            )
        if self.step_ratio is not None and not 0 < self.step_ratio <= 2:
            raise ValueError(f"expected step_ratio in (0, 2], where 2 is the ball's diameter, got {self.step_ratio}")
        if self.step is not None and self.step_ratio is not None:
            raise ValueError(f"expected step or step_ratio, got both: {self.step} and {self.step_ratio}")
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"expected random_start=True for restarts={self.restarts}: otherwise all starts are equal")
        if self.loss == "kl" and not self.random_start:
            raise ValueError("expected random_start=True for loss kl: its gradient at the clean image is zero")

    @property
    def words(self) -> str:
        """See :attr:`Attack.words`: such as ``PGD-20``."""
        return f"{super().words}-{self.steps}"

    def check(self, threat: Threat, in_shape: tuple[int, int, int], key: str = "") -> None:
        """See :meth:`Attack.check`: no step may be longer than the ball's diameter."""
        if self.step is not None:
            check_step(self.step, 2 * threat.eps, threat.norm, name=f"{key}step")

    def budget(self, eps: float) -> StepBudget:
        """The budget from the fields; without a step length, it is 2.5·ε/steps (Madry et al., 2018)."""
        step = 2.5 * eps / self.steps if self.step_ratio is None else self.step_ratio * eps
        return StepBudget(self.steps, step if self.step is None else self.step, self.restarts, self.random_start)


@chz.chz
class BIM(IterativeAttack):
    """Basic iterative method: FGSM in small steps (Kurakin et al., Adversarial Examples in the Physical World)."""


@chz.chz
class PGD(IterativeAttack):
    """Projected gradient descent from a random point of the ball (Madry et al., 2018).

    Example:
        >>> x_adv = PGD(steps=20).perturb(model, x, y, Threat(eps=8 / 255), torch.Generator().manual_seed(0))
        >>> bool((x_adv - x).abs().max() <= 8 / 255 + 1e-6)
        True
    """

    steps: int = chz.field(default=20, doc="gradient steps per start, >= 1")
    random_start: bool = chz.field(default=True, doc="start at a random point of the ball, not at the image")


@chz.chz
class MIFGSM(IterativeAttack):
    """Momentum iterative FGSM (Dong et al., Boosting Adversarial Attacks with Momentum, 2018)."""

    decay: float = chz.field(default=1.0, doc="decay of the momentum per step, >= 0 (0 is BIM)")

    @chz.validate
    def _decay(self) -> None:
        if not 0 <= self.decay < math.inf:
            raise ValueError(f"expected decay >= 0 and finite, got {self.decay}")

    def direction(self, point: Point) -> tuple[Tensor, Memory]:
        """Steepest ascent along the decayed sum of L1-normalised gradients (eq. 6 of the paper)."""
        gradient = point.gradient
        tiny = torch.finfo(gradient.dtype).tiny
        momentum = gradient / gradient.abs().sum((1, 2, 3), keepdim=True).clamp_min(tiny)
        if point.memory:
            # momentum of a smaller ball would lead the first steps astray
            momentum += per_image(torch.where(point.time > 0, self.decay, 0.0)) * point.memory["momentum"]
        return steepest(momentum, point.norm), {"momentum": momentum}
