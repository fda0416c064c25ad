"""Few pixels by gradients: swaps of single pixels, then σ-zero (Cinà et al., ICLR 2025)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.ball import per_image
from evo_robust.attacks.calls import checked
from evo_robust.attacks.fast import for_attack
from evo_robust.attacks.level.base import (
    MARGIN,
    LadderResult,
    LevelAttack,
    LevelNorm,
    LevelResult,
    check_levels,
    check_pixels,
    start_of_ladder,
    to_pixels,
)
from evo_robust.attacks.losses import margin
from evo_robust.inference.checks import slope
from evo_robust.inference.predictions import classes, eval_mode, undisturbed

_TOGETHER = 128
"""Images in a batch; each sends ``candidates`` images through the network at once."""

_PATIENCE = 3
"""Steps in a row that may find nothing better before an image's swaps at a level end."""


@chz.chz
class SigmaZero(LevelAttack):
    """A white-box attack on a number of pixels; it makes no random choices.

    First come swaps, at each level on what the levels below left unbroken. The gradient ranks what every pixel would
    gain from its best extreme colour. The network classifies the first ``candidates`` of them. In each, the new pixel
    takes the place of a changed one that seems to matter least, once ``level`` pixels have changed. The best is kept
    if it is better; else the next ``candidates`` are looked at. (CornerSearch of Croce & Hein, 2019, ranks pixels by
    queries instead.)

    Then one run of σ-zero (Cinà et al., 2025, algorithm 1) on what the smallest level did not break: Adam on the
    margin and a smooth count of changed pixels, with pixels below a moving threshold set back. Here a pixel counts
    once, however many of its channels change, and the network always sees whole grey steps. With ``swaps=0`` this is
    σ-zero alone; with ``steps=0`` there are only swaps.
    """

    swaps: int = chz.field(default=20, doc="most swaps per level, beside one for each pixel of it, >= 0; 0 for none")
    candidates: int = chz.field(default=16, doc="pixels that the network looks at in a swap, >= 1")
    steps: int = chz.field(default=300, doc="gradient steps of σ-zero, >= 0 (paper: 1,000); 0 for none")
    lr: float = chz.field(default=1.0, doc="Adam's rate at first, in units of the pixel range, > 0; at last a tenth")
    sigma: float = chz.field(default=1e-3, doc="squared change at which a pixel counts half, > 0")
    threshold: float = chz.field(default=0.3, doc="changes below it are set back at first, in [0, 1]")
    adapt: float = chz.field(default=0.01, doc="how fast the threshold moves, as a share of the rate, >= 0")

    @chz.validate
    def _sensible(self) -> None:
        if self.swaps < 0 or self.steps < 0 or self.candidates < 1 or self.swaps + self.steps == 0:
            got = f"{self.swaps}, {self.steps} and {self.candidates}"
            raise ValueError(f"expected swaps >= 0, steps >= 0, not both 0, and candidates >= 1, got {got}")
        for name in ("lr", "sigma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"expected {name} > 0 and finite, got {getattr(self, name)}")
        if not 0 <= self.threshold <= 1 or not 0 <= self.adapt < math.inf:
            got = f"{self.threshold} and {self.adapt}"
            raise ValueError(f"expected threshold in [0, 1] and adapt >= 0 and finite, got {got}")

    @classmethod
    def norms(cls) -> tuple[LevelNorm, ...]:
        """L0 alone: in L∞, gradient attacks take ``eps=level/255``."""
        return ("l0",)

    @property
    def access(self) -> str:
        """See :attr:`LevelAttack.access`."""
        return "white-box"

    def perturb_levels(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> LevelResult:
        """See :meth:`LevelAttack.perturb_levels`; it draws nothing from ``generator``."""
        found = self.ladder(model, x, y, (self.level,), generator)
        return LevelResult(found.x_adv, found.reached == 0, found.queries)

    def ladder(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        levels: Sequence[int],
        generator: torch.Generator,
        known: Tensor | None = None,
    ) -> LadderResult:
        """See :meth:`LevelAttack.ladder`; swaps at a level go on from those of the level below."""
        check_levels(levels, self.norm)
        with checked(model, x, y, generator=generator, gradient=True) as (x, y):
            check_pixels(levels[-1], x)
            x = to_pixels(x).float().div_(255)
            found = LadderResult(x.clone(), start_of_ladder(y, levels, known), torch.zeros_like(y))
            with torch.no_grad(), eval_mode(model), undisturbed(model):
                right = (classes(model(x)) == y) & (found.reached > 0) if len(x) else found.reached > 0
                left = right.nonzero().squeeze(1)
                fast = for_attack(model, x[:16]) if len(left) else model
                for part in left.split(_TOGETHER):
                    run = _Run(self, model, fast, x[part], y[part], tuple(levels), found.reached[part])
                    run.all()
                    found.x_adv[part], found.reached[part], found.queries[part] = run.found, run.reached, run.queries
        return found


@dataclasses.dataclass
class _Climb:
    """Images whose pixels are being swapped.

    Attributes:
        index: of each image, ``(m,)``.
        at: the images so far, ``(m, c, h, w)``.
        lead: of the best wrong class there, ``(m,)``, in logits.
        gradient: of the lead, ``(m, c, h, w)``.
        stalled: steps in a row that found nothing better, ``(m,)``.
    """

    index: Tensor
    at: Tensor
    lead: Tensor
    gradient: Tensor
    stalled: Tensor

    def take(self, kept: Tensor) -> _Climb:
        """Those at these places."""
        return _Climb(**{name: value[kept] for name, value in vars(self).items()})


class _Run:
    """One attack on images that the network gets right."""

    def __init__(
        self,
        attack: SigmaZero,
        model: nn.Module,
        fast: nn.Module,
        x: Tensor,
        y: Tensor,
        levels: tuple[int, ...],
        reached: Tensor,
    ) -> None:
        self.attack, self.model, self.fast, self.x, self.y, self.levels = attack, model, fast, x, y, levels
        self.ends = torch.tensor(levels, device=x.device)
        self.found, self.reached = x.clone(), reached
        self.queries = torch.zeros_like(y)

    def all(self) -> None:
        """Swaps at every level, then σ-zero."""
        at = self.x.clone()
        if self.attack.swaps:
            for k in range(len(self.levels)):
                self._swaps(k, at)
        if self.attack.steps:
            self._sigma_zero()

    def _note(self, index: Tensor, images: Tensor) -> None:
        """Keep images ``(m, c, h, w)`` that the network itself misclassifies too, at a smaller level than before."""
        if len(index) == 0:
            return
        level = torch.bucketize(changed(images - self.x[index]).flatten(1).sum(1), self.ends)
        sure = (margin(self.model(images).float(), self.y[index]) > MARGIN) & (level < self.reached[index])
        self.reached[index[sure]], self.found[index[sure]] = level[sure], images[sure]

    def _slopes(self, index: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Lead of the best wrong class ``(m,)`` and its gradient ``(m, c, h, w)`` at images."""
        self.queries[index] += 1
        with torch.enable_grad():
            images = images.detach().requires_grad_()
            lead = margin(self.fast(images), self.y[index])
            gradient = slope(lead.sum(), images)
        return lead.detach().nan_to_num(nan=-torch.inf), gradient.nan_to_num(0.0, 0.0, 0.0)

    def _swaps(self, k: int, at: Tensor) -> None:
        """Swap pixels at the level of index ``k``, on images that no level up to it broke; moves ``at``."""
        index = (self.reached > k).nonzero().squeeze(1)
        if len(index) == 0:
            return
        climb = _Climb(index, at[index], *self._slopes(index, at[index]), torch.zeros_like(index))
        for _ in range(self.levels[k] + self.attack.swaps):
            best, lead = self._best_swap(climb, self.levels[k])
            better = lead > climb.lead
            climb.at = torch.where(per_image(better), best, climb.at)
            climb.stalled = torch.where(better, 0, climb.stalled + 1)
            at[climb.index] = climb.at
            wrong = lead > MARGIN
            self._note(climb.index[wrong], best[wrong])
            going = (self.reached[climb.index] > k) & (climb.stalled < _PATIENCE)
            climb, moved = climb.take(going), better[going].nonzero().squeeze(1)
            if len(climb.index) == 0:
                break
            if len(moved):
                climb.lead[moved], climb.gradient[moved] = self._slopes(climb.index[moved], climb.at[moved])

    def _best_swap(self, climb: _Climb, level: int) -> tuple[Tensor, Tensor]:
        """The best of ``candidates`` swaps of each image ``(m, c, h, w)``, and the lead there ``(m,)``."""
        x, y, gradient = self.x[climb.index], self.y[climb.index], climb.gradient
        pixels = x.shape[2] * x.shape[3]
        many = min(self.attack.candidates, pixels)
        # without a gradient the other end of the range is as good a guess as any
        extreme = torch.where(gradient == 0, climb.at < 0.5, gradient > 0).to(x)
        rank = (gradient * (extreme - climb.at)).sum(1).flatten(1).argsort(dim=1, descending=True, stable=True)
        place = climb.stalled[:, None] * many + torch.arange(many, device=x.device)
        new = rank.gather(1, place % pixels)
        already = changed(climb.at - x).flatten(1)
        old = self._given_back(climb, x, already, level, place)
        back = (already.sum(1, keepdim=True) >= level) & ~already.gather(1, new)
        tried = climb.at.flatten(2)[:, None].repeat(1, many, 1, 1)  # (m, many, c, pixels)
        for pixel, source in ((old, x), (new, extreme)):
            wide = pixel[:, :, None, None].expand(-1, -1, x.shape[1], 1)
            colour = source.flatten(2)[:, None].expand_as(tried).gather(3, wide)
            if source is x:
                colour = torch.where(back[:, :, None, None], colour, tried.gather(3, wide))
            tried.scatter_(3, wide, colour)
        images = tried.view(-1, *x.shape[1:])
        lead = margin(self.fast(images), y.repeat_interleave(many)).nan_to_num(nan=-torch.inf).view(-1, many)
        self.queries[climb.index] += many
        lead, which = lead.max(1)
        return images.view(-1, many, *x.shape[1:])[torch.arange(len(x), device=x.device), which], lead

    def _given_back(self, climb: _Climb, x: Tensor, already: Tensor, level: int, place: Tensor) -> Tensor:
        """The changed pixel that each candidate ``(m, many)`` gives back, where it has to give one back.

        Half of the candidates give back the one that matters least by the gradient; the others take turns.
        """
        loss = torch.where(already, (climb.gradient * (x - climb.at)).sum(1).flatten(1), -torch.inf)
        least = loss.topk(min(level, loss.shape[1]), 1).indices
        half = torch.arange(place.shape[1], device=x.device) < (place.shape[1] + 1) // 2
        turn = torch.where(half & (climb.stalled == 0)[:, None], 0, place % least.shape[1])
        return least.gather(1, turn)

    def _sigma_zero(self) -> None:
        """Minimise margin and number of pixels by Adam, of images that the smallest level did not break."""
        attack = self.attack
        index = (self.reached > 0).nonzero().squeeze(1)
        delta = torch.zeros_like(self.x[index])
        first, second = torch.zeros_like(delta), torch.zeros_like(delta)
        threshold = delta.new_full((len(index),), attack.threshold)
        fewest = torch.full_like(index, self.levels[-1] + 1)
        rate = attack.lr
        for step in range(1, attack.steps + 1):
            x = self.x[index]
            images = to_grey(x + delta)
            lead, slopes = self._slopes(index, images)
            count = changed(images - x).flatten(1).sum(1)
            wrong = lead > MARGIN
            better = wrong & (count < fewest)
            fewest = torch.where(better, count, fewest)
            self._note(index[better], images[better])
            gradient = _pull(images - x, attack.sigma) - per_image((lead < 0).to(x)) * slopes
            gradient = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
            first, second = first.lerp(gradient, 0.1), second.lerp(gradient.square(), 0.001)
            move = rate / (1 - 0.9**step) * first / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            delta = (x + delta - move).clamp(0, 1) - x
            rate = attack.lr * (0.1 + 0.9 * (1 + math.cos(math.pi * (step - 1) / attack.steps)) / 2)
            threshold = (threshold + attack.adapt * rate * torch.where(wrong, 1.0, -1.0)).clamp(0, 1)
            delta = delta * (delta.abs().amax(1, keepdim=True) >= per_image(threshold))
            going = self.reached[index] > 0
            if not going.all():
                index, delta, first, second = index[going], delta[going], first[going], second[going]
                threshold, fewest = threshold[going], fewest[going]
            if len(index) == 0:
                break


def changed(delta: Tensor) -> Tensor:
    """Which pixels of perturbations ``(n, c, h, w)`` differ from zero in any channel, bool ``(n, h, w)``."""
    return delta.abs().amax(1) > 0.5 / 255


def to_grey(images: Tensor) -> Tensor:
    """Images of any shape, clipped to [0,1] and rounded to multiples of 1/255."""
    return images.clamp(0, 1).mul(255).round().div(255)


def _pull(delta: Tensor, sigma: float) -> Tensor:
    """Gradient ``(n, c, h, w)`` of the smooth share of changed pixels: the mean of s/(s + σ), s a pixel's ‖δ‖²."""
    square = delta.square().sum(1, keepdim=True)
    return 2 * delta * sigma / (square + sigma).square() / (delta.shape[2] * delta.shape[3])
