"""What every search space offers: genome ⇄ architecture ⇄ text, and the network of an architecture."""

from __future__ import annotations

import abc
from collections.abc import Hashable
from typing import TYPE_CHECKING

import chz
import numpy as np
from torch import nn

from evo_robust.parts import Part

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Architecture = Hashable
"""A canonical network description: genomes of one and the same network decode to equal values."""


class InvalidArchitecture(ValueError):
    """A genome or a notation that describes no network of this space."""


@chz.chz
class SearchSpace(Part, abc.ABC):
    """A set of architectures with a genome of integers."""

    @property
    @abc.abstractmethod
    def n_choices(self) -> np.ndarray:
        """Number of choices of each gene, int array ``(n_genes,)``; gene i lies in 0..n_choices[i]-1."""

    @property
    @abc.abstractmethod
    def blocks(self) -> tuple[slice, ...]:
        """Groups of genes that crossover inherits as a whole (phases, cells); they cover the genome."""

    @abc.abstractmethod
    def decode(self, genome: np.ndarray) -> Architecture:
        """Canonical architecture of an int array ``(n_genes,)``.

        Raises:
            InvalidArchitecture: the genome is no network of this space.
        """

    @abc.abstractmethod
    def encode(self, architecture: Architecture) -> np.ndarray:
        """A genome ``(n_genes,)`` with ``decode(encode(a)) == a``."""

    @abc.abstractmethod
    def to_text(self, architecture: Architecture) -> str:
        """Readable notation of an architecture; one text per architecture."""

    @abc.abstractmethod
    def from_text(self, text: str) -> Architecture:
        """Architecture of a notation.

        Raises:
            InvalidArchitecture: the text cannot be read, with what was expected.
        """

    @abc.abstractmethod
    def build(self, architecture: Architecture, n_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
        """Network from images ``(n, *in_shape)`` in [0,1] to logits ``(n, n_classes)``; it normalises inside."""

    @abc.abstractmethod
    def draw(self, architecture: Architecture, figure: Figure) -> None:
        """Draw the architecture's graph into an empty matplotlib figure."""

    def repair(self, genome: np.ndarray) -> np.ndarray:
        """The nearest genome that is a network, always the same; the genome itself where it is one."""
        return genome

    def seeds(self) -> tuple[Architecture, ...]:
        """Hand-made architectures that a population may start from."""
        return ()

    def for_final_training(self) -> SearchSpace:
        """The space under which found architectures are trained after the search (deeper, wider)."""
        return self

    @property
    def n_genes(self) -> int:
        """Length of a genome."""
        return len(self.n_choices)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A uniform random genome ``(n_genes,)``, repaired."""
        return self.repair(rng.integers(0, self.n_choices))
