"""Reference networks, and published genotypes, by name: ``evo_robust.zoo.build("wrn-28-10")``."""

from evo_robust.networks.zoo import build, check_name, names

__all__ = ["build", "check_name", "names"]
