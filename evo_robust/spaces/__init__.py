"""Search spaces: sets of architectures, each with a genome, a notation and networks."""

from evo_robust.spaces.base import InvalidArchitecture, SearchSpace
from evo_robust.spaces.darts import DARTS
from evo_robust.spaces.darts_codec import OPERATIONS
from evo_robust.spaces.nsga_phases import NSGAPhases
from evo_robust.spaces.robnet import RobNet

__all__ = ["DARTS", "OPERATIONS", "InvalidArchitecture", "NSGAPhases", "RobNet", "SearchSpace"]
