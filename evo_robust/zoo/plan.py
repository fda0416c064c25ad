"""What a builder of the zoo is asked for, and which choices a network leaves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import nn

from evo_robust.parts.base import Shape

SMALL_SIDE = 64
"""Largest image side, in pixels, that gets the stem for small images where none is asked for."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The sizes of one network.

    Attributes:
        n_classes: number of logits, >= 2.
        in_shape: ``(c, h, w)`` of the images.
        channels: channels that the network's own definition starts from, before ``width``.
        layers: its depth; 0 where the name fixes it.
        large: whether it begins with the stem for large images.
        width: multiplies every number of channels.
    """

    n_classes: int
    in_shape: Shape
    channels: int
    layers: int
    large: bool
    width: float

    def scaled(self, channels: int) -> int:
        """A number of channels times the width, rounded, at least 1."""
        return max(1, round(channels * self.width))


@dataclasses.dataclass(frozen=True)
class Depth:
    """The depths that a network can have: ``step``·n + ``rest``, n >= 1.

    Attributes:
        usual: the depth that its name means.
        step: what one more block per stage adds.
        rest: layers outside of blocks.
    """

    usual: int
    step: int = 1
    rest: int = 0

    def fits(self, layers: int) -> bool:
        """Whether there is such a depth."""
        return layers >= self.step + self.rest and (layers - self.rest) % self.step == 0

    def words(self) -> str:
        """The depths in words."""
        if self.step == 1:
            return ">= 1"
        few = ", ".join(str(self.step * n + self.rest) for n in range(1, 5))
        return f"of {self.step}n+{self.rest} ({few}, …)"


@dataclasses.dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        words: what it is, in a few words.
        build: makes it.
        stages: dotted names of the modules with which its stages end.
        channels: the channels that its name means; None where they cannot be chosen.
        depth: the depths that it can have; None where its name fixes it.
        stems: whether it has one stem for small and one for large images.
    """

    words: str
    build: Callable[[Plan], nn.Module]
    stages: Callable[[nn.Module], tuple[str, ...]]
    channels: int | None
    depth: Depth | None = None
    stems: bool = True

    def choices(self) -> str:
        """What can be chosen beside the name, with the values that it means by itself; empty where nothing can."""
        found = {"channels": self.channels, "layers": self.depth.usual if self.depth else None}
        words = [f"{key}={value}" for key, value in found.items() if value is not None]
        return " ".join([*words, *(["stem=auto"] if self.stems else [])])
