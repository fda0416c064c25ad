"""RobNet's α: the notation of a cell's edges, and which of them can reach the network's output.

Keep this module to the standard library: ``export`` copies what it needs of it into stand-alone files.

An α is one code per edge, in the order e0, e1, …: bit 1 (value 2) is the identity, bit 0 (value 1) the convolution. So
``10`` is 2 and ``01`` is 1. Node 0 is the output of cell k−2, node 1 that of cell k−1; the other nodes are computed.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from evo_robust.spaces.cells.layout import edges_of, n_edges

IDENTITY, CONVOLUTION = 2, 1

Alpha = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class RobNetArchitecture:
    """α of the live edges: one code per edge, either for all cells or for each cell.

    Attributes:
        cells: one α (shared cells) or one per cell; codes as in the module's docstring.
    """

    cells: tuple[Alpha, ...]


def alpha_to_text(alpha: Alpha) -> str:
    """Two characters per edge, identity bit first: ``11 10 00 …``."""
    return " ".join(f"{code:02b}" for code in alpha)


def alpha_from_text(text: str, nodes: int) -> Alpha:
    """The α of a notation. It may have ``|`` between the edges of nodes, and a number such as ``3:`` in front.

    Raises:
        ValueError: the text is not one pair of 0 and 1 per edge.

    Example:
        >>> alpha_from_text("11 10 | 00 01 00", nodes=2)
        (3, 2, 0, 1, 0)
    """
    pairs = re.sub(r"^\s*\d+\s*:", "", text).replace("|", " ").split()
    expected = n_edges(nodes)
    wrong = next((pair for pair in pairs if not re.fullmatch("[01]{2}", pair)), None)
    if wrong is not None:
        raise ValueError(f"expected pairs of 0 and 1 such as 11 10 01 00, got {wrong!r} in {text.strip()!r}")
    if len(pairs) != expected:
        raise ValueError(f"expected {expected} pairs for {nodes} nodes, got {len(pairs)} in {text.strip()!r}")
    return tuple(int(pair, 2) for pair in pairs)


def live_cell(alpha: Alpha, nodes: int, inputs: tuple[bool, bool] = (True, True)) -> Alpha:
    """α without the edges that carry nothing. A node without live inputs is zero, and so are the edges that leave it.

    Args:
        alpha: the cell's codes.
        nodes: number of its intermediate nodes.
        inputs: for nodes 0 and 1, whether their values can differ from zero.
    """
    live = [*inputs, *[False] * nodes]
    kept = []
    for code, (source, target) in zip(alpha, edges_of(nodes), strict=True):
        code = code if live[source] else 0
        live[target] = live[target] or code > 0
        kept.append(code)
    return tuple(kept)


def live_cells(alphas: Sequence[Alpha], nodes: int) -> tuple[Alpha, ...]:
    """α of every cell of a network, without operations that cannot reach its output.

    A cell without a path outputs zero, so edges that read it are removed. A cell whose output no other cell reads is
    emptied. If the last cell is all zero, this is no network: its logits would not depend on the image.
    """
    forward: list[Alpha] = []
    carries = [True, True]  # both outputs of the stem
    for alpha in alphas:
        forward.append(live_cell(alpha, nodes, (carries[-2], carries[-1])))
        carries.append(any(forward[-1]))
    return tuple(_read_cells(forward, nodes))


def _read_cells(alphas: list[Alpha], nodes: int) -> list[Alpha]:
    """The cells; those that no later cell reads are emptied."""
    sources = [source for source, _ in edges_of(nodes)]
    read = [*[False] * (len(alphas) - 1), True]
    kept = list(alphas)
    for cell in reversed(range(len(alphas))):
        if not read[cell]:
            kept[cell] = (0,) * len(alphas[cell])
            continue
        for back in (1, 2):  # node 1 is the cell before, node 0 the one before that
            used = any(code and source == 2 - back for code, source in zip(alphas[cell], sources, strict=True))
            if used and cell >= back:
                read[cell - back] = True
    return kept
