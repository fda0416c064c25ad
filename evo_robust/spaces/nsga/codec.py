"""NSGA-Net phase graphs: bits ⇄ canonical graph ⇄ notation (Lu et al., GECCO 2019, after Xie & Yuille, ICCV 2017)."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence

from evo_robust.spaces.base import InvalidArchitecture


@dataclasses.dataclass(frozen=True)
class PhaseGraph:
    """The connected computation nodes of one active phase.

    Attributes:
        inputs: the nodes that each of the nodes 1..k reads, in topological order; 0 is the phase's input.
        skip: whether the phase's input also goes to the phase's output.
    """

    inputs: tuple[tuple[int, ...], ...]
    skip: bool

    @property
    def n_nodes(self) -> int:
        """Number of nodes k ≥ 2 (a phase with fewer has no connection and is inactive)."""
        return len(self.inputs)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Nodes that no other node reads; the phase's output reads them."""
        read = {source for sources in self.inputs for source in sources}
        return tuple(node for node in range(1, self.n_nodes + 1) if node not in read)


@dataclasses.dataclass(frozen=True)
class PhasesArchitecture:
    """The active phases of a network, in order and in canonical form, so that equal values mean equal networks."""

    phases: tuple[PhaseGraph, ...]


def n_bits(nodes: int) -> int:
    """Bits of a phase of n nodes: n(n−1)/2 connections and one skip."""
    return nodes * (nodes - 1) // 2 + 1


@functools.lru_cache(maxsize=1 << 14)
def decode_phase(bits: bytes) -> PhaseGraph | None:
    """Canonical graph of a phase's bits (one byte each), or None where the phase is inactive.

    Isomorphic graphs give equal values: isolated nodes are dropped, and the others get canonical numbers. In an active
    phase the skip bit is never redundant, since a connection always has nodes between input and output. In an inactive
    phase it is ignored.
    """
    before = connected_nodes(bits)
    return PhaseGraph(canonical_inputs(before), bool(bits[-1])) if before else None


def connected_nodes(bits: bytes) -> tuple[tuple[int, ...], ...]:
    """Predecessors of each node that has a connection, numbered from 0 in the order of the bits."""
    nodes = 1
    while n_bits(nodes) < len(bits):
        nodes += 1
    before = [[j for j in range(i) if bits[i * (i - 1) // 2 + j]] for i in range(nodes)]
    used = sorted({v for i, sources in enumerate(before) if sources for v in (i, *sources)})
    rank = {v: r for r, v in enumerate(used)}
    return tuple(tuple(rank[j] for j in before[v]) for v in used)


def encode_phase(graph: PhaseGraph | None, nodes: int) -> list[int]:
    """Bits of a graph in a phase of n nodes: the graph's nodes come first, and the others are isolated.

    Raises:
        InvalidArchitecture: the graph has more nodes than the phase.
    """
    if graph is None:
        return [0] * n_bits(nodes)
    if graph.n_nodes > nodes:
        raise InvalidArchitecture(f"expected at most {nodes} nodes in a phase, got {graph.n_nodes}")
    inputs = [*graph.inputs, *[()] * (nodes - graph.n_nodes)]
    return [*(int(j in inputs[i - 1]) for i in range(2, nodes + 1) for j in range(1, i)), int(graph.skip)]


# --- canonical numbering ----------------------------------------------------------------------------------------
#
# Individualisation and refinement (McKay). Colours that depend only on structure are refined until they are stable.
# Where nodes still share a colour, each of them in turn gets a colour of its own. If two such choices lead to the same
# graph at their first leaf, an automorphism swaps them, and only one is followed. So symmetric graphs take polynomial
# time, not factorial.

Colours = list[int]
Code = tuple[tuple[int, ...], ...]


def canonical_inputs(before: Sequence[Sequence[int]]) -> Code:
    """Inputs of each node in canonical numbers, which are equal for isomorphic graphs; in topological order.

    Args:
        before: predecessors of nodes 0..k−1, in topological order; no node may be isolated.

    Returns:
        For nodes 1..k, the sorted numbers that each reads; a node without predecessor reads 0, the phase's input.
    """
    graph = _Graph(before)
    depth: Colours = []
    for sources in before:
        depth.append(1 + max((depth[j] for j in sources), default=-1))
    # refining never reorders colours, so sorting by colour sorts by depth, which is a topological order
    return graph.least_code(graph.refine(depth))


class _Graph:
    def __init__(self, before: Sequence[Sequence[int]]) -> None:
        self.before = before
        self.after: list[list[int]] = [[] for _ in before]
        for node, sources in enumerate(before):
            for source in sources:
                self.after[source].append(node)

    def refine(self, colours: Colours) -> Colours:
        """The coarsest stable colouring that is finer than the given one, numbered from 0."""
        n = 0
        while True:
            marks = [
                (c, sorted([colours[j] for j in before]), sorted([colours[j] for j in after]))
                for c, before, after in zip(colours, self.before, self.after, strict=True)
            ]
            order = sorted(range(len(marks)), key=marks.__getitem__)
            colours = [0] * len(marks)
            new, previous = -1, None
            for node in order:
                if marks[node] != previous:
                    new, previous = new + 1, marks[node]
                colours[node] = new
            if new + 1 in (n, len(marks)):
                return colours
            n = new + 1

    def least_code(self, colours: Colours) -> Code:
        """The least code among the leaves below a stable colouring."""
        cell = self._cell(colours)
        if not cell:
            return self._code(colours)
        codes: dict[Code, Code] = {}
        for node in cell:
            child = self._single_out(colours, node)
            first = self._first_leaf(child)
            if first not in codes:
                codes[first] = self.least_code(child)
        return min(codes.values())

    def _first_leaf(self, colours: Colours) -> Code:
        while cell := self._cell(colours):
            colours = self._single_out(colours, cell[0])
        return self._code(colours)

    def _cell(self, colours: Colours) -> list[int]:
        """The nodes of the first colour shared by several nodes; none where all colours differ."""
        if len(set(colours)) == len(colours):
            return []
        shared = min(c for c in colours if colours.count(c) > 1)
        return [node for node, c in enumerate(colours) if c == shared]

    def _single_out(self, colours: Colours, node: int) -> Colours:
        return self.refine([2 * c + (other != node) for other, c in enumerate(colours)])

    def _code(self, number: Colours) -> Code:
        order = sorted(range(len(number)), key=number.__getitem__)
        return tuple(tuple(sorted(number[j] + 1 for j in self.before[node])) or (0,) for node in order)


# --- notation ---------------------------------------------------------------------------------------------------


def phase_to_text(graph: PhaseGraph | None, nodes: int) -> str:
    """NSGA-Net's notation, such as ``[1][01][0]``: a group for each of the nodes 2, 3, …, then the skip bit."""
    bits = "".join(map(str, encode_phase(graph, nodes)))
    groups = [bits[i * (i - 1) // 2 : i * (i + 1) // 2] for i in range(1, nodes)] + [bits[-1]]
    return "".join(f"[{group}]" for group in groups)


def phases_from_text(text: str, phases: int, nodes: int) -> list[int]:
    """Bits of a notation; spaces are ignored, ``/`` or a new line separates phases.

    Raises:
        InvalidArchitecture: the text cannot be read; the message names the phase and what was expected.
    """
    parts = [part for part in re.split(r"[/\n]", re.sub(r"[^\S\n]", "", text.strip())) if part]
    if len(parts) != phases:
        raise InvalidArchitecture(f"expected {phases} phases separated by '/', got {len(parts)} in {text!r}")
    return [bit for number, part in enumerate(parts, 1) for bit in _phase_from_text(part, number, nodes)]


def _phase_from_text(text: str, number: int, nodes: int) -> list[int]:
    if not re.fullmatch(r"(\[[01]*\])+", text):
        raise InvalidArchitecture(f"expected groups of 0 and 1 such as [0][01] in phase {number}, got {text!r}")
    groups = text[1:-1].split("][")
    if len(groups) != nodes:
        raise InvalidArchitecture(
            f"expected {nodes} groups (of nodes 2..{nodes} and the skip bit) in phase {number}, "
            f"got {len(groups)} in {text!r}"
        )
    for i, group in enumerate(groups[:-1], 2):
        if len(group) != i - 1:
            bits = "1 bit" if i == 2 else f"{i - 1} bits"
            raise InvalidArchitecture(f"expected {bits} for node {i} in phase {number}, got [{group}] in {text!r}")
    if len(groups[-1]) != 1:
        raise InvalidArchitecture(f"expected 1 skip bit last in phase {number}, got [{groups[-1]}] in {text!r}")
    return [int(bit) for bit in "".join(groups)]
