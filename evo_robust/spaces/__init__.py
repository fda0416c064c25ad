"""Search spaces: sets of architectures, each with a genome, a notation and networks."""

from evo_robust.spaces.base import InvalidArchitecture, SearchSpace
from evo_robust.spaces.darts.codec import OPERATIONS
from evo_robust.spaces.darts.space import DARTS
from evo_robust.spaces.genome import GenomeSpace
from evo_robust.spaces.nsga.space import NSGAPhases
from evo_robust.spaces.robnet.space import RobNet

__all__ = ["DARTS", "OPERATIONS", "GenomeSpace", "InvalidArchitecture", "NSGAPhases", "RobNet", "SearchSpace"]
