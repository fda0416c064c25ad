"""Gradients that move distributions over architectures."""

from evo_robust.gradients.base import ArchitectureGradient, DistributionLearner
from evo_robust.gradients.estimated_loss import EstimatedLoss
from evo_robust.gradients.multiplier import Confidence
from evo_robust.gradients.supernet_loss import SupernetLoss

__all__ = ["ArchitectureGradient", "Confidence", "EstimatedLoss", "DistributionLearner", "SupernetLoss"]
