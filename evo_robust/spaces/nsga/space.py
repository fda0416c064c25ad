"""The search space of NSGA-Net and RoCo-NAS: phases of up to n connected computation nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import chz
import numpy as np
from torch import nn

from evo_robust.spaces.base import Architecture, InvalidArchitecture, SearchSpace, check_sizes
from evo_robust.spaces.nsga.codec import (
    PhaseGraph,
    PhasesArchitecture,
    decode_phase,
    encode_phase,
    n_bits,
    phase_to_text,
    phases_from_text,
)
from evo_robust.spaces.nsga.network import Phase, PhasesNetwork
from evo_robust.spaces.structure import Operation, Structure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


FINAL_CHANNELS = 32
"""Initial channels of the networks that RoCo-NAS trains after its search (§IV)."""


@chz.chz
class NSGAPhases(SearchSpace):
    """Networks of phases, each a graph of computation nodes (NSGA-Net, GECCO 2019; RoCo-NAS, 2021).

    Phases without connections are inactive and removed. Nodes with outputs but no inputs read the phase's input; nodes
    with inputs but no outputs go to the phase's output; isolated nodes are dropped. Two architectures are the same when
    their active phases are, in order, isomorphic graphs with the same skip bits. There is a max pool between phases,
    unless only a single pixel is left: 8×8 images pass three phases as 6×6, 3×3 and 1×1.

    Example:
        >>> space = NSGAPhases(phases=1, nodes=3)
        >>> space.to_text(space.decode(np.array([0, 0, 1, 0])))
        '[1][00][0]'
    """

    phases: int = chz.field(default=3, doc="number of phases, >= 1")
    nodes: int = chz.field(default=6, doc="largest number of nodes in a phase, >= 2")
    channels: int = chz.field(default=16, doc="channels of the first active phase; they double from phase to phase")
    decoder: Literal["residual", "dense"] = chz.field(
        default="residual",
        doc="form of a node and of a phase's output: residual (in the search and after it) or dense (as in NSGA-Net's "
        "public code for final networks)",
    )
    dense_channels: int = chz.field(
        default=128,
        doc="channels of every phase of the dense decoder (NSGA-Net: 128), even; a node squeezes its inputs to 2x that "
        "number and outputs half of it",
    )
    all_inactive: Literal["repair", "refuse"] = chz.field(
        default="repair", doc="a genome without any connection: repair (first phase becomes two nodes) or refuse"
    )

    @chz.validate
    def _check_sizes(self) -> None:
        check_sizes(self, phases=1, nodes=2, channels=1, dense_channels=2)
        if self.dense_channels % 2:
            raise ValueError(f"expected an even number of dense_channels, got {self.dense_channels}")

    @property
    def n_choices(self) -> np.ndarray:
        """All 2: a genome is the bits of all phases, ``phases``·(n(n−1)/2 + 1)."""
        return np.full(self.phases * n_bits(self.nodes), 2)

    @property
    def blocks(self) -> tuple[slice, ...]:
        """The bits of each phase."""
        size = n_bits(self.nodes)
        return tuple(slice(i * size, (i + 1) * size) for i in range(self.phases))

    def decode(self, genome: np.ndarray) -> PhasesArchitecture:
        """Canonical architecture of bits ``(n_genes,)``; a genome without connections is repaired or refused.

        Raises:
            InvalidArchitecture: these are no such bits, or no phase is active and ``all_inactive`` is ``refuse``.
        """
        architecture = self._active(genome)
        if not architecture.phases:
            if self.all_inactive == "refuse":
                raise InvalidArchitecture("expected at least one active phase, got a genome without connections")
            architecture = self._active(self.repair(genome))
        return architecture

    def _active(self, genome: np.ndarray) -> PhasesArchitecture:
        genome = np.asarray(genome)
        if genome.shape != (self.n_genes,) or not np.isin(genome, (0, 1)).all():
            raise InvalidArchitecture(f"expected {self.n_genes} genes of 0 or 1, got {genome!r}")
        bits = genome.astype(np.uint8).tobytes()
        graphs = (decode_phase(bits[block]) for block in self.blocks)
        return PhasesArchitecture(tuple(graph for graph in graphs if graph is not None))

    def encode(self, architecture: Architecture) -> np.ndarray:
        """Bits ``(n_genes,)`` of an architecture: active phases come first, and connected nodes first in each.

        Raises:
            InvalidArchitecture: it has no phase, or more phases or nodes than this space.
        """
        bits = [bit for graph in self._padded(architecture) for bit in encode_phase(graph, self.nodes)]
        return np.array(bits, dtype=np.int64)

    def to_text(self, architecture: Architecture) -> str:
        """NSGA-Net's notation: ``[1][00]…[skip] / …``, active phases first, inactive ones all zero."""
        return " / ".join(phase_to_text(graph, self.nodes) for graph in self._padded(architecture))

    def from_text(self, text: str) -> PhasesArchitecture:
        """Canonical architecture of a notation, which need not be canonical; ``/`` or new lines separate phases.

        Raises:
            InvalidArchitecture: the text cannot be read, or none of its phases has a connection (a text is taken
                literally and never repaired).
        """
        architecture = self._active(np.array(phases_from_text(text, self.phases, self.nodes)))
        if not architecture.phases:
            raise InvalidArchitecture(f"expected at least one active phase, got no connection in {text!r}")
        return architecture

    def build(self, architecture: Architecture, n_classes: int, in_shape: tuple[int, int, int]) -> nn.Module:
        """Network from images ``(n, *in_shape)`` in [0,1] to logits ``(n, n_classes)``, weights from torch's generator.

        Raises:
            ValueError: images smaller than 3×3.
        """
        return PhasesNetwork(**self.network_arguments(architecture, n_classes, in_shape))

    def network_arguments(
        self, architecture: Architecture, n_classes: int, in_shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        """Arguments of :class:`PhasesNetwork`, literals whose ``repr`` can be written into a file."""
        return {
            "phases": [(graph.inputs, graph.skip) for graph in self._graphs(architecture)],
            "decoder": self.decoder,
            "channels": self.channels if self.decoder == "residual" else self.dense_channels,
            "n_classes": int(n_classes),
            "in_shape": tuple(int(n) for n in in_shape),
        }

    def draw(self, architecture: Architecture, figure: Figure) -> None:
        """Draw the phases left to right, pools between them."""
        from evo_robust.spaces.nsga.drawing import draw_phases  # matplotlib only where pictures are asked for

        arguments = self.network_arguments(architecture, 1, (1, 3, 3))
        scale = [2**k if self.decoder == "residual" else 1 for k in range(len(arguments["phases"]))]
        draw_phases(figure, self._graphs(architecture), [arguments["channels"] * s for s in scale])

    def repair(self, genome: np.ndarray) -> np.ndarray:
        """The genome itself; where no phase is active (and that is not refused), the genome of node 1 → node 2."""
        if self.all_inactive == "refuse" or self._active(genome).phases:
            return genome
        repaired = np.zeros_like(genome)
        repaired[0] = 1
        return repaired

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """A uniform random genome ``(n_genes,)``, repaired; drawn again where repair is refused."""
        genome = super().sample(rng)
        while not self._active(genome).phases:
            genome = super().sample(rng)
        return genome

    def seeds(self) -> tuple[PhasesArchitecture, ...]:
        """Chains (VGG), chains with skip (ResNet) and full graphs with skip (DenseNet), as in RoCo-NAS §III-C."""
        chain = tuple((node,) for node in range(self.nodes))
        full = ((0,), *(tuple(range(1, node)) for node in range(2, self.nodes + 1)))
        graphs = (PhaseGraph(chain, False), PhaseGraph(chain, True), PhaseGraph(full, True))
        return tuple(dict.fromkeys(PhasesArchitecture((graph,) * self.phases) for graph in graphs))

    @property
    def gene_names(self) -> tuple[str, ...]:
        """Names such as ``phase 1 node 2→3`` for a connection, and ``phase 1 skip``."""
        phase = [f"node {j}→{i}" for i in range(2, self.nodes + 1) for j in range(1, i)] + ["skip"]
        return tuple(f"phase {k + 1} {name}" for k in range(self.phases) for name in phase)

    def structure(self, architecture: Architecture) -> Structure:
        """The structure: one 3×3 convolution per node, from the latest node that it reads; 0 is the phase's input.

        A node that reads the node right before it is direct. Density is the share of the n(n−1)/2 possible connections
        between nodes that are present, over the active phases. Connections to the phase's input and skips do not count.
        """
        graphs = self._graphs(architecture)
        operations = [
            Operation("conv 3x3", k, max(sources), node, convolution=True)
            for k, graph in enumerate(graphs)
            for node, sources in enumerate(graph.inputs, 1)
        ]
        connections = sum(source > 0 for graph in graphs for sources in graph.inputs for source in sources)
        possible = len(graphs) * self.nodes * (self.nodes - 1) // 2
        return Structure(tuple(operations), len(graphs), self.nodes, connections / possible)

    final_recipe: ClassVar[str] = "standard"  # RoCo-NAS trains without attacks

    def cells_of(self, network: nn.Module) -> Sequence[nn.Module]:
        """See :meth:`SearchSpace.cells_of`: the phases, each from one input to its output."""
        return tuple(module for module in network.modules() if isinstance(module, Phase))

    def for_final_training(self) -> NSGAPhases:
        """The same space with RoCo-NAS's 32 initial channels (§IV) instead of 16, as in its search.

        The paper does not name the decoder there. We infer that it is that of the search: the dense decoder of
        NSGA-Net's public code for final networks has no number of initial channels that could be 32.
        """
        return chz.replace(self, channels=FINAL_CHANNELS)

    def decoders(self) -> Mapping[str, SearchSpace]:
        """See :meth:`SearchSpace.decoders`: ``dense`` too."""
        return {**super().decoders(), "dense": self.with_dense_decoder()}

    @property
    def size_words(self) -> str:
        """See :attr:`SearchSpace.size_words`: decoder and channels."""
        channels = self.channels if self.decoder == "residual" else self.dense_channels
        return f"the {self.decoder} network with {channels} channels"

    def without_effect(self) -> Mapping[str, str]:
        """See :meth:`SearchSpace.without_effect`: the width of the decoder that is not used."""
        if self.decoder == "dense":
            return {"channels": "space.dense_channels, for channels do not touch the dense decoder"}
        return {"dense_channels": "decoder=dense with the width of the dense decoder, or space.channels without it"}

    def with_dense_decoder(self) -> NSGAPhases:
        """The same space with the dense decoder of NSGA-Net's public code for final networks."""
        return chz.replace(self, decoder="dense")

    def _graphs(self, architecture: Architecture) -> tuple[PhaseGraph, ...]:
        if not isinstance(architecture, PhasesArchitecture):
            raise InvalidArchitecture(f"expected an architecture of NSGAPhases, got {architecture!r}")
        if not 1 <= len(architecture.phases) <= self.phases:
            raise InvalidArchitecture(f"expected 1 to {self.phases} active phases, got {len(architecture.phases)}")
        return architecture.phases

    def _padded(self, architecture: Architecture) -> list[PhaseGraph | None]:
        graphs = self._graphs(architecture)
        return cast("list[PhaseGraph | None]", [*graphs, *[None] * (self.phases - len(graphs))])
