"""What every noise estimator offers: noise at a strength from the noises that an attack made at others."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.ball import project
from evo_robust.attacks.base import check_eps
from evo_robust.attacks.curve import check_strengths
from evo_robust.inference.checks import check_values, is_known
from evo_robust.parts.base import Part, Shape


@chz.chz
class Estimator(Part, abc.ABC):
    """A kind of noise estimator and its settings, such as ``estimator=E`` on a command line."""

    learned: ClassVar[bool] = True
    """Whether it has weights that a search must train."""

    @abc.abstractmethod
    def build(self, in_shape: Shape) -> NoiseEstimator:
        """An untrained estimator for images ``(c, h, w)``; its weights come from torch's global generator.

        Raises:
            ValueError: ``in_shape`` is not three numbers >= 1.
        """


class NoiseEstimator(nn.Module, abc.ABC):
    """φ with δ̂ = φ(x, δ_ε1 … δ_εN1, ε̂): the noise at ε̂ from those at N1 other strengths (Wsr-NAS, AAAI 2023, eq. 3).

    Attributes:
        in_shape: channels, height and width of the images.
    """

    def __init__(self, in_shape: Shape) -> None:
        super().__init__()
        if len(in_shape) != 3 or min(in_shape) < 1:
            raise ValueError(f"expected in_shape (channels, height, width), each >= 1, got {tuple(in_shape)}")
        self.in_shape: Shape = in_shape

    @abc.abstractmethod
    def forward(self, x: Tensor, noises: Tensor, strengths: Tensor, targets: Tensor) -> Tensor:
        """Noises ``(t, n, c, h, w)`` before they are moved into the ball; what training compares, unchecked.

        Args:
            x: images ``(n, c, h, w)`` in [0,1].
            noises: ``(k, n, c, h, w)``, by ascending strength.
            strengths: of the noises, L∞, ``(k, n)``, each column ascending and in (0, 1].
            targets: strengths to estimate at, ``(t, n)``, > 0.
        """

    @torch.no_grad()
    def estimate(
        self, x: Tensor, noises: Tensor, strengths: Sequence[float] | Tensor, target: float | Tensor
    ) -> Tensor:
        """Noise ``(n, c, h, w)`` with ‖noise‖∞ <= target and x + noise in [0,1], up to rounding.

        Args:
            x: images ``(n, c, h, w)`` in [0,1].
            noises: real noises ``(N1, n, c, h, w)``, N1 >= 1.
            strengths: of the noises, L∞ in units of the pixel range 0..1: N1 numbers, or ``(N1, n)`` where images
                differ; ascending, different, in (0, 1].
            target: the strength to estimate at, in (0, 1]: one for all images, or ``(n,)``.

        Raises:
            ValueError: shapes that do not belong together, or strengths that are not as said.
        """
        wanted = torch.as_tensor(target, dtype=x.dtype, device=x.device)
        if wanted.ndim > 1 or (wanted.ndim == 1 and wanted.shape != x.shape[:1]):
            raise ValueError(f"expected one target or ({len(x)},), got {tuple(wanted.shape)}")
        return self._estimate(x, noises, strengths, wanted.expand(1, len(x)))[0]

    @torch.no_grad()
    def estimate_all(
        self, x: Tensor, noises: Tensor, strengths: Sequence[float] | Tensor, targets: Sequence[float]
    ) -> Tensor:
        """Noises ``(t, n, c, h, w)`` at several targets, for which what they share is computed once; see ``estimate``.

        Raises:
            ValueError: as ``estimate``; or there is no target.
        """
        wanted = torch.as_tensor(targets, dtype=x.dtype, device=x.device)
        if wanted.ndim != 1 or len(wanted) == 0:
            raise ValueError(f"expected at least one target, got {targets}")
        return self._estimate(x, noises, strengths, wanted[:, None].expand(-1, len(x)))

    def _estimate(self, x: Tensor, noises: Tensor, strengths: Sequence[float] | Tensor, targets: Tensor) -> Tensor:
        known = self._checked(x, noises, strengths)
        wrong = targets[~((targets > 0) & (targets <= 1))]
        if len(wrong):
            check_eps(wrong[0].item(), name="each target")
        raw = self(x, noises, known, targets)
        images = x.expand_as(raw)
        return project(images.flatten(0, 1), raw.flatten(0, 1), targets.reshape(-1), "linf").view_as(raw)

    def _checked(self, x: Tensor, noises: Tensor, strengths: Sequence[float] | Tensor) -> Tensor:
        """The strengths as ``(N1, n)``."""
        if x.shape[1:] != self.in_shape:
            raise ValueError(
                f"expected images (n, {', '.join(map(str, self.in_shape))}), which the estimator is for, "
                f"got {tuple(x.shape)}"
            )
        if not is_known(x):
            check_values(x)
        if noises.ndim != 5 or noises.shape[1:] != x.shape:
            raise ValueError(f"expected noises (N1, {', '.join(map(str, x.shape))}), got {tuple(noises.shape)}")
        if isinstance(strengths, Tensor) and strengths.ndim == 2:
            known = strengths.to(x)
            if known.shape != noises.shape[:2]:
                raise ValueError(f"expected strengths {tuple(noises.shape[:2])}, got {tuple(known.shape)}")
            # ascending: the first is the smallest, the last the largest, and no number compares with NaN
            if len(known) < 1 or not bool(
                (known[0] > 0).all() & (known.diff(dim=0) > 0).all() & (known[-1] <= 1).all()
            ):
                raise ValueError("expected different, ascending strengths in (0, 1] for every image, got others")
            return known
        values = check_strengths([float(strength) for strength in strengths])
        if len(values) != len(noises):
            raise ValueError(f"expected {len(noises)} strengths, one for each noise, got {len(values)}: {values}")
        return torch.tensor(values, dtype=x.dtype, device=x.device)[:, None].expand(-1, len(x))


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The known strengths next to each target, ε⁻ <= ε̂ < ε⁺, and how much each of the two counts.

    Below the smallest strength there is no ε⁻, above the largest no ε⁺: the one neighbour is scaled by ε̂/ε.

    Attributes:
        lower: index of ε⁻, int64 ``(t, n)``; any where there is none.
        upper: index of ε⁺ alike.
        has_lower: whether there is an ε⁻, bool ``(t, n)``.
        has_upper: whether there is an ε⁺.
        weight_lower: weight of the noise at ε⁻, ``(t, n)``, >= 0.
        weight_upper: weight of the noise at ε⁺.
    """

    lower: Tensor
    upper: Tensor
    has_lower: Tensor
    has_upper: Tensor
    weight_lower: Tensor
    weight_upper: Tensor

    @classmethod
    def of(cls, strengths: Tensor, targets: Tensor) -> Neighbours:
        """Neighbours of ``targets`` ``(t, n)`` among ``strengths`` ``(k, n)``, each column ascending."""
        count = torch.searchsorted(strengths.t().contiguous(), targets.t().contiguous(), right=True).t()
        last = len(strengths) - 1
        lower, upper = (count - 1).clamp_min(0), count.clamp_max(last)
        has_lower, has_upper = count > 0, count <= last
        below, above = strengths.gather(0, lower), strengths.gather(0, upper)
        inside = has_lower & has_upper
        # outside both neighbours are one and the same: no division by the zero between them
        span = torch.where(inside, above - below, 1.0)
        outside = targets / torch.where(has_lower, below, above)
        weight_lower = torch.where(inside, (above - targets) / span, torch.where(has_lower, outside, 0.0))
        weight_upper = torch.where(inside, (targets - below) / span, torch.where(has_lower, 0.0, outside))
        return cls(lower, upper, has_lower, has_upper, weight_lower, weight_upper)

    def below(self, values: Tensor) -> Tensor:
        """Of values ``(k, n, …)`` those at ε⁻, ``(t, n, …)``; zero where there is no ε⁻."""
        return _gather(values, self.lower) * _like(self.has_lower, values)

    def above(self, values: Tensor) -> Tensor:
        """Of values ``(k, n, …)`` those at ε⁺, ``(t, n, …)``; zero where there is no ε⁺."""
        return _gather(values, self.upper) * _like(self.has_upper, values)

    def between(self, at_lower: Tensor, at_upper: Tensor) -> Tensor:
        """Weighted sum ``(t, n, …)`` of what ``below`` and ``above`` gave."""
        return _like(self.weight_lower, at_lower) * at_lower + _like(self.weight_upper, at_upper) * at_upper

    def average(self, values: Tensor) -> Tensor:
        """Values ``(k, n, …)`` interpolated to the targets, ``(t, n, …)``."""
        return self.between(self.below(values), self.above(values))

    def unit_average(self, noises: Tensor, wanted: Tensor) -> Tensor:
        """Noises ``(k, n, c, h, w)`` interpolated to the targets, in units of a root mean square ``(t, n)`` > 0."""
        return self.average(noises) / wanted[..., None, None, None]

    def swapped(self) -> Neighbours:
        """The same with the weights of ε⁻ and ε⁺ exchanged, as eq. 6 prints them."""
        return dataclasses.replace(self, weight_lower=self.weight_upper, weight_upper=self.weight_lower)


def rms(noises: Tensor) -> Tensor:
    """Root mean square of noises ``(…, c, h, w)``: their Euclidean length over √(c·h·w), ``(…)``."""
    return noises.square().mean((-3, -2, -1)).clamp_min(torch.finfo(noises.dtype).tiny).sqrt()


def rescaled(noises: Tensor, size: Tensor) -> Tensor:
    """Noises ``(…, c, h, w)`` of another root mean square ``(…)``; zero stays zero."""
    return noises * (size / rms(noises))[..., None, None, None]


def _gather(values: Tensor, index: Tensor) -> Tensor:
    shaped = _like(index, values)
    return values.gather(0, shaped.expand(*index.shape, *values.shape[2:]))


def _like(value: Tensor, other: Tensor) -> Tensor:
    """``(t, n)`` as ``(t, n, 1, …)``, which goes with ``(t, n, …)``."""
    return value.view(*value.shape, *(1,) * (other.ndim - 2))
