"""What Wsr-NAS's search minimises: natural loss and weighted losses at all strengths in one number (eq. 10)."""

from __future__ import annotations

import math

import chz
import numpy as np
import torch
from torch import Tensor

from evo_robust.parts.base import Part, refuse_unless

PROFILE = (1.0, 2.0, 3.0, 5.0, 7.0, 10.0)
"""β_i of the six strengths .03 to .105 in the paper's code, before they are divided by their sum."""


def strength_weights(n: int) -> tuple[float, ...]:
    """Weights β_1 … β_n of n strengths in ascending order; they sum to 1.

    The paper gives six. For other numbers its profile is interpolated linearly at n evenly spaced places from its first
    to its last: 3 strengths get 1 : 4 : 10, 11 get 1 : 1.5 : 2 : 2.5 : 3 : 4 : 5 : 6 : 7 : 8.5 : 10.

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"expected at least 1 strength, got {n}")
    places = np.linspace(0, len(PROFILE) - 1, n)
    profile = np.interp(places, np.arange(len(PROFILE)), PROFILE)
    return tuple((profile / profile.sum()).tolist())


@chz.chz
class SearchLoss(Part):
    """α · L_nat + β · Σ β_i L_εi with Σ β_i = 1 (Cheng et al., AAAI 2023: Wsr-NAS, eq. 10)."""

    alpha: float = chz.field(default=0.8, doc="weight of the natural loss, >= 0")
    beta: float = chz.field(default=0.2, doc="weight of all adversarial losses together, >= 0")
    weights: tuple[float, ...] = chz.field(
        default=(),
        doc="β_i > 0 of every strength, ascending, in any unit: they are divided by their sum; the paper's profile "
        "1,2,3,5,7,10, stretched or shrunk to the number of strengths, when not given",
    )

    @chz.validate
    def _sensible(self) -> None:
        refuse_unless(
            self,
            ("alpha", 0 <= self.alpha < math.inf, ">= 0"),
            ("beta", 0 <= self.beta < math.inf, ">= 0"),
            ("weights", all(0 < weight < math.inf for weight in self.weights), "of numbers > 0"),
        )
        if self.alpha == self.beta == 0:
            raise ValueError("expected alpha or beta > 0, got 0 and 0: nothing would be searched for")

    def shares(self, n: int) -> tuple[float, ...]:
        """β_i of ``n`` strengths, which sum to 1.

        Raises:
            ValueError: other weights than n were given.
        """
        if self.weights and len(self.weights) != n:
            raise ValueError(f"expected {n} weights, one for each strength, got {len(self.weights)}: {self.weights}")
        if not self.weights:
            return strength_weights(n)
        return tuple(weight / sum(self.weights) for weight in self.weights)

    def of(self, losses: Tensor) -> Tensor:
        """The objective ``(…)`` of losses ``(…, 1 + n)``: natural first, then by ascending strength; differentiable.

        Losses are means per image in nats, all of the same images. The paper's code divides the adversarial ones by the
        number of images once more, which leaves them almost no weight.

        Raises:
            ValueError: no adversarial loss, or another number of them than weights were given for.
        """
        if losses.ndim < 1 or losses.shape[-1] < 2:
            raise ValueError(f"expected losses (…, 1 + number of strengths), got {tuple(losses.shape)}")
        shares = torch.tensor(self.shares(losses.shape[-1] - 1), dtype=losses.dtype, device=losses.device)
        return self.alpha * losses[..., 0] + self.beta * (losses[..., 1:] * shares).sum(-1)
