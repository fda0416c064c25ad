"""Estimators of Wsr-NAS: adversarial noise at strengths that no attack made, and losses of unmeasured architectures."""

from evo_robust.estimators.attention import AttentionANE
from evo_robust.estimators.average import AverageANE
from evo_robust.estimators.base import Estimator, NoiseEstimator
from evo_robust.estimators.loss import LossEstimator, LossLearner, LossTraining, ranking
from evo_robust.estimators.maps import MapANE, MapAttentionANE
from evo_robust.estimators.memory import NoiseLearner, NoiseMemory, NoiseTraining
from evo_robust.estimators.noises import real_noises
from evo_robust.estimators.search_loss import SearchLoss
from evo_robust.estimators.strengths import STRENGTHS, Strengths

# every kind is imported here, so that a command line finds it by name wherever the package is used
__all__ = [
    "STRENGTHS",
    "AverageANE",
    "AttentionANE",
    "MapAttentionANE",
    "MapANE",
    "Estimator",
    "LossEstimator",
    "LossLearner",
    "LossTraining",
    "NoiseEstimator",
    "NoiseLearner",
    "NoiseMemory",
    "NoiseTraining",
    "SearchLoss",
    "Strengths",
    "ranking",
    "real_noises",
]
