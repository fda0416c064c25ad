"""Distributions over architectures that gradients move."""

from evo_robust.distributions.base import Distribution, Sampler
from evo_robust.distributions.gumbel import GumbelSoftmax
from evo_robust.distributions.log_normal import LogNormal

__all__ = ["Distribution", "GumbelSoftmax", "LogNormal", "Sampler"]
