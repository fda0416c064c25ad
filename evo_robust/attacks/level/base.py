"""The contract of attacks at a level: a number of pixels (L0) or of grey steps (L∞) that may change."""

from __future__ import annotations

import abc
import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import chz
import torch
from torch import Tensor, nn

from evo_robust.attacks.base import check_norm
from evo_robust.parts.base import Part

LevelNorm = Literal["l0", "linf"]

MARGIN = 1e-4
"""Least margin in logits of a wrong class; with a smaller one, another batch size or processor may round otherwise."""


@dataclasses.dataclass(frozen=True)
class LevelResult:
    """The result of a level attack.

    Attributes:
        x_adv: images ``(n, c, h, w)``, multiples of 1/255 in [0,1], within the level; unchanged without success.
        success: bool ``(n,)``; False for images that were misclassified before the attack.
        queries: number of candidates that the network classified, int64 ``(n,)``; 0 for images that were not attacked.
    """

    x_adv: Tensor
    success: Tensor
    queries: Tensor


@dataclasses.dataclass(frozen=True)
class LadderResult:
    """The result of a level attack at several ascending levels.

    Attributes:
        x_adv: images ``(n, c, h, w)``, multiples of 1/255 in [0,1]; what broke each image at its smallest level, and
            the image itself where no level did.
        reached: index of the smallest level that broke each image, int64 ``(n,)``; the number of levels where none
            did, as for images that were misclassified before the attack; what was known before where that is less.
        queries: number of images that the network classified for each, int64 ``(n,)``, all levels together.
    """

    x_adv: Tensor
    reached: Tensor
    queries: Tensor


@chz.chz
class LevelAttack(Part, abc.ABC):
    """An attack within a level: a number of pixels or of grey steps."""

    norm: LevelNorm = chz.field(default="l0", doc="l0: `level` pixels may change; linf: all values by ± `level` of 255")
    level: int = chz.field(default=1, doc="number of pixels (l0) or of grey steps (linf), ≥ 1")

    @chz.validate
    def _sensible_level(self) -> None:
        check_norm(self.norm, self.norms())
        check_level(self.level, self.norm)

    @classmethod
    def norms(cls) -> tuple[LevelNorm, ...]:
        """Norms that it knows."""
        return get_args(LevelNorm)

    @property
    def access(self) -> str:
        """What it needs of the network, in words: ``black-box by queries`` (its logits) unless it says otherwise."""
        return "black-box by queries"

    @abc.abstractmethod
    def perturb_levels(self, model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> LevelResult:
        """Attack images ``(n, c, h, w)`` in [0,1], multiples of 1/255, with true classes ``y`` int64 ``(n,)``.

        The model's mode, running statistics and gradients do not change.

        Raises:
            ValueError: images are not multiples of 1/255 in [0,1], shapes differ, labels or network are wrong, or the
                images have fewer pixels than the level.
        """

    def ladder(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        levels: Sequence[int],
        generator: torch.Generator,
        known: Tensor | None = None,
    ) -> LadderResult:
        """Attack at ascending levels, each time only what the levels below left unbroken; ``level`` is not used.

        Args:
            model: network from images in [0,1] to logits.
            x: images ``(n, c, h, w)`` in [0,1], multiples of 1/255.
            y: true classes, int64 ``(n,)``.
            levels: numbers of pixels or of grey steps, ascending.
            generator: source of all random numbers.
            known: index of a level that is known to break each image, int64 ``(n,)``, below 0 for images that are
                misclassified without attack: only smaller levels are attacked. None where nothing is known.

        Raises:
            ValueError: the levels do not ascend, or one is refused; else as for :meth:`perturb_levels`.
        """
        check_levels(levels, self.norm)
        reached, found = start_of_ladder(y, levels, known), x.clone()
        queries = torch.zeros_like(y)
        for k, level in enumerate(levels):
            left = (reached > k).nonzero().squeeze(1)
            if len(left) == 0:
                break
            result = chz.replace(self, level=level).perturb_levels(model, x[left], y[left], generator)
            queries[left] += result.queries
            hit = left[result.success]
            found[hit], reached[hit] = result.x_adv[result.success], k
        return LadderResult(found, reached, queries)


def check_level(level: int, norm: LevelNorm) -> None:
    """Refuse a level below 1, or more than 255 grey steps.

    Raises:
        ValueError: the level is refused.
    """
    if level < 1 or (norm == "linf" and level > 255):
        raise ValueError(f"expected level >= 1 (and <= 255 for linf), got {level}")


def check_levels(levels: Sequence[int], norm: LevelNorm) -> None:
    """Refuse levels that do not ascend, or none at all.

    Raises:
        ValueError: the levels are refused.
    """
    for level in levels:
        check_level(level, norm)
    if not levels or any(low >= high for low, high in itertools.pairwise(levels)):
        raise ValueError(f"expected distinct levels in ascending order, such as (1, 3, 5, 10), got {tuple(levels)}")


def start_of_ladder(y: Tensor, levels: Sequence[int], known: Tensor | None) -> Tensor:
    """Indices of levels before an attack, int64 ``(n,)``: those known, or the number of levels.

    Raises:
        ValueError: ``known`` has another shape or type than the classes ``y``.
    """
    if known is None:
        return torch.full_like(y, len(levels))
    if known.shape != y.shape or known.dtype != torch.int64:
        raise ValueError(f"expected known levels int64 ({len(y)},), got {known.dtype} {tuple(known.shape)}")
    return known.clone()


def check_pixels(level: int, x: Tensor) -> None:
    """Refuse more pixels than the images ``(n, c, h, w)`` have.

    Raises:
        ValueError: the level is refused.
    """
    rows, columns = x.shape[2:]
    if level > rows * columns:
        raise ValueError(f"expected level <= {rows * columns} pixels of the image, got {level}")


def to_pixels(x: Tensor) -> Tensor:
    """Images ``(n, c, h, w)`` in [0,1] as uint8, of the same shape.

    Raises:
        ValueError: a value is no multiple of 1/255 in [0,1].
    """
    scaled = x.detach() * 255
    pixels = scaled.round()
    if not bool(((scaled - pixels).abs() < 1e-2).all() & (pixels >= 0).all() & (pixels <= 255).all()):
        raise ValueError("expected images in [0,1] that are multiples of 1/255, got other values")
    return pixels.to(torch.uint8)
