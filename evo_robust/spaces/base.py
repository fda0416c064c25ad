"""The contract of search spaces: genome ⇄ architecture ⇄ text, and the network of an architecture."""

from __future__ import annotations

import abc
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import chz
import numpy as np
from torch import nn

from evo_robust.parts.base import Part, refuse_unless
from evo_robust.spaces.structure import Budget, Structure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evo_robust.spaces.supernet import Supernet

# genomes drawn for one of a wanted budget before giving up
_PATIENCE = 20_000

LARGEST = {"channels": 4096, "layers": 200, "nodes": 20, "phases": 10}
"""Upper bounds of a space's sizes: far above those of the papers, but small enough that no network is too large."""

Architecture = Hashable
"""A canonical description of a network: genomes of the same network decode to equal values."""


class InvalidArchitecture(ValueError):
    """A genome or a notation that describes no network of this space."""


def check_sizes(space: SearchSpace, **least: int) -> None:
    """Raise ``ValueError`` where a size of ``space`` is below its least value or beyond the ``LARGEST`` of its kind."""
    for name, at_least in least.items():
        at_most = LARGEST[name.rpartition("_")[2]]
        refuse_unless(space, (name, at_least <= getattr(space, name) <= at_most, f"in {at_least}..{at_most}"))


@chz.chz
class SearchSpace(Part, abc.ABC):
    """A set of architectures with a genome of integers."""

    shares_weights: ClassVar[bool] = False
    """Whether the space has a supernet, so that candidates can inherit weights."""

    @property
    @abc.abstractmethod
    def n_choices(self) -> np.ndarray:
        """Number of choices of each gene, int array ``(n_genes,)``; gene i lies in 0..n_choices[i]-1.

        A tuple or list of whole numbers serves as well.
        """

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
        """Network from images ``(n, *in_shape)`` in [0,1] to logits ``(n, n_classes)``; it normalises inside.

        Raises:
            ValueError: the space builds no network for such images.
        """

    def network_arguments(
        self, architecture: Architecture, n_classes: int, in_shape: tuple[int, int, int]
    ) -> dict[str, Any] | None:
        """Keyword arguments from which the class of ``build``'s network makes that network, with fresh weights.

        They are literals: numbers, text, tuples, lists and dictionaries of such, since ``export`` writes them into
        ``model.py``. None where a space cannot say; then no ``model.py`` is written.
        """
        return None

    def cells_of(self, network: nn.Module) -> Sequence[nn.Module]:
        """The cells of a network of this space, in order of depth; none where it has no such parts.

        What a cell does is compared between images (:class:`FSPDistance`): each takes one or more tensors
        ``(n, c, h, w)``, None for zero, the last one its main input, and returns one such tensor, or None for zero.

        Args:
            network: of ``build`` or, where weights are shared, of ``supernet``.
        """
        return ()

    @abc.abstractmethod
    def draw(self, architecture: Architecture, figure: Figure) -> None:
        """Draw the architecture's graph into an empty matplotlib figure.

        Args:
            architecture: any of this space.
            figure: a figure or subfigure without axes, 10 inches wide and about 2 high; its heading is the caller's.
        """

    def repair(self, genome: np.ndarray) -> np.ndarray:
        """The nearest genome that is a network, always the same; the genome itself where it is one."""
        return genome

    def seeds(self) -> tuple[Architecture, ...]:
        """Hand-made architectures of this space for the first population; none by default."""
        return ()

    final_recipe: ClassVar[str] = "pgd"
    """Name of the recipe that found architectures are trained by after the search, where nothing else is said."""

    def for_final_training(self) -> SearchSpace:
        """The space under which found architectures are trained after the search (deeper, wider).

        It reads the notation of every architecture of this space. By default it is this space itself.
        """
        return self

    def decoders(self) -> Mapping[str, SearchSpace]:
        """Spaces that read the same architectures as networks of another size or kind, by the name that people type.

        ``retrain decoder=NAME`` takes one of them: ``final``, its default, is :meth:`for_final_training`, and
        ``search`` is this space itself. A subclass may add others.
        """
        return {"final": self.for_final_training(), "search": self}

    @property
    def size_words(self) -> str:
        """Its networks in a few words, with their size where that can be chosen."""
        return f"a network of {type(self).__name__}"

    def without_effect(self) -> Mapping[str, str]:
        """Fields that have no effect with the other fields as they are; for each, what was expected, in words."""
        return {}

    @property
    def n_genes(self) -> int:
        """Length of a genome."""
        return len(self.n_choices)

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A uniform random genome ``(n_genes,)``, repaired."""
        return self.repair(rng.integers(0, self.n_choices))

    # --- for studies ------------------------------------------------------------------------------------------------

    @property
    def gene_names(self) -> tuple[str, ...]:
        """A readable name of each of the ``n_genes`` genes, such as ``e3 conv``; all differ."""
        return tuple(f"gene {i}" for i in range(self.n_genes))

    def structure(self, architecture: Architecture) -> Structure | None:
        """What the architecture is made of; None, for all architectures, where the space cannot tell.

        Studies of density and budget classes need it, and ``algorithm.budgets`` of a random search. For example, of a
        chain of convolutions with a pool after some of them::

            operations = tuple(Operation("conv", 0, i, i + 1, True) for i in range(len(architecture)))
            return Structure(operations, cells=1, places=self.layers, density=len(operations) / self.layers)
        """
        return None

    def genome_density(self, genome: np.ndarray) -> float | None:
        """Share in [0, 1] of the possible operations that a genome asks for, those that carry nothing counted too.

        None where genes do not stand for operations one by one. The density of the network itself, without what
        carries nothing, is that of :meth:`structure`.
        """
        return None

    def sample_in(self, rng: np.random.Generator, budget: Budget) -> np.ndarray:
        """A random genome ``(n_genes,)`` of an architecture whose budget class is ``budget``.

        Raises:
            ValueError: the space has no budget classes, or such an architecture is too rare to be met by chance.
        """
        for _ in range(_PATIENCE):
            genome = self.sample(rng)
            try:
                structure = self.structure(self.decode(genome))
            except InvalidArchitecture:
                continue  # a space may refuse a genome; try the next one
            if structure is None:
                raise ValueError(f"{type(self).__name__} has no budget classes: its structure() gives None")
            if structure.budget == budget:
                return genome
        raise ValueError(f"none of {_PATIENCE} random architectures of {type(self).__name__} has a {budget} budget")

    # --- shared weights ---------------------------------------------------------------------------------------------

    def supernet(self, n_classes: int, in_shape: tuple[int, int, int]) -> Supernet:
        """Network that holds every operation of the space, of which a forward pass runs those of one architecture.

        Its parameters and buffers bear the names that they have in ``build(architecture)``, so that a candidate
        inherits its weights by name. Only where ``shares_weights``.

        Args:
            n_classes: number of classes, >= 2.
            in_shape: of the images, ``(c, h, w)``.

        Returns:
            A network from images ``(n, c, h, w)`` in [0,1] to logits ``(n, n_classes)``, on the CPU, with fresh weights
            from torch's global generator. ``choose`` is called before each forward pass of another path.

        Raises:
            ValueError: the space shares no weights, or builds no network for such images.
        """
        raise ValueError(f"{type(self).__name__} shares no weights: it has no supernet")

    def supernet_arguments(self, n_classes: int, in_shape: tuple[int, int, int]) -> dict[str, Any] | None:
        """Literals that say which operations the supernet holds, where the largest network does not hold them all.

        They are part of the name under which a trained supernet is kept. None where the arguments of the largest
        network say it.
        """
        return None

    def draw_path(self, rng: np.random.Generator, keep: float = 0.5) -> Architecture:
        """A random architecture for a step of supernet training (path dropout).

        Args:
            rng: source of randomness.
            keep: probability in (0, 1] that an operation stays, where the space has operations to drop.
        """
        return self.decode(self.sample(rng))

    def largest(self) -> Architecture:
        """The architecture with most operations, the supernet's upper end. Only where ``shares_weights``."""
        raise ValueError(f"{type(self).__name__} shares no weights: it has no largest path")

    def draw_smallest(self, rng: np.random.Generator) -> Architecture:
        """A random one of the architectures with fewest operations. Only where ``shares_weights``."""
        raise ValueError(f"{type(self).__name__} shares no weights: it has no smallest path")

    # --- mixtures of operations -------------------------------------------------------------------------------------

    @property
    def mixture_shape(self) -> tuple[int, int, int] | None:
        """(cells, edges, operations) of the weights of a mixture; None where operations cannot be mixed.

        Cells are those that are described: 2 (normal, reduction), or 1 where they are shared.
        """
        return None

    @property
    def mixture_operations(self) -> tuple[str, ...]:
        """Name of each of a mixture's operations, in their order. Only where there is a ``mixture_shape``."""
        raise ValueError(f"{type(self).__name__} mixes no operations: it has no names of them")

    @property
    def mixed_channels(self) -> int:
        """K where one channel in K goes through a mixture's operations and the rest passes by; 1 where all do."""
        return 1

    def mixture_edges(self) -> list[tuple[int, int]]:
        """(source, target) node of every edge of a mixture. Only where there is a ``mixture_shape``."""
        raise ValueError(f"{type(self).__name__} mixes no operations: it has no edges that are weighed")

    @property
    def mixture_choices(self) -> np.ndarray:
        """Which of a mixture's operations an architecture may have, bool ``(operations,)``."""
        raise ValueError(f"{type(self).__name__} mixes no operations")

    def cell_descriptions(self, network: nn.Module) -> list[int]:
        """For every cell of a network which of the cells of ``mixture_shape`` it follows, from 0.

        Only with a ``mixture_shape``.

        Args:
            network: of ``build`` or ``supernet``.
        """
        raise ValueError(f"{type(self).__name__} mixes no operations: no description of cells is shared")

    def derive(self, weights: np.ndarray) -> Architecture:
        """The architecture that weights stand for. Only with a ``mixture_shape``.

        Args:
            weights: float array of ``mixture_shape``, >= 0, or logarithms of such: only their order counts.

        Raises:
            ValueError: the space mixes no operations; the weights have another shape, or are no numbers.
        """
        raise ValueError(f"{type(self).__name__} mixes no operations: nothing can be derived from weights")

    def weights_of(self, architecture: Architecture) -> np.ndarray:
        """Weights ``(cells, edges, operations)``, 1 for what runs and 0 elsewhere. Only with a ``mixture_shape``.

        ``derive(weights_of(a)) == a``.

        Returns:
            Float array of ``mixture_shape``.

        Raises:
            ValueError: the space mixes no operations, or the architecture is none of this space.
        """
        raise ValueError(f"{type(self).__name__} mixes no operations: an architecture has no weights")
