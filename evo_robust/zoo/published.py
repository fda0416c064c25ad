"""Networks that papers found by their searches, as entries of the zoo."""

from __future__ import annotations

from torch import nn

from evo_robust.spaces.cells.network import CellNetwork
from evo_robust.spaces.darts import genotypes as darts_genotypes
from evo_robust.spaces.darts.network import DARTSNetwork
from evo_robust.spaces.darts.space import DARTS
from evo_robust.spaces.nsga import genotypes as nsga_genotypes
from evo_robust.spaces.nsga.network import Phase, PhasesNetwork
from evo_robust.spaces.nsga.space import FINAL_CHANNELS, NSGAPhases
from evo_robust.spaces.robnet import genotypes as robnet_genotypes
from evo_robust.spaces.robnet.network import RobNetNetwork
from evo_robust.spaces.robnet.space import RobNet
from evo_robust.zoo.plan import Depth, Entry, Plan


def stages_of_space(network: nn.Module) -> tuple[str, ...]:
    """Dotted names of the modules with which stages end: phases, or the last cell before each reduction.

    An empty tuple where the network is of another space.
    """
    if isinstance(network, PhasesNetwork):
        return tuple(name for name, module in network.named_modules() if isinstance(module, Phase))
    if isinstance(network, CellNetwork):
        ends = [index - 1 for index in network.reductions if index > 0]
        return tuple(f"cells.{index}" for index in (*ends, len(network.cells) - 1))
    return ()


def cell_names(network: nn.Module) -> tuple[str, ...]:
    """Dotted names of the cells; none where the network has none."""
    if isinstance(network, CellNetwork):
        return tuple(f"cells.{index}" for index in range(len(network.cells)))
    return ()


def _robnet(published: robnet_genotypes.PublishedRobNet, words: str) -> Entry:
    shared = len(published.alphas) == 1

    def build(plan: Plan) -> nn.Module:
        space = RobNet(
            cells="shared" if shared else "free",
            channels=plan.scaled(plan.channels),
            layers=plan.layers or published.layers,
            nodes=robnet_genotypes.NODES,
        )
        architecture = space.from_text("/".join(published.alphas))
        arguments = space.network_arguments(architecture, plan.n_classes, plan.in_shape)
        return RobNetNetwork(**{**arguments, "large_images": plan.large})

    # a cell-free network has an α for each of its cells, so no other number of them
    return Entry(words, build, stages_of_space, published.channels, Depth(published.layers) if shared else None)


def _darts(published: darts_genotypes.PublishedDARTS) -> Entry:
    def build(plan: Plan) -> nn.Module:
        space = DARTS(channels=plan.scaled(plan.channels), layers=plan.layers, final=True)
        architecture = space.from_text(published.text)
        arguments = space.network_arguments(architecture, plan.n_classes, plan.in_shape)
        return DARTSNetwork(**{**arguments, "large_images": plan.large})

    return Entry(published.source, build, stages_of_space, published.channels, Depth(darts_genotypes.LAYERS))


def _phases(text: str) -> Entry:
    def build(plan: Plan) -> nn.Module:
        space = NSGAPhases(channels=plan.scaled(plan.channels))
        return space.build(space.from_text(text), plan.n_classes, plan.in_shape)

    words = "RoCo-NAS, Table V (Geraeinejad et al. 2021)"
    return Entry(words, build, stages_of_space, FINAL_CHANNELS, stems=False)


_ROBNET = "RobNet (Guo et al., CVPR 2020)"

GENOTYPES: dict[str, Entry] = {
    **{f"robnet-{name}": _robnet(found, _ROBNET) for name, found in robnet_genotypes.PUBLISHED.items()},
    "robnet-medium": _robnet(
        robnet_genotypes.MEDIUM, f"{_ROBNET}: of the size of its medium network, whose cell was never published"
    ),
    **{name: _darts(found) for name, found in darts_genotypes.PUBLISHED.items()},
    **{name: _phases(text) for name, text in nsga_genotypes.PUBLISHED.items()},
}
"""Entries by name. They normalise by themselves, as all networks of search spaces do."""
