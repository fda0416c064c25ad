"""Square attack: random squares, queries alone (Andriushchenko et al., ECCV 2020)."""

from __future__ import annotations

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.ball import per_image, project
from evo_robust.attacks.base import Attack, Threat, check_norm
from evo_robust.attacks.calls import checked
from evo_robust.attacks.fast import for_attack
from evo_robust.attacks.losses import margin
from evo_robust.inference.predictions import classes, eval_mode, undisturbed

_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Ten-thousandths of the queries after which a square's share of the image is halved, as in the authors' code."""


@chz.chz
class Square(Attack):
    """Square attack in L∞ (Andriushchenko et al., 2020, algorithms 1 and 2): it needs no gradient.

    It begins with vertical stripes of ±ε. Each query moves the pixels of one random square by ±2ε, held inside the
    ball, and is kept where it raises the margin. An image that is misclassified is left alone.
    """

    queries: int = chz.field(default=5000, doc="most queries per image, >= 1; AutoAttack makes 5,000")
    share: float = chz.field(default=0.8, doc="share of the image that the first squares cover, in (0, 1]")

    @chz.validate
    def _sensible(self) -> None:
        if self.queries < 1:
            raise ValueError(f"expected queries >= 1, got {self.queries}")
        if not 0 < self.share <= 1:
            raise ValueError(f"expected share in (0, 1], got {self.share}")

    @property
    def words(self) -> str:
        """See :attr:`Attack.words`: such as ``Square-5000``."""
        return f"{super().words}-{self.queries}"

    @property
    def access(self) -> str:
        """See :attr:`Attack.access`."""
        return "black-box by queries"

    def check(self, threat: Threat, in_shape: tuple[int, int, int], key: str = "") -> None:
        """See :meth:`Attack.check`: it knows linf alone."""
        check_norm(threat.norm, ("linf",))

    def perturb(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, generator: torch.Generator) -> Tensor:
        """See :meth:`Attack.perturb`; a model in train mode is attacked in eval mode.

        Raises:
            ValueError: the norm is not linf, or the arguments are not as said.
        """
        check_norm(threat.norm, ("linf",))
        with checked(model, x, y, generator=generator, threat=threat) as (x, y):
            if len(x) == 0:
                return x
            with eval_mode(model), undisturbed(model), torch.no_grad():
                return self._searched(model, for_attack(model, x[:16]), x, y, threat.eps, generator)

    def _searched(
        self, model: nn.Module, fast: nn.Module, x: Tensor, y: Tensor, eps: float, generator: torch.Generator
    ) -> Tensor:
        """Images after all queries; ``fast`` answers them, ``model`` confirms what counts as misclassified."""
        found, index = x.clone(), torch.arange(len(x), device=x.device)
        stripes = _signs((len(x), x.shape[1], 1, x.shape[3]), generator).to(x)
        at = _held(x, eps * stripes.expand_as(x), eps)
        lead = torch.full_like(x[:, 0, 0, 0], -torch.inf)
        for query in range(self.queries):
            tried = at if query == 0 else _held(x, at - x + self._square(x, query, eps, generator), eps)
            logits = fast(tried)
            now = margin(logits, y)
            wrong = classes(logits) != y
            better = (now > lead) | wrong
            at = torch.where(per_image(better), tried, at)
            lead = torch.where(better, now, lead)
            if wrong.any():
                wrong[wrong.clone()] = classes(model(at[wrong])) != y[wrong]
                found[index[wrong]] = at[wrong]
                index, x, y, at, lead = (t[~wrong] for t in (index, x, y, at, lead))
                if len(index) == 0:
                    break
        found[index] = at
        return found

    def _square(self, x: Tensor, query: int, eps: float, generator: torch.Generator) -> Tensor:
        """±2ε inside one random square of every image, ``(n, c, h, w)``; one sign per image and channel."""
        n, channels, rows, columns = x.shape
        passed = query * 10_000 // self.queries
        share = self.share / 2 ** sum(passed > at for at in _HALVINGS)
        side = max(1, min(round((share * rows * columns) ** 0.5), rows, columns))
        inside = _stretch(n, rows, side, generator).view(n, 1, rows, 1) & _stretch(n, columns, side, generator).view(
            n, 1, 1, columns
        )
        return 2 * eps * _signs((n, channels, 1, 1), generator) * inside


def _held(x: Tensor, delta: Tensor, eps: float) -> Tensor:
    return x + project(x, delta, x.new_full((len(x),), eps), "linf")


def _signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator, device=generator.device).float() * 2 - 1


def _stretch(n: int, length: int, side: int, generator: torch.Generator) -> Tensor:
    """Which of ``length`` places lie in a random stretch of ``side``, bool ``(n, length)``."""
    begin = torch.randint(0, length - side + 1, (n, 1), generator=generator, device=generator.device)
    place = torch.arange(length, device=generator.device)
    return (place >= begin) & (place < begin + side)
